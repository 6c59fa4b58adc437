//! "Pushing a blob in chunks" (end-5, end-6, end-13).

use crate::registry::answer::{Answer, Problem, Verdict, hold};
use crate::registry::check::{Section, must, should, sound};
use crate::registry::checks::pushing_blobs::{is_absent, is_there, leads_to};
use crate::registry::content::{BYTES, Blob};
use crate::registry::http::Body;
use crate::registry::lab::{Lab, Upload};

pub(super) const SECTION: Section = Section {
    name: "chunks",
    heading: "distribution-spec, Push, Pushing a blob in chunks",
    checks: &[
        must("chunk-one", "one PATCH and a PUT without a body make a blob", one),
        must("chunks-in-order", "three PATCHes in order are answered 202 each, and make a blob", in_order),
        must("chunks-last-in-put", "the last chunk may come with the PUT", last_in_put),
        must("chunk-range-header", "each 202 says Range: 0-<last byte so far>", range_header),
        must("chunk-location-header", "each 202 has a Location, where the next chunk goes", location_header),
        must(
            "chunks-blob-location",
            "the Location of the 201 is where the blob can be pulled",
            blob_location,
        ),
        must("chunk-after-a-gap", "a chunk that leaves a gap is answered 416", gap),
        must("chunk-overlapping", "a chunk that begins before the end is answered 416", overlap),
        must("chunk-repeated", "a chunk that was taken is answered 416 when it comes again", repeated),
        must(
            "chunk-not-from-zero",
            "a first chunk that does not begin with 0 is answered 416",
            not_from_zero,
        ),
        must(
            "chunk-last-out-of-order",
            "a last chunk out of order with the PUT is answered 416",
            last_out_of_order,
        )
        .dev(),
        must(
            "chunks-go-on-after-416",
            "after a 416, GET says where to go on, and the upload is whole",
            go_on,
        ),
        must("chunks-status", "GET of an upload is answered 204 with Location and Range", status),
        must(
            "chunks-status-of-a-new-one",
            "GET of an upload without bytes is answered 204 with Location",
            status_of_new,
        ),
        should(
            "chunks-status-location",
            "the Location of GET can be used for the next chunk",
            status_location,
        ),
        must("chunks-resumed", "an upload goes on from what GET says after a chunk broke off", resumed)
            .from("distribution-spec, Use Cases, Resumable Push"),
        should(
            "chunk-min-length",
            "OCI-Chunk-Min-Length, if given, is a number, and such chunks are taken",
            min_length,
        ),
        should("chunk-of-one-byte", "without OCI-Chunk-Min-Length, chunks of one byte are taken", one_byte),
        must(
            "chunk-stream",
            "PATCH without Content-Range appends, as clients do that know no length",
            stream,
        )
        .from("distribution-spec, Push, Pushing a blob in chunks; as docker and podman push"),
        must("chunk-stream-in-pieces", "the same with Transfer-Encoding: chunked", stream_in_pieces)
            .from("RFC 9112, 7.1"),
        should(
            "chunk-streams-two",
            "a second PATCH without Content-Range goes on where the first ended",
            two_streams,
        ),
        should(
            "chunks-wrong-digest",
            "PUT with another blob's digest is answered 400, and nothing is stored",
            wrong_digest,
        )
        .from("distribution-spec, Push, Pushing blobs"),
        must(
            "chunks-digest-of-the-last",
            "the digest is the whole blob's, not the last chunk's",
            digest_of_last,
        ),
        sound(
            "chunk-range-malformed",
            "a Content-Range that means nothing is answered 4xx and appends nothing",
            malformed,
        ),
        sound(
            "chunk-range-and-length-differ",
            "a chunk longer or shorter than its range is answered 4xx",
            differ,
        ),
        sound(
            "chunk-broken-off",
            "a chunk that breaks off is lost or kept to its last byte, never padded",
            broken_off,
        ),
        must("chunks-of-two-uploads", "uploads at the same time do not mix", two_uploads),
    ],
};

fn begin<'a>(lab: &'a Lab<'_>) -> Result<(Upload<'a>, Blob, usize), Problem> {
    let upload = lab.begin()?;
    let size = upload.least_chunk(1000);
    Ok((upload, Blob::random(3 * size - 5), size))
}

fn close(lab: &Lab<'_>, upload: &Upload<'_>, blob: &Blob) -> Verdict {
    upload.finish(&blob.digest, b"")?.is(&[201])?;
    is_there(lab, blob)
}

fn one(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, _) = begin(lab)?;
    upload.chunk(&blob, 0, blob.bytes.len())?;
    close(lab, &upload, &blob)
}

