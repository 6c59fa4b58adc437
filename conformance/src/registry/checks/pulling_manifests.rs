//! "Pulling manifests" and "Checking if content exists" (end-3).

use crate::registry::answer::Verdict;
use crate::registry::check::{Section, must, should, sound};
use crate::registry::client::Ask;
use crate::registry::content::{Algorithm, IMAGE, INDEX, MANIFESTS, Manifest, word};
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "pulling-manifests",
    heading: "distribution-spec, Pull, Pulling manifests",
    checks: &[
        must("manifest-by-tag", "GET by tag is answered 200 with the manifest, byte for byte", by_tag),
        must(
            "manifest-by-digest",
            "GET by digest is answered 200 with the manifest, byte for byte",
            by_digest,
        ),
        should("manifest-type", "Content-Type is the one that the manifest was pushed with", content_type),
        should("manifest-type-has-no-parameters", "Content-Type carries no parameters", bare_type),
        should(
            "manifest-digest-header",
            "Docker-Content-Digest is there (MUST since 1.1.1) and is right",
            digest,
        ),
        must("manifest-unknown-tag", "a tag that is not there is answered 404", unknown_tag),
        must("manifest-unknown-digest", "a digest that is not there is answered 404", unknown_digest),
        must(
            "manifest-unknown-repository",
            "a repository that is not there is answered 404",
            unknown_repository,
        )
        .from("distribution-spec, Push, Pushing Manifests"),
        must(
            "manifest-of-another-repository",
            "a manifest that only another repository has is answered 404",
            foreign,
        ),
        should("manifest-accept-its-type", "Accept may list the types that the client knows", accept_list),
        should("manifest-accept-anything", "Accept: */* gets the manifest", accept_any),
        must("manifest-without-accept", "a request without Accept takes any type", no_accept)
            .from("RFC 9110, 12.5.1"),
        sound(
            "manifest-accept-another-type",
            "Accept without the type gets the manifest, 404 or 406",
            accept_other,
        )
        .from("RFC 9110, 12.5.1"),
        must(
            "manifest-head-by-tag",
            "HEAD by tag is answered 200 with size and digest, and no body",
            head_by_tag,
        )
        .from("distribution-spec, Pull, Checking if content exists in the registry"),
        must(
            "manifest-head-by-digest",
            "HEAD by digest is answered 200 with size and digest, and no body",
            head,
        )
        .from("distribution-spec, Pull, Checking if content exists in the registry"),
        must(
            "manifest-head-unknown",
            "HEAD of what is not there is answered 404 without a body",
            head_unknown,
        )
        .from("distribution-spec, Pull, Checking if content exists in the registry"),
        should("manifest-head-is-like-get", "HEAD has the headers that GET has", head_like_get)
            .from("RFC 9110, 9.3.2"),
        must(
            "manifest-not-modified",
            "where there is an ETag, If-None-Match of it is answered 304",
            not_modified,
        )
        .from("RFC 9110, 13.1.2"),
        must(
            "manifest-of-a-moved-tag",
            "a tag names the manifest that was pushed last; digests stay",
            moved_tag,
        ),
    ],
};

