//! "Mounting a blob from another repository" (end-11).

use crate::registry::answer::{Answer, Problem, Verdict};
use crate::registry::check::{Section, must, should, sound};
use crate::registry::checks::deletion::delete_blob;
use crate::registry::checks::pushing_blobs::{is_there, leads_to};
use crate::registry::content::{Blob, word};
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "mounts",
    heading: "distribution-spec, Push, Mounting a blob from another repository",
    checks: &[
        must("mount", "a mount is answered 201, and the blob is in both repositories", mounted),
        must("mount-location", "the Location of the 201 is where the blob can be pulled", location),
        should("mount-digest-header", "where Docker-Content-Digest is given it is the blob's", digest_header),
        should(
            "mount-unknown-blob",
            "what cannot be mounted is answered 202, and can be uploaded",
            unknown_blob,
        ),
        should(
            "mount-unknown-repository",
            "the same where the other repository is not there",
            unknown_repository,
        ),
        should(
            "mount-without-from",
            "without from it is answered 201 or 202, and the blob gets there",
            without_from,
        ),
        sound("mount-without-from-unknown", "without from, a blob that is nowhere is answered 202", nowhere),
        must("mount-from-itself", "a blob may be mounted where it is", from_itself),
        sound(
            "mount-malformed-from",
            "a from that is no name is refused, or ignored with 202",
            malformed_from,
        ),
        should("mount-malformed-digest", "a digest that is none is answered 400", malformed_digest)
            .from("distribution-spec, Push, Pushing blobs")
            .dev(),
        sound(
            "mount-outlives-its-source",
            "a mounted blob stays when it is deleted where it came from",
            outlives,
        ),
    ],
};

fn mount(lab: &Lab<'_>, digest: &str, from: Option<&str>) -> Result<Answer, Problem> {
    let from = from.map(|from| format!("&from={from}")).unwrap_or_default();
    let answer = lab.ask("POST", &format!("blobs/uploads/?mount={digest}{from}")).send()?;
    if answer.status() == 201 {
        lab.clean_later("blobs", digest);
    }
    Ok(answer)
}

/// Pushes a blob into another repository and mounts it here.
fn setup<'a>(lab: &Lab<'a>) -> Result<(Lab<'a>, Blob, Answer), Problem> {
    let there = lab.another();
    let blob = there.push_random(700)?;
    let answer = mount(lab, &blob.digest, Some(&there.name))?;
    match answer.is(&[201, 202])?.status() {
        201 => Ok((there, blob, answer)),
        _ => Err(answer.unsupported()),
    }
}

fn mounted(lab: &Lab<'_>) -> Verdict {
    let (there, blob, _) = setup(lab)?;
    is_there(lab, &blob)?;
    is_there(&there, &blob)
}

fn location(lab: &Lab<'_>) -> Verdict {
    let (_there, blob, answer) = setup(lab)?;
    leads_to(lab, &answer, &blob)
}

fn digest_header(lab: &Lab<'_>) -> Verdict {
    let (_there, blob, answer) = setup(lab)?;
    match answer.header("Docker-Content-Digest") {
        Some(_) => answer.header_is("Docker-Content-Digest", &blob.digest).map(drop),
        None => Ok(()),
    }
}

/// The answer began an upload, by which the blob gets there.
fn uploads(lab: &Lab<'_>, answer: Answer, blob: &Blob) -> Verdict {
    answer.is(&[202])?;
    lab.upload(answer)?.finish(&blob.digest, &blob.bytes)?.is(&[201])?;
    is_there(lab, blob)
}

fn unknown_blob(lab: &Lab<'_>) -> Verdict {
    let (there, blob) = (lab.another(), Blob::random(700));
    there.push_random(10)?;
    uploads(lab, mount(lab, &blob.digest, Some(&there.name))?, &blob)
}

fn unknown_repository(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(700);
    uploads(lab, mount(lab, &blob.digest, Some(&lab.another().name))?, &blob)
}

fn without_from(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    let blob = there.push_random(700)?;
    let answer = mount(lab, &blob.digest, None)?;
    match answer.is(&[201, 202])?.status() {
        201 => is_there(lab, &blob),
        _ => uploads(lab, answer, &blob),
    }
}

fn nowhere(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(700);
    uploads(lab, mount(lab, &blob.digest, None)?, &blob)
}

fn from_itself(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(700)?;
    let answer = mount(lab, &blob.digest, Some(&lab.name))?;
    match answer.is(&[201, 202])?.status() {
        201 => is_there(lab, &blob),
        _ => uploads(lab, answer, &blob),
    }
}

fn malformed_from(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(10);
    for from in ["..", "../..", "UPPER", "a//b", "%00", "", &word().repeat(100)] {
        let answer = mount(lab, &blob.digest, Some(from))?;
        if answer.status() != 202 {
            answer.is_refusal()?;
        }
    }
    Ok(())
}

fn malformed_digest(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    there.push_random(10)?;
    mount(lab, "sha256:baddigest", Some(&there.name))?.is(&[400])?;
    Ok(())
}

fn outlives(lab: &Lab<'_>) -> Verdict {
    let (there, blob, _) = setup(lab)?;
    delete_blob(&there, &blob.digest)?;
    is_there(lab, &blob)
}