fn in_order(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    upload.chunk(&blob, size, 2 * size)?;
    upload.chunk(&blob, 2 * size, blob.bytes.len())?;
    close(lab, &upload, &blob)
}

fn last_in_put(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    upload.chunk(&blob, size, 2 * size)?;
    put_last(&upload, &blob, 2 * size)?.is(&[201])?;
    lab.clean_later("blobs", &blob.digest);
    is_there(lab, &blob)
}

/// Closes the upload with the rest of `blob`, said to begin at `from`, though it is what follows the second chunk.
fn put_last(upload: &Upload<'_>, blob: &Blob, from: usize) -> Result<Answer, Problem> {
    let last = &blob.bytes[from..];
    let range = format!("{from}-{}", blob.bytes.len() - 1);
    upload.finishing(&blob.digest).with("Content-Range", range).bytes(last).send()
}

fn range_header(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?.header_is("Range", &format!("0-{}", size - 1))?;
    upload.chunk(&blob, size, 2 * size)?.header_is("Range", &format!("0-{}", 2 * size - 1))?;
    Ok(())
}

fn location_header(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    let answer = upload.chunk(&blob, 0, size)?;
    lab.location(&answer)?;
    upload.chunk(&blob, size, 2 * size)?;
    Ok(())
}

fn blob_location(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, _) = begin(lab)?;
    upload.chunk(&blob, 0, blob.bytes.len())?;
    let answer = upload.finish(&blob.digest, b"")?;
    leads_to(lab, answer.is(&[201])?, &blob)
}

/// The first chunk is in; then bytes from `from` to before `to` are refused, and the upload can still be finished.
fn refused(lab: &Lab<'_>, from: impl Fn(usize) -> (usize, usize)) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    let (from, to) = from(size);
    upload.patch(&format!("{from}-{}", to - 1), &blob.bytes[from..to])?.is(&[416])?;
    upload.chunk(&blob, size, blob.bytes.len())?;
    close(lab, &upload, &blob)
}

fn gap(lab: &Lab<'_>) -> Verdict {
    refused(lab, |size| (size + 1, 2 * size + 1))
}

fn overlap(lab: &Lab<'_>) -> Verdict {
    refused(lab, |size| (size - 1, 2 * size - 1))
}

fn repeated(lab: &Lab<'_>) -> Verdict {
    refused(lab, |size| (0, size))
}

fn not_from_zero(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.patch(&format!("1-{size}"), &blob.bytes[1..=size])?.is(&[416])?;
    upload.chunk(&blob, 0, blob.bytes.len())?;
    close(lab, &upload, &blob)
}

fn last_out_of_order(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    put_last(&upload, &blob, 2 * size)?.is(&[416])?;
    is_absent(lab, &blob.digest)
}

fn go_on(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    upload.patch(&format!("{}-{}", 2 * size, blob.bytes.len() - 1), &blob.bytes[2 * size..])?.is(&[416])?;
    upload.status()?.is(&[204])?.header_is("Range", &format!("0-{}", size - 1))?;
    upload.chunk(&blob, size, blob.bytes.len())?;
    close(lab, &upload, &blob)
}

fn status(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    let answer = upload.status()?;
    answer.is(&[204])?.header_is("Range", &format!("0-{}", size - 1))?.has_no_body()?;
    lab.location(&answer)?;
    Ok(())
}

fn status_of_new(lab: &Lab<'_>) -> Verdict {
    let upload = lab.begin()?;
    let answer = upload.status()?;
    lab.location(answer.is(&[204])?)?;
    Ok(())
}

fn status_location(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    let answer = upload.status()?;
    let again = lab.upload(answer.is(&[204])?.clone())?;
    again.chunk(&blob, size, blob.bytes.len())?;
    close(lab, &again, &blob)
}

fn resumed(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, size)?;
    let (from, to) = (size, 2 * size);
    let short = Body::Short { announced: size as u64, bytes: blob.bytes[from..to - 100].to_vec() };
    let ask =
        upload.ask("PATCH").with("Content-Type", BYTES).with("Content-Range", format!("{from}-{}", to - 1));
    // The connection breaks, with or without an answer.
    let _ = ask.body(short).send();
    let answer = upload.status()?;
    let range = answer.is(&[204])?.need("Range")?;
    let end = range.strip_prefix("0-").and_then(|last| last.parse::<usize>().ok()).map(|last| last + 1);
    let Some(end) = end.filter(|end| (size..=to - 100).contains(end)) else {
        let wanted = format!("wanted 0-{} to 0-{}", size - 1, to - 101);
        return Err(answer.problem(format_args!("Range is `{}`; {wanted}", range.escape_debug())));
    };
    upload.chunk(&blob, end, blob.bytes.len())?;
    close(lab, &upload, &blob)
}