fn by_tag(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    lab.get_manifest("a")?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn by_digest(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    lab.get_manifest(&manifest.digest)?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn content_type(lab: &Lab<'_>) -> Verdict {
    lab.tagged("image")?;
    lab.put(&Manifest::of(&lab.index()?), "index")?;
    for (tag, wanted) in [("image", IMAGE), ("index", INDEX)] {
        let answer = lab.get_manifest(tag)?;
        let found = answer.is(&[200])?.need("Content-Type")?;
        if found.split(';').next().map(str::trim) != Some(wanted) {
            answer.header_is("Content-Type", wanted)?;
        }
    }
    Ok(())
}

fn bare_type(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    lab.get_manifest("a")?.header_is("Content-Type", IMAGE)?;
    Ok(())
}

fn digest(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    for reference in ["a", &manifest.digest] {
        lab.get_manifest(reference)?.is(&[200])?.header_is("Docker-Content-Digest", &manifest.digest)?;
    }
    Ok(())
}

fn unknown_tag(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    lab.get_manifest("b")?.is(&[404])?;
    Ok(())
}

fn unknown_digest(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    let other = Manifest::raw(Algorithm::Sha256, IMAGE, word());
    lab.get_manifest(&other.digest)?.is(&[404])?;
    Ok(())
}

fn unknown_repository(lab: &Lab<'_>) -> Verdict {
    lab.get_manifest("latest")?.is(&[404])?;
    Ok(())
}

fn foreign(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    let manifest = there.tagged("a")?;
    lab.tagged("b")?;
    lab.get_manifest(&manifest.digest)?.is(&[404])?;
    Ok(())
}

fn accept_list(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    let answer = lab.ask("GET", "manifests/a").with("Accept", format!("{INDEX}, {IMAGE}")).send()?;
    answer.is(&[200])?.body_is(&manifest.bytes)?;
    let separate = lab.ask("GET", "manifests/a").with("Accept", INDEX).with("Accept", IMAGE).send()?;
    separate.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn accept_any(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    lab.ask("GET", "manifests/a").with("Accept", "*/*").send()?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn no_accept(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    lab.ask("GET", "manifests/a").send()?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn accept_other(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    let answer = lab.ask("GET", "manifests/a").with("Accept", "text/html").send()?;
    if answer.is(&[200, 404, 406])?.status() == 200 {
        answer.body_is(&manifest.bytes)?;
    }
    Ok(())
}

fn head_by_tag(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    check_head(lab, "a", &manifest)
}

fn head(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    check_head(lab, &manifest.digest, &manifest)
}

fn check_head(lab: &Lab<'_>, reference: &str, manifest: &Manifest) -> Verdict {
    let answer = lab.head(&format!("manifests/{reference}"))?;
    answer
        .is(&[200])?
        .header_is("Docker-Content-Digest", &manifest.digest)?
        .header_is("Content-Length", &manifest.bytes.len().to_string())?
        .has_no_body()?;
    Ok(())
}

fn head_unknown(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.another().tagged("a")?;
    lab.tagged("a")?;
    for reference in ["b", &manifest.digest] {
        lab.head(&format!("manifests/{reference}"))?.is(&[404])?.has_no_body()?;
    }
    Ok(())
}

fn head_like_get(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    let (head, get) = (lab.head("manifests/a")?, lab.get_manifest("a")?);
    for name in ["Content-Type", "Content-Length", "Docker-Content-Digest", "ETag"] {
        if let Some(wanted) = get.header(name) {
            head.header_is(name, wanted)?;
        }
    }
    Ok(())
}

fn not_modified(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    let answer = lab.get_manifest("a")?;
    let Some(etag) = answer.header("ETag") else { return Ok(()) };
    let again = accepting(lab).with("If-None-Match", etag).send()?;
    again.is(&[304])?.has_no_body()?;
    let other = accepting(lab).with("If-None-Match", "\"another\"").send()?;
    other.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn accepting<'a>(lab: &Lab<'a>) -> Ask<'a> {
    lab.ask("GET", "manifests/a").with("Accept", MANIFESTS)
}

fn moved_tag(lab: &Lab<'_>) -> Verdict {
    let (first, second) = (lab.tagged("a")?, lab.tagged("a")?);
    lab.get_manifest("a")?.is(&[200])?.body_is(&second.bytes)?;
    lab.get_manifest(&first.digest)?.is(&[200])?.body_is(&first.bytes)?;
    // Back again: a tag is not bound to what was pushed last by digest.
    lab.put(&first, "a")?;
    lab.get_manifest("a")?.is(&[200])?.body_is(&first.bytes)?;
    Ok(())
}
