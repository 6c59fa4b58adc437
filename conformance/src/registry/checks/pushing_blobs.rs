//! "Pushing a blob monolithically": `POST` then `PUT` (end-4a, end-6), and a single `POST` (end-4b).

use std::thread;

use crate::registry::answer::{Answer, Verdict, hold};
use crate::registry::check::{Section, may, must, should, sound};
use crate::registry::content::{BYTES, Blob};
use crate::registry::http::Body;
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "pushing-blobs",
    heading: "distribution-spec, Push, Pushing a blob monolithically",
    checks: &[
        must("upload-begins", "POST is answered 202 with a Location", begins),
        must("upload-has-an-id", "Location carries a UUID, and each upload has its own", has_id),
        must(
            "upload-location-is-whole",
            "Location is absolute, or begins with a slash, and can be used as it is",
            location,
        ),
        must("post-put", "POST then PUT is answered 201, and the blob is there", post_put),
        must(
            "post-put-location",
            "the Location of the 201 is where the blob can be pulled",
            post_put_location,
        ),
        should(
            "post-put-digest-header",
            "where Docker-Content-Digest is given it is the blob's",
            digest_header,
        ),
        must("post-put-empty", "the blob of no bytes can be pushed", empty),
        must("post-put-empty-json", "the blob {} can be pushed, as artifacts need it", empty_json),
        must("post-put-twice", "a blob that is there can be pushed again", twice),
        must("post-put-at-once", "two clients may push the same blob at the same time", at_once)
            .from("distribution-spec, Use Cases, Layer Upload De-duplication"),
        must(
            "post-put-in-pieces",
            "a body of unknown length (Transfer-Encoding: chunked) is taken",
            in_pieces,
        )
        .from("RFC 9112, 7.1"),
        must(
            "post-put-after-continue",
            "Expect: 100-continue is answered 100 or with the final answer",
            after_continue,
        )
        .from("RFC 9110, 10.1.1"),
        may("single-post", "a single POST with digest and body is answered 201 with a Location", single_post)
            .from("distribution-spec, Push, Single POST"),
        should(
            "single-post-or-upload",
            "where it is not done in one, 202 and Location let the client go on",
            post_or_upload,
        )
        .from("distribution-spec, Push, Single POST"),
        must(
            "single-post-wrong-digest",
            "a single POST with another blob's digest stores nothing",
            post_wrong,
        )
        .from("distribution-spec, Push, Single POST"),
        should(
            "put-wrong-digest",
            "PUT with another blob's digest is answered 400, and nothing is stored",
            put_wrong,
        )
        .from("distribution-spec, Push, Pushing blobs"),
        should("put-malformed-digest", "PUT with what is no digest is answered 400", put_malformed)
            .from("distribution-spec, Push, Pushing blobs"),
        should(
            "put-unknown-algorithm",
            "PUT with an algorithm that is not supported is answered 400",
            put_unknown,
        )
        .from("distribution-spec, Push, Pushing blobs"),
        must("put-without-digest", "PUT must say the digest; without one it is answered 4xx", put_without),
        sound("put-short-body", "a body that breaks off before its length stores nothing", put_short)
            .from("RFC 9112, 8"),
        sound("put-long-names", "a header of 16 KiB is answered, if with 431", long_header)
            .from("RFC 6585, 5"),
    ],
};

fn begins(lab: &Lab<'_>) -> Verdict {
    lab.begin()?;
    Ok(())
}

fn has_id(lab: &Lab<'_>) -> Verdict {
    let (one, two) = (lab.begin()?, lab.begin()?);
    let location = one.begun.need("Location")?;
    let other = two.begun.need("Location")?;
    hold(location != other, || format!("two uploads have the Location `{}`", location.escape_debug()))?;
    let hex: String =
        location.chars().map(|c| if c == '-' { '\0' } else { c }).filter(|c| *c != '\0').collect();
    let runs = hex.split(|c: char| !c.is_ascii_hexdigit());
    hold(runs.into_iter().any(|run| run.len() >= 32), || format!("no UUID in `{}`", location.escape_debug()))
}

fn location(lab: &Lab<'_>) -> Verdict {
    let upload = lab.begin()?;
    let location = upload.begun.need("Location")?;
    let good =
        location.starts_with('/') || location.starts_with("http://") || location.starts_with("https://");
    hold(good, || format!("Location is `{}`", location.escape_debug()))?;
    let blob = Blob::random(10);
    upload.finish(&blob.digest, &blob.bytes)?.is(&[201])?;
    Ok(())
}

/// The blob is there, byte for byte.
pub(super) fn is_there(lab: &Lab<'_>, blob: &Blob) -> Verdict {
    lab.get_blob(&blob.digest)?.is(&[200])?.body_is(&blob.bytes)?;
    Ok(())
}

/// The blob is not there.
pub(super) fn is_absent(lab: &Lab<'_>, digest: &str) -> Verdict {
    lab.head_blob(digest)?.is(&[404])?;
    Ok(())
}

fn post_put(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(1000)?;
    is_there(lab, &blob)
}

fn post_put_location(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(1000);
    let answer = lab.push(&blob)?;
    leads_to(lab, &answer, &blob)
}

/// The answer's `Location` is where the blob can be pulled.
pub(super) fn leads_to(lab: &Lab<'_>, answer: &Answer, blob: &Blob) -> Verdict {
    let target = lab.location(answer)?;
    lab.client.ask_at("GET", target).send()?.is(&[200])?.body_is(&blob.bytes)?;
    Ok(())
}