fn min_length(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    if let Some(text) = upload.begun.header("OCI-Chunk-Min-Length") {
        let number = text.parse::<u64>();
        hold(number.is_ok(), || format!("OCI-Chunk-Min-Length is `{}`", text.escape_debug()))?;
    }
    upload.chunk(&blob, 0, size)?;
    // The last one may be shorter.
    upload.chunk(&blob, size, size + 1)?;
    Ok(())
}

fn one_byte(lab: &Lab<'_>) -> Verdict {
    let upload = lab.begin()?;
    if upload.begun.header("OCI-Chunk-Min-Length").is_some() {
        return Ok(());
    }
    let blob = Blob::random(3);
    upload.chunk(&blob, 0, 1)?.header_is("Range", "0-0")?;
    upload.chunk(&blob, 1, 2)?;
    upload.chunk(&blob, 2, 3)?;
    close(lab, &upload, &blob)
}

fn stream(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, _) = begin(lab)?;
    let answer = upload.stream(Body::Whole(blob.bytes.clone()))?;
    answer.header_is("Range", &format!("0-{}", blob.bytes.len() - 1))?;
    close(lab, &upload, &blob)
}

fn stream_in_pieces(lab: &Lab<'_>) -> Verdict {
    let upload = lab.begin()?;
    let blob = Blob::random(100_000);
    upload.stream(Body::Pieces(blob.bytes.clone()))?.header_is("Range", "0-99999")?;
    close(lab, &upload, &blob)
}

fn two_streams(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.stream(Body::Whole(blob.bytes[..size].to_vec()))?;
    upload.stream(Body::Whole(blob.bytes[size..].to_vec()))?;
    close(lab, &upload, &blob)
}

fn wrong_digest(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    let other = Blob::random(10);
    upload.chunk(&blob, 0, size)?;
    upload.chunk(&blob, size, blob.bytes.len())?;
    upload.finish(&other.digest, b"")?.is(&[400])?.says(&["DIGEST_INVALID"])?;
    is_absent(lab, &other.digest)?;
    is_absent(lab, &blob.digest)
}

fn digest_of_last(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    upload.chunk(&blob, 0, 2 * size)?;
    let last = Blob::of(&blob.bytes[2 * size..]);
    let range = format!("{}-{}", 2 * size, blob.bytes.len() - 1);
    let answer = upload.finishing(&last.digest).with("Content-Range", range).bytes(&last.bytes).send()?;
    answer.is_refusal()?;
    is_absent(lab, &last.digest)
}

fn malformed(lab: &Lab<'_>) -> Verdict {
    let ranges = [
        "bytes 0-999/1000",
        "abc",
        "-",
        "0-",
        "-999",
        "999-0",
        "0-18446744073709551616",
        "0x0-0x3",
        "0--999",
    ];
    for range in ranges {
        let (upload, blob, size) = begin(lab)?;
        upload.patch(range, &blob.bytes[..size])?.is_refusal()?;
        upload.chunk(&blob, 0, size)?.header_is("Range", &format!("0-{}", size - 1))?;
    }
    Ok(())
}

fn differ(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    for last in [size - 2, size, 1 << 40] {
        upload.patch(&format!("0-{last}"), &blob.bytes[..size])?.is_refusal()?;
    }
    upload.chunk(&blob, 0, blob.bytes.len())?;
    close(lab, &upload, &blob)
}

fn broken_off(lab: &Lab<'_>) -> Verdict {
    let (upload, blob, size) = begin(lab)?;
    let short = Body::Short { announced: size as u64, bytes: blob.bytes[..size / 2].to_vec() };
    let range = format!("0-{}", size - 1);
    if let Ok(answer) =
        upload.ask("PATCH").with("Content-Type", BYTES).with("Content-Range", range).body(short).send()
    {
        answer.is_refusal()?;
    }
    upload.finish(&blob.digest, b"")?.is_refusal()?;
    is_absent(lab, &blob.digest)
}

fn two_uploads(lab: &Lab<'_>) -> Verdict {
    let ((one, a, size), (two, b, _)) = (begin(lab)?, begin(lab)?);
    one.chunk(&a, 0, size)?;
    two.chunk(&b, 0, size)?;
    one.chunk(&a, size, a.bytes.len())?;
    two.chunk(&b, size, b.bytes.len())?;
    close(lab, &two, &b)?;
    close(lab, &one, &a)
}
