//! Names of repositories, tags and digests: what the grammars allow, and what they do not.

use crate::registry::answer::Verdict;
use crate::registry::check::{Section, must, sound};
use crate::registry::checks::pushing_manifests::there;
use crate::registry::content::{Algorithm, Blob, Manifest, word};
use crate::registry::lab::Lab;

const DIGESTS: &str = "image-spec, Descriptors, Digests";

pub(super) const SECTION: Section = Section {
    name: "names",
    heading: "distribution-spec, Pull, Pulling manifests (the grammars of name and tag)",
    checks: &[
        must(
            "name-with-separators",
            "one . or _, two __ and any number of - separate letters and digits",
            separators,
        ),
        must("name-of-digits", "a name may be made of digits, or of one letter", short),
        must("name-nested", "a name may have many parts", nested),
        must("name-long", "a name of 200 characters is taken", long),
        must("name-upper-case", "upper case is refused", upper_case),
        must(
            "name-wrong-separators",
            "separators at the ends, doubled dots, three ___ and mixed ones are refused",
            wrong,
        ),
        must(
            "name-other-characters",
            "what is no letter, digit or separator is refused, encoded or not",
            characters,
        ),
        must("name-empty-part", "an empty part is refused", empty_part),
        sound("name-climbing", "names that climb out of their folder are refused, encoded or not", climbing),
        sound("name-too-long", "a name of 5,000 characters is refused", too_long),
        must("tag-of-every-character", "a tag may have letters, digits, _, . and -", tag_characters),
        must("tag-of-128", "a tag of 128 characters is taken", tag_long),
        must("tag-of-129", "a tag of 129 characters is refused", tag_too_long),
        must("tag-malformed", "a tag that begins with . or - or has other characters is refused", tag_wrong),
        sound("tag-like-a-word-of-a-path", "tags such as manifests, blobs and list are tags", tag_words),
        sound(
            "name-like-a-word-of-a-path",
            "parts of names such as manifests and tags are parts of names",
            name_words,
        ),
        must("digest-malformed-blob", "a malformed digest gets no blob: 400 or 404", malformed_blob)
            .from(DIGESTS),
        must(
            "digest-malformed-manifest",
            "a malformed digest gets no manifest: 400 or 404",
            malformed_manifest,
        )
        .from(DIGESTS),
        must("digest-upper-case", "hex digits in upper case are no digest", digest_upper_case)
            .from("image-spec, Descriptors, SHA-256"),
        sound(
            "digest-of-unknown-algorithm",
            "a digest of an unknown algorithm gets nothing: 400 or 404",
            unknown,
        )
        .from(DIGESTS),
    ],
};

/// A repository of this name takes an image and gives it back.
fn works(lab: &Lab<'_>, rest: &str) -> Verdict {
    let lab = lab.other(rest);
    let manifest = lab.tagged("a")?;
    there(&lab, "a", &manifest)
}

fn separators(lab: &Lab<'_>) -> Verdict {
    let word = word();
    for rest in ["a.b_c-d", "a__b", "a---b", "a-b.c/d_e"] {
        works(lab, &format!("{word}/{rest}"))?;
    }
    Ok(())
}

fn short(lab: &Lab<'_>) -> Verdict {
    let word = word();
    works(lab, &format!("{word}/0"))?;
    works(lab, &format!("{word}/x"))?;
    works(lab, &format!("{word}/123/4"))
}

fn nested(lab: &Lab<'_>) -> Verdict {
    works(lab, &format!("{}/a/b/c/d/e/f/g/h/i/j/k/l/m/n", word()))
}

fn long(lab: &Lab<'_>) -> Verdict {
    let prefix = lab.name.split('/').next().unwrap_or_default().len();
    works(lab, &format!("{}/{}", word(), "x".repeat(200 - prefix - 14)))
}

/// No upload begins in a repository of such a name, and nothing is read from it.
fn refused(lab: &Lab<'_>, names: &[&str]) -> Verdict {
    for name in names {
        let lab = lab.other(name);
        lab.ask("POST", "blobs/uploads/").send()?.is(&[400, 404, 414, 431])?;
        let manifest = Manifest::raw(Algorithm::Sha256, crate::registry::content::INDEX, EMPTY_INDEX);
        lab.send(&manifest, "a")?.is(&[400, 404, 414, 431])?;
        lab.get_manifest("a")?.is(&[400, 404, 414, 431])?;
        lab.get("tags/list")?.is(&[400, 404, 414, 431])?;
    }
    Ok(())
}

const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn upper_case(lab: &Lab<'_>) -> Verdict {
    refused(lab, &["Upper", "aB/c", "a/B"])
}

fn wrong(lab: &Lab<'_>) -> Verdict {
    refused(lab, &["-a", "a-", "_a", "a_", ".a", "a.", "a..b", "a___b", "a._b", "a/-b", "a-/b"])
}

