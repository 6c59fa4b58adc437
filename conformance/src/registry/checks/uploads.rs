//! What becomes of uploads: unknown ones, finished ones, others' ones, cancelled ones (end-13, end-14).

use crate::registry::answer::Verdict;
use crate::registry::check::{Section, must, should, sound};
use crate::registry::checks::pushing_blobs::is_absent;
use crate::registry::client::Ask;
use crate::registry::content::{BYTES, Blob, word};
use crate::registry::lab::{Lab, Upload};
use crate::registry::url::Target;

pub(super) const SECTION: Section = Section {
    name: "uploads",
    heading: "distribution-spec, API, Endpoints, end-5, end-6, end-13 and end-14",
    checks: &[
        must("upload-unknown-get", "GET of an upload that is not there is answered 404", unknown_get),
        must("upload-unknown-patch", "PATCH of an upload that is not there is answered 404", unknown_patch),
        must("upload-unknown-put", "PUT to an upload that is not there is answered 404", unknown_put),
        sound("upload-id-malformed", "an upload id that no registry gives is answered 404 or 400", malformed),
        must("upload-finished", "a finished upload is not there any more", finished),
        sound("upload-of-another-repository", "an upload can be used in its own repository only", foreign),
        should("upload-cancelled", "DELETE of an upload is answered 204", cancelled)
            .from("distribution-spec, Push, Cancel a blob upload")
            .dev(),
        must(
            "upload-cancelled-is-gone",
            "after DELETE, GET, PATCH and PUT of the upload are answered 404",
            gone,
        )
        .from("distribution-spec, Push, Cancel a blob upload")
        .dev(),
        must("upload-cancelled-leaves-nothing", "what a cancelled upload held is no blob", leaves_nothing)
            .from("distribution-spec, Push, Cancel a blob upload")
            .dev(),
        must(
            "upload-unknown-cancel",
            "DELETE of an upload that is not there is answered 404 or 400",
            unknown_cancel,
        )
        .dev(),
        should(
            "upload-for-an-algorithm",
            "POST with digest-algorithm=sha256 begins an upload",
            for_algorithm,
        )
        .from("distribution-spec, Push, Pushing a blob in chunks, end-4c")
        .dev(),
        should(
            "upload-for-unknown-algorithm",
            "POST with an unknown digest-algorithm is answered 400",
            for_unknown,
        )
        .from("distribution-spec, Push, Pushing blobs")
        .dev(),
    ],
};

/// Where an upload was that is finished.
fn past(lab: &Lab<'_>) -> Result<Target, crate::registry::answer::Problem> {
    let (upload, blob) = (lab.begin()?, Blob::random(10));
    let at = upload.at();
    upload.finish(&blob.digest, &blob.bytes)?.is(&[201])?;
    Ok(at)
}

fn ask<'a>(lab: &Lab<'a>, method: &str, at: Target) -> Ask<'a> {
    lab.client.ask_at(method, at).with("Content-Type", BYTES)
}

/// A path that looks like an upload's, with an id that nobody has.
fn nowhere(lab: &Lab<'_>) -> String {
    let digits: String =
        word().bytes().chain(word().bytes()).map(|byte| char::from(b'0' + byte % 10)).collect();
    let (a, b, c) = (&digits[..8], &digits[8..12], &digits[12..]);
    lab.path(&format!("blobs/uploads/{a}-{b}-4{}-8{}-{}", &c[..3], &c[3..6], &digits[..12]))
}

fn unknown_get(lab: &Lab<'_>) -> Verdict {
    lab.client.ask("GET", &nowhere(lab)).send()?.is(&[404])?;
    Ok(())
}

fn unknown_patch(lab: &Lab<'_>) -> Verdict {
    let ask = lab.client.ask("PATCH", &nowhere(lab)).with("Content-Type", BYTES).with("Content-Range", "0-3");
    ask.bytes(b"abcd").send()?.is(&[404])?;
    Ok(())
}

fn unknown_put(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(10);
    let path = format!("{}?digest={}", nowhere(lab), blob.digest);
    lab.client.ask("PUT", &path).with("Content-Type", BYTES).bytes(&blob.bytes).send()?.is(&[404])?;
    is_absent(lab, &blob.digest)
}

fn malformed(lab: &Lab<'_>) -> Verdict {
    for id in ["x", "..", "%2e%2e", "a%2fb", "%00", &"f".repeat(5000)] {
        lab.get(&format!("blobs/uploads/{id}"))?.is(&[400, 404, 414, 431])?;
    }
    Ok(())
}

fn finished(lab: &Lab<'_>) -> Verdict {
    let at = past(lab)?;
    ask(lab, "GET", at.clone()).send()?.is(&[404])?;
    ask(lab, "PATCH", at).with("Content-Range", "0-3").bytes(b"abcd").send()?.is(&[404])?;
    Ok(())
}

fn foreign(lab: &Lab<'_>) -> Verdict {
    let (there, blob) = (lab.another(), Blob::random(100));
    let upload = there.begin()?;
    let at = upload.at();
    let moved = at.at(at.path.replace(&there.name, &lab.name));
    // Where the repository is not in the location there is nothing to try.
    if moved == at {
        return Ok(());
    }
    ask(lab, "PATCH", moved.clone()).with("Content-Range", "0-99").bytes(&blob.bytes).send()?.is_refusal()?;
    ask(lab, "PUT", moved.with("digest", &blob.digest)).bytes(&blob.bytes).send()?.is_refusal()?;
    is_absent(lab, &blob.digest)?;
    is_absent(&there, &blob.digest)
}

fn cancel<'a>(lab: &'a Lab<'_>, blob: &Blob) -> Result<Upload<'a>, crate::registry::answer::Problem> {
    let upload = lab.begin()?;
    upload.chunk(blob, 0, blob.bytes.len())?;
    upload.ask("DELETE").send()?.is_or_unsupported(&[204])?.has_no_body()?;
    Ok(upload)
}

fn cancelled(lab: &Lab<'_>) -> Verdict {
    cancel(lab, &Blob::random(100))?;
    // One without bytes too.
    lab.begin()?.ask("DELETE").send()?.is_or_unsupported(&[204])?;
    Ok(())
}

fn gone(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(100);
    let upload = cancel(lab, &blob)?;
    upload.status()?.is(&[404])?;
    upload.patch("100-199", &blob.bytes)?.is(&[404])?;
    upload.finish(&blob.digest, b"")?.is(&[404])?;
    upload.ask("DELETE").send()?.is(&[400, 404])?;
    Ok(())
}

fn leaves_nothing(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(100);
    cancel(lab, &blob)?;
    is_absent(lab, &blob.digest)
}

fn unknown_cancel(lab: &Lab<'_>) -> Verdict {
    lab.client.ask("DELETE", &nowhere(lab)).send()?.is(&[400, 404])?;
    Ok(())
}

fn for_algorithm(lab: &Lab<'_>) -> Verdict {
    let (upload, blob) = (lab.begin_with("blobs/uploads/?digest-algorithm=sha256")?, Blob::random(10));
    upload.finish(&blob.digest, &blob.bytes)?.is(&[201])?;
    Ok(())
}

fn for_unknown(lab: &Lab<'_>) -> Verdict {
    lab.ask("POST", "blobs/uploads/?digest-algorithm=unheard-of").send()?.is(&[400])?;
    Ok(())
}
