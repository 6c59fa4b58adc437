//! "Pulling blobs" and "Checking if content exists" (end-2).

use crate::registry::answer::Verdict;
use crate::registry::check::{Section, must, should};
use crate::registry::content::Blob;
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "pulling-blobs",
    heading: "distribution-spec, Pull, Pulling blobs",
    checks: &[
        must("blob", "GET is answered 200 with the blob", whole),
        should(
            "blob-digest-header",
            "Docker-Content-Digest is there (MUST since 1.1.1) and is right",
            digest,
        ),
        should("blob-length", "Content-Length says how long the blob is", length).from("RFC 9110, 8.6"),
        must("blob-unknown", "a blob that is not there is answered 404", unknown),
        must(
            "blob-unknown-repository",
            "a blob of a repository that is not there is answered 404",
            no_repository,
        ),
        must(
            "blob-of-another-repository",
            "a blob that only another repository has is answered 404",
            foreign,
        ),
        must("blob-head", "HEAD is answered 200 with size and digest, and no body", head)
            .from("distribution-spec, Pull, Checking if content exists in the registry"),
        must(
            "blob-head-unknown",
            "HEAD of a blob that is not there is answered 404 without a body",
            head_unknown,
        )
        .from("distribution-spec, Pull, Checking if content exists in the registry"),
        should("blob-head-is-like-get", "HEAD has the headers that GET has", head_like_get)
            .from("RFC 9110, 9.3.2"),
        must("blob-empty", "the blob of no bytes is a blob", empty),
        must("blob-large", "a blob of 8 MiB comes back whole", large),
        must(
            "blob-not-modified",
            "where there is an ETag, If-None-Match of it is answered 304",
            not_modified,
        )
        .from("RFC 9110, 13.1.2"),
        must("blob-modified", "If-None-Match of another ETag gets the blob", modified)
            .from("RFC 9110, 13.1.2"),
    ],
};

fn whole(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(5000)?;
    lab.get_blob(&blob.digest)?.is(&[200])?.body_is(&blob.bytes)?;
    Ok(())
}

fn digest(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(100)?;
    lab.get_blob(&blob.digest)?.is(&[200])?.header_is("Docker-Content-Digest", &blob.digest)?;
    Ok(())
}

fn length(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(777)?;
    lab.get_blob(&blob.digest)?.is(&[200])?.header_is("Content-Length", "777")?;
    Ok(())
}

fn unknown(lab: &Lab<'_>) -> Verdict {
    lab.push_random(10)?;
    lab.get_blob(&Blob::random(10).digest)?.is(&[404])?;
    Ok(())
}

fn no_repository(lab: &Lab<'_>) -> Verdict {
    lab.get_blob(&Blob::random(10).digest)?.is(&[404])?;
    Ok(())
}

fn foreign(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    let blob = there.push_random(10)?;
    lab.push_random(10)?;
    lab.get_blob(&blob.digest)?.is(&[404])?;
    lab.head_blob(&blob.digest)?.is(&[404])?;
    Ok(())
}

fn head(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(4321)?;
    lab.head_blob(&blob.digest)?
        .is(&[200])?
        .header_is("Docker-Content-Digest", &blob.digest)?
        .header_is("Content-Length", "4321")?
        .has_no_body()?;
    Ok(())
}

fn head_unknown(lab: &Lab<'_>) -> Verdict {
    lab.push_random(10)?;
    lab.head_blob(&Blob::random(10).digest)?.is(&[404])?.has_no_body()?;
    Ok(())
}

fn head_like_get(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(50)?;
    let (head, get) = (lab.head_blob(&blob.digest)?, lab.get_blob(&blob.digest)?);
    for name in ["Content-Type", "Content-Length", "Docker-Content-Digest", "ETag", "Accept-Ranges"] {
        if let Some(wanted) = get.header(name) {
            head.header_is(name, wanted)?;
        }
    }
    Ok(())
}

fn empty(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(0)?;
    lab.get_blob(&blob.digest)?.is(&[200])?.body_is(b"")?;
    lab.head_blob(&blob.digest)?.is(&[200])?.header_is("Content-Length", "0")?;
    Ok(())
}

fn large(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(8 << 20)?;
    lab.get_blob(&blob.digest)?.is(&[200])?.body_is(&blob.bytes)?;
    Ok(())
}

fn not_modified(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(50)?;
    let path = format!("blobs/{}", blob.digest);
    let answer = lab.get(&path)?;
    let Some(etag) = answer.header("ETag") else { return Ok(()) };
    for known in [etag.to_owned(), format!("\"another\", {etag}"), "*".to_owned()] {
        lab.ask("GET", &path).with("If-None-Match", known).send()?.is(&[304])?.has_no_body()?;
    }
    Ok(())
}

fn modified(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(50)?;
    let ask = lab.ask("GET", &format!("blobs/{}", blob.digest)).with("If-None-Match", "\"another\"");
    ask.send()?.is(&[200])?.body_is(&blob.bytes)?;
    Ok(())
}