fn digest_header(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(10);
    let answer = lab.push(&blob)?;
    match answer.header("Docker-Content-Digest") {
        Some(_) => answer.header_is("Docker-Content-Digest", &blob.digest).map(drop),
        None => Ok(()),
    }
}

fn empty(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(0)?;
    is_there(lab, &blob)
}

fn empty_json(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::of("{}");
    lab.push(&blob)?;
    is_there(lab, &blob)
}

fn twice(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(100)?;
    lab.push(&blob)?;
    is_there(lab, &blob)
}

fn at_once(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(300_000);
    thread::scope(|scope| {
        let pushes: Vec<_> = (0..4).map(|_| scope.spawn(|| lab.push(&blob))).collect();
        pushes.into_iter().try_for_each(|push| push.join().expect("a push does not panic").map(drop))
    })?;
    is_there(lab, &blob)
}

fn in_pieces(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(50_000);
    let upload = lab.begin()?;
    upload.finishing(&blob.digest).body(Body::Pieces(blob.bytes.clone())).send()?.is(&[201])?;
    lab.clean_later("blobs", &blob.digest);
    is_there(lab, &blob)
}

fn after_continue(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(50_000);
    let upload = lab.begin()?;
    upload.finishing(&blob.digest).body(Body::AfterContinue(blob.bytes.clone())).send()?.is(&[201])?;
    lab.clean_later("blobs", &blob.digest);
    is_there(lab, &blob)
}

/// Sends `bytes` by a single `POST` as the blob `digest`.
pub(super) fn post(
    lab: &Lab<'_>,
    digest: &str,
    bytes: &[u8],
) -> Result<Answer, crate::registry::answer::Problem> {
    let ask = lab.ask("POST", &format!("blobs/uploads/?digest={digest}")).with("Content-Type", BYTES);
    let answer = ask.bytes(bytes).send()?;
    if answer.status() == 201 {
        lab.clean_later("blobs", digest);
    }
    Ok(answer)
}

fn single_post(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(1000);
    let answer = post(lab, &blob.digest, &blob.bytes)?;
    if answer.is(&[201, 202])?.status() == 202 {
        return Err(answer.unsupported());
    }
    leads_to(lab, &answer, &blob)?;
    is_there(lab, &blob)
}

fn post_or_upload(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(1000);
    let answer = post(lab, &blob.digest, &blob.bytes)?;
    if answer.is(&[201, 202])?.status() == 202 {
        lab.upload(answer)?.finish(&blob.digest, &blob.bytes)?.is(&[201])?;
    }
    is_there(lab, &blob)
}

fn post_wrong(lab: &Lab<'_>) -> Verdict {
    let (blob, other) = (Blob::random(1000), Blob::random(1000));
    let answer = post(lab, &other.digest, &blob.bytes)?;
    // A registry that does not look at the body begins an upload.
    match answer.status() {
        202 => drop(lab.upload(answer)?),
        _ => drop(answer.is(&[400])?.says(&["DIGEST_INVALID"])?),
    }
    is_absent(lab, &other.digest)?;
    is_absent(lab, &blob.digest)
}

fn put_wrong(lab: &Lab<'_>) -> Verdict {
    let (blob, other) = (Blob::random(1000), Blob::random(1000));
    lab.begin()?.finish(&other.digest, &blob.bytes)?.is(&[400])?.says(&["DIGEST_INVALID"])?;
    is_absent(lab, &other.digest)?;
    is_absent(lab, &blob.digest)
}

/// None of these is taken as the digest of a blob.
fn is_refused(lab: &Lab<'_>, digests: &[String]) -> Verdict {
    for digest in digests {
        lab.begin()?.finish(digest, b"x")?.is(&[400])?;
    }
    Ok(())
}

fn put_malformed(lab: &Lab<'_>) -> Verdict {
    let good = Blob::of("x").digest;
    is_refused(
        lab,
        &["sha256:baddigest".into(), "sha256:".into(), "x".into(), good.to_uppercase(), format!("{good}0")],
    )
}

fn put_unknown(lab: &Lab<'_>) -> Verdict {
    let hex = "9dd4e461268c8034f5c8564e155c67a6"; // the md5 of `x`
    is_refused(lab, &[format!("md5:{hex}"), format!("unheard+of:{hex}")])
}

fn put_without(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(10);
    let upload = lab.begin()?;
    upload.ask("PUT").with("Content-Type", BYTES).bytes(&blob.bytes).send()?.is_refusal()?;
    is_absent(lab, &blob.digest)
}

fn put_short(lab: &Lab<'_>) -> Verdict {
    let blob = Blob::random(1000);
    let upload = lab.begin()?;
    let short = Body::Short { announced: 2000, bytes: blob.bytes.clone() };
    // Closing without an answer is as good: the client has broken off.
    if let Ok(answer) = upload.finishing(&blob.digest).body(short).send() {
        answer.is_refusal()?;
    }
    is_absent(lab, &blob.digest)
}

fn long_header(lab: &Lab<'_>) -> Verdict {
    let answer = lab.client.ask("GET", "/v2/").with("X-Long", "x".repeat(16 << 10)).send()?;
    answer.is(&[200, 400, 431])?;
    Ok(())
}
