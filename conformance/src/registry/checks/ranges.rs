//! Parts of blobs: "A registry SHOULD support the `Range` request header", and RFC 9110, section 14.

use crate::registry::answer::{Answer, Problem, Verdict, hold};
use crate::registry::check::{Section, may, must, should, sound};
use crate::registry::content::Blob;
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "ranges",
    heading: "distribution-spec, Pull, Pulling blobs; RFC 9110, 14",
    checks: &[
        may("range-is-advertised", "Accept-Ranges: bytes says that ranges are understood", advertised)
            .from("RFC 9110, 14.3"),
        should("range-first-to-last", "bytes=500-1499 is answered 206 with these bytes", first_to_last),
        should("range-from", "bytes=500- is answered 206 with everything from there on", from),
        should("range-suffix", "bytes=-500 is answered 206 with the last 500 bytes", suffix),
        should("range-long-suffix", "a suffix longer than the blob is the whole blob", long_suffix)
            .from("RFC 9110, 14.1.2"),
        should("range-clipped", "an end behind the blob's end is the blob's end", clipped)
            .from("RFC 9110, 14.1.2"),
        should("range-one-byte", "a range of one byte is answered with one byte", one_byte),
        should("range-all", "a range of everything is answered 206 with everything", all),
        should("range-joins", "parts put together are the blob, as a resumed pull needs it", joined)
            .from("distribution-spec, Use Cases, Resumable Pull"),
        should("range-beyond-the-end", "a beginning behind the end is answered 416 with the size", beyond)
            .from("RFC 9110, 14.4 and 15.5.17"),
        should("range-empty-suffix", "bytes=-0 has no bytes, and is answered 416", empty_suffix)
            .from("RFC 9110, 14.1.2"),
        should(
            "range-of-nothing",
            "a range of the empty blob is answered 416, or 200 with nothing",
            of_nothing,
        )
        .from("RFC 9110, 14.1.2"),
        sound("range-backwards", "bytes=500-0 means nothing: ignored (200) or refused (400, 416)", backwards)
            .from("RFC 9110, 14.2"),
        sound("range-malformed", "what is not a range is ignored (200) or refused (400, 416)", malformed)
            .from("RFC 9110, 14.2"),
        must("range-of-another-unit", "a unit that the server does not know is ignored", other_unit)
            .from("RFC 9110, 14.2"),
        sound(
            "range-several",
            "two ranges get both, or the whole blob, or 416; never something else",
            several,
        )
        .from("RFC 9110, 14.2"),
        sound("range-many", "a thousand overlapping ranges do not multiply the blob", many)
            .from("RFC 9110, 17.15"),
        must("range-of-a-head", "HEAD knows no ranges: it is answered 200 with the whole size", of_head)
            .from("RFC 9110, 14.2"),
        must("range-if-range", "If-Range with the ETag gets the part; with another one the whole", if_range)
            .from("RFC 9110, 13.1.5"),
    ],
};

const LEN: usize = 2048;

fn ask(lab: &Lab<'_>, blob: &Blob, range: &str) -> Result<Answer, Problem> {
    lab.ask("GET", &format!("blobs/{}", blob.digest)).with("Range", range).send()
}

/// A registry that answers 200 with the whole blob does not do ranges.
fn part(answer: &Answer, blob: &Blob, first: usize, last: usize) -> Verdict {
    if answer.status() == 200 {
        answer.body_is(&blob.bytes)?;
        return Err(answer.unsupported());
    }
    answer.is(&[206])?.body_is(&blob.bytes[first..=last])?;
    answer.header_is("Content-Length", &(last - first + 1).to_string())?;
    let found = answer.need("Content-Range")?;
    let (of_known, of_any) =
        (format!("bytes {first}-{last}/{}", blob.bytes.len()), format!("bytes {first}-{last}/*"));
    hold(found == of_known || found == of_any, || {
        format!("{} => Content-Range `{}`; wanted `{of_known}`", answer.request, found.escape_debug())
    })
}

fn check(lab: &Lab<'_>, range: &str, first: usize, last: usize) -> Verdict {
    let blob = lab.push_random(LEN)?;
    part(&ask(lab, &blob, range)?, &blob, first, last)
}

fn advertised(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(10)?;
    let answer = lab.get_blob(&blob.digest)?;
    match answer.header("Accept-Ranges") {
        Some("bytes") => Ok(()),
        Some(_) => answer.header_is("Accept-Ranges", "bytes").map(drop),
        None => Err(answer.unsupported()),
    }
}

fn first_to_last(lab: &Lab<'_>) -> Verdict {
    check(lab, "bytes=500-1499", 500, 1499)
}

fn from(lab: &Lab<'_>) -> Verdict {
    check(lab, "bytes=500-", 500, LEN - 1)
}

fn suffix(lab: &Lab<'_>) -> Verdict {
    check(lab, "bytes=-500", LEN - 500, LEN - 1)
}