fn characters(lab: &Lab<'_>) -> Verdict {
    refused(lab, &["a%20b", "a+b", "a~b", "a@b", "a:b", "a%C3%A9", "a%5Cb", "a%00b", "a%0Ab", "a*", "a%2541"])
}

fn empty_part(lab: &Lab<'_>) -> Verdict {
    // Some servers redirect to the path without the empty part, and that is another repository.
    for name in ["a//b", "a%2F%2Fb"] {
        let lab = lab.other(name);
        lab.ask("POST", "blobs/uploads/").send()?.is(&[301, 307, 308, 400, 404])?;
    }
    Ok(())
}

fn climbing(lab: &Lab<'_>) -> Verdict {
    for name in [
        "../../etc",
        "a/../../b",
        "%2e%2e/%2e%2e/etc",
        "a%2f..%2f..%2fb",
        "..%5c..%5cb",
        "a/./b",
        "..",
        "a/%2e",
    ] {
        let lab = lab.other(name);
        let answer = lab.ask("POST", "blobs/uploads/").send()?;
        answer.is(&[301, 307, 308, 400, 404, 405])?;
        lab.get("tags/list")?.is(&[301, 400, 404])?;
        lab.get("blobs/../../../../etc/passwd")?.is(&[301, 400, 404])?;
    }
    Ok(())
}

fn too_long(lab: &Lab<'_>) -> Verdict {
    refused(lab, &[&"x".repeat(5000), "x/".repeat(2500).trim_end_matches('/')])
}

fn tags_work(lab: &Lab<'_>, tags: &[&str]) -> Verdict {
    for tag in tags {
        let manifest = lab.tagged(tag)?;
        there(lab, tag, &manifest)?;
    }
    Ok(())
}

fn tag_characters(lab: &Lab<'_>) -> Verdict {
    tags_work(lab, &["A.b-C_9", "_", "0", "__.--..", "Z"])
}

fn tag_long(lab: &Lab<'_>) -> Verdict {
    tags_work(lab, &[&"t".repeat(128)])
}

fn tags_refused(lab: &Lab<'_>, tags: &[&str]) -> Verdict {
    let manifest = Manifest::of(&lab.image()?);
    for tag in tags {
        lab.send(&manifest, tag)?.is(&[400, 404, 405, 414])?;
        lab.get_manifest(tag)?.is(&[400, 404])?;
    }
    lab.get_manifest(&manifest.digest)?.is(&[404])?;
    Ok(())
}

fn tag_too_long(lab: &Lab<'_>) -> Verdict {
    tags_refused(lab, &[&"t".repeat(129), &"t".repeat(3000)])
}

fn tag_wrong(lab: &Lab<'_>) -> Verdict {
    tags_refused(lab, &[".a", "-a", "a%20b", "a+b", "a~", "a%00", "a%C3%A9", "a%2Fb", "@a"])
}

fn tag_words(lab: &Lab<'_>) -> Verdict {
    tags_work(lab, &["manifests", "blobs", "list", "uploads", "sha256", "v2"])
}

fn name_words(lab: &Lab<'_>) -> Verdict {
    let word = word();
    for rest in ["manifests", "tags/list", "blobs/uploads", "referrers/x", "v2"] {
        works(lab, &format!("{word}/{rest}"))?;
    }
    Ok(())
}

/// None of these gets anything from here.
fn digests_refused(lab: &Lab<'_>, kind: &str, digests: &[&str]) -> Verdict {
    for digest in digests {
        lab.get(&format!("{kind}/{digest}"))?.is(&[400, 404])?;
        lab.head(&format!("{kind}/{digest}"))?.is(&[400, 404])?.has_no_body()?;
    }
    Ok(())
}

const MALFORMED: [&str; 9] = [
    "sha256:",
    "sha256:abc",
    "sha256:zzzzc44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8550",
    ":e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85%00",
    "sha256:../../../../../../etc/passwd",
    "sha256:%2e%2e%2f%2e%2e%2fx",
    "sha256::",
];

fn malformed_blob(lab: &Lab<'_>) -> Verdict {
    lab.push_random(10)?;
    digests_refused(lab, "blobs", &MALFORMED)
}

fn malformed_manifest(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    digests_refused(lab, "manifests", &MALFORMED)
}

fn digest_upper_case(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(10)?;
    let (_, hex) = blob.digest.split_once(':').unwrap_or_default();
    digests_refused(lab, "blobs", &[&format!("sha256:{}", hex.to_uppercase()), &format!("SHA256:{hex}")])
}

fn unknown(lab: &Lab<'_>) -> Verdict {
    let blob: Blob = lab.push_random(10)?;
    let (_, hex) = blob.digest.split_once(':').unwrap_or_default();
    for kind in ["blobs", "manifests"] {
        digests_refused(
            lab,
            kind,
            &[&format!("unheard-of:{hex}"), &format!("a+b.c:{hex}"), "md5:d41d8cd98f00b204e9800998ecf8427e"],
        )?;
    }
    Ok(())
}