fn long_suffix(lab: &Lab<'_>) -> Verdict {
    check(lab, "bytes=-5000", 0, LEN - 1)
}

fn clipped(lab: &Lab<'_>) -> Verdict {
    check(lab, "bytes=2000-99999999999999999", 2000, LEN - 1)
}

fn one_byte(lab: &Lab<'_>) -> Verdict {
    check(lab, "bytes=0-0", 0, 0)?;
    check(lab, "bytes=2047-2047", LEN - 1, LEN - 1)
}

fn all(lab: &Lab<'_>) -> Verdict {
    check(lab, "bytes=0-", 0, LEN - 1)
}

fn joined(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(100_000)?;
    let mut whole = Vec::new();
    for (first, last) in [(0, 33_332), (33_333, 66_665), (66_666, 99_999)] {
        let answer = ask(lab, &blob, &format!("bytes={first}-{last}"))?;
        part(&answer, &blob, first, last)?;
        whole.extend_from_slice(answer.body());
    }
    hold(whole == blob.bytes, || "the parts together are not the blob".to_owned())
}

fn beyond(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(LEN)?;
    for range in ["bytes=2048-", "bytes=5000-10000", "bytes=18446744073709551616-"] {
        let answer = ask(lab, &blob, range)?;
        if answer.status() == 200 {
            return Err(answer.unsupported());
        }
        let answer = answer.is(&[416])?;
        if range == "bytes=5000-10000" {
            answer.header_is("Content-Range", &format!("bytes */{LEN}"))?;
        }
    }
    Ok(())
}

fn empty_suffix(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(LEN)?;
    let answer = ask(lab, &blob, "bytes=-0")?;
    match answer.status() {
        200 => Err(answer.unsupported()),
        _ => answer.is(&[416]).map(drop),
    }
}

fn of_nothing(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(0)?;
    for range in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
        let answer = ask(lab, &blob, range)?;
        if answer.is(&[200, 416])?.status() == 200 {
            answer.body_is(b"")?;
        }
    }
    Ok(())
}

/// Ignored, or refused.
fn means_nothing(lab: &Lab<'_>, ranges: &[&str]) -> Verdict {
    let blob = lab.push_random(LEN)?;
    for range in ranges {
        let answer = ask(lab, &blob, range)?;
        if answer.is(&[200, 400, 416])?.status() == 200 {
            answer.body_is(&blob.bytes)?;
        }
    }
    Ok(())
}

fn backwards(lab: &Lab<'_>) -> Verdict {
    means_nothing(lab, &["bytes=500-0", "bytes=5000-4000"])
}

fn malformed(lab: &Lab<'_>) -> Verdict {
    means_nothing(
        lab,
        &["bytes=abc", "bytes=", "bytes", "bytes=-", "bytes=1-2-3", "bytes=--1", "bytes=+1-2", "=0-1"],
    )
}

fn other_unit(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(LEN)?;
    ask(lab, &blob, "pages=1-2")?.is(&[200])?.body_is(&blob.bytes)?;
    Ok(())
}

fn several(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(LEN)?;
    let answer = ask(lab, &blob, "bytes=0-99,1000-1099")?;
    match answer.is(&[200, 206, 416])?.status() {
        200 => answer.body_is(&blob.bytes).map(drop),
        206 => {
            let kind = answer.need("Content-Type")?;
            let has = |part: &[u8]| answer.body().windows(part.len()).any(|window| window == part);
            let good = kind.starts_with("multipart/byteranges")
                && has(&blob.bytes[..100])
                && has(&blob.bytes[1000..1100]);
            hold(good, || format!("{} => 206 without both parts as multipart/byteranges", answer.request))
        }
        _ => Ok(()),
    }
}

fn many(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(LEN)?;
    let range = format!("bytes={}", vec!["0-"; 1000].join(","));
    let answer = ask(lab, &blob, &range)?;
    answer.is(&[200, 206, 400, 416, 431])?;
    let len = answer.body().len();
    hold(len <= 10 * LEN, || format!("{} => {len} bytes for a blob of {LEN}", answer.request))
}

fn of_head(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(LEN)?;
    let answer = lab.ask("HEAD", &format!("blobs/{}", blob.digest)).with("Range", "bytes=0-9").send()?;
    answer.is(&[200])?.header_is("Content-Length", &LEN.to_string())?;
    Ok(())
}

fn if_range(lab: &Lab<'_>) -> Verdict {
    let blob = lab.push_random(LEN)?;
    let path = format!("blobs/{}", blob.digest);
    let whole = lab.get(&path)?;
    let ask = |etag: &str| lab.ask("GET", &path).with("Range", "bytes=10-19").with("If-Range", etag).send();
    if let Some(etag) = whole.header("ETag").filter(|etag| !etag.starts_with("W/")) {
        part(&ask(etag)?, &blob, 10, 19)?;
    }
    ask("\"another\"")?.is(&[200])?.body_is(&blob.bytes)?;
    Ok(())
}
