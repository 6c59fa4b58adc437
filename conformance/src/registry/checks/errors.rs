//! "Error Codes": which error says which code. A body that is not JSON says none, which is allowed.

use serde_json::json;

use crate::registry::answer::{Answer, Verdict};
use crate::registry::check::{Section, must, should};
use crate::registry::content::{Algorithm, BYTES, Blob, IMAGE, Manifest};
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "errors",
    heading: "distribution-spec, API, Error Codes",
    checks: &[
        should("error-blob-unknown", "an unknown blob says BLOB_UNKNOWN (code-1)", blob_unknown),
        should("error-upload-unknown", "an unknown upload says BLOB_UPLOAD_UNKNOWN (code-3)", upload_unknown),
        should(
            "error-upload-invalid",
            "a chunk out of order says BLOB_UPLOAD_INVALID (code-2)",
            upload_invalid,
        ),
        should("error-digest-invalid", "a wrong digest says DIGEST_INVALID (code-4)", digest_invalid),
        must("error-manifest-blob-unknown", "absent blobs say MANIFEST_BLOB_UNKNOWN (code-5)", manifest_blob)
            .from("distribution-spec, Push"),
        should(
            "error-manifest-invalid",
            "an invalid manifest says MANIFEST_INVALID (code-6)",
            manifest_invalid,
        ),
        should(
            "error-manifest-unknown",
            "an unknown manifest says MANIFEST_UNKNOWN (code-7)",
            manifest_unknown,
        ),
        should("error-name-invalid", "an invalid name says NAME_INVALID (code-8)", name_invalid),
        should("error-name-unknown", "an unknown repository says NAME_UNKNOWN (code-9)", name_unknown),
        should(
            "error-size-invalid",
            "a chunk that is not as long as its range says so (code-2, code-10)",
            size_invalid,
        ),
        should("error-method", "a method that a path does not have is answered 405, with Allow", method)
            .from("RFC 9110, 15.5.6"),
        should("error-content-type", "an error in JSON says so in its Content-Type", content_type)
            .from("distribution-spec, API, Error Codes; RFC 9110, 8.3"),
        must("error-head", "an error to a HEAD has no body", head).from("RFC 9110, 9.3.2"),
    ],
};

fn says(answer: &Answer, codes: &[&str]) -> Verdict {
    answer.is_refusal()?.says(codes).map(drop)
}

fn blob_unknown(lab: &Lab<'_>) -> Verdict {
    lab.push_random(10)?;
    says(&lab.get_blob(&Blob::random(10).digest)?, &["BLOB_UNKNOWN"])
}

fn upload_unknown(lab: &Lab<'_>) -> Verdict {
    lab.push_random(10)?;
    let answer = lab.get("blobs/uploads/00000000-0000-4000-8000-000000000000")?;
    says(&answer, &["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"])
}

fn upload_invalid(lab: &Lab<'_>) -> Verdict {
    says(&lab.begin()?.patch("5-9", b"abcde")?, &["BLOB_UPLOAD_INVALID", "SIZE_INVALID"])
}

fn digest_invalid(lab: &Lab<'_>) -> Verdict {
    says(&lab.begin()?.finish(&Blob::random(10).digest, b"x")?, &["DIGEST_INVALID"])?;
    says(&lab.begin()?.finish("sha256:x", b"x")?, &["DIGEST_INVALID"])
}

fn manifest_blob(lab: &Lab<'_>) -> Verdict {
    let there = lab.another();
    let mut value = there.image()?;
    value["layers"] = json!([Blob::random(10).descriptor(BYTES)]);
    let answer = lab.send(&Manifest::of(&value), "a")?;
    match answer.status() {
        201 => Ok(()),
        _ => says(&answer, &["MANIFEST_BLOB_UNKNOWN"]),
    }
}

fn manifest_invalid(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::raw(Algorithm::Sha256, IMAGE, "{\"schemaVersion\":2,");
    says(&lab.send(&manifest, "a")?, &["MANIFEST_INVALID"])
}

fn manifest_unknown(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    says(&lab.get_manifest("nobody")?, &["MANIFEST_UNKNOWN"])?;
    says(&lab.get_manifest(&Blob::random(10).digest)?, &["MANIFEST_UNKNOWN"])
}

fn name_invalid(lab: &Lab<'_>) -> Verdict {
    // A name that no path can have may be an unknown path.
    let answer = lab.other("Upper").ask("POST", "blobs/uploads/").send()?;
    says(&answer, &["NAME_INVALID", "NAME_UNKNOWN", "UNSUPPORTED"])
}

fn name_unknown(lab: &Lab<'_>) -> Verdict {
    says(&lab.get("tags/list")?, &["NAME_UNKNOWN"])?;
    says(&lab.get_manifest("a")?, &["NAME_UNKNOWN", "MANIFEST_UNKNOWN"])?;
    says(&lab.get_blob(&Blob::random(10).digest)?, &["NAME_UNKNOWN", "BLOB_UNKNOWN"])
}

fn size_invalid(lab: &Lab<'_>) -> Verdict {
    says(&lab.begin()?.patch("0-9", b"abcde")?, &["SIZE_INVALID", "BLOB_UPLOAD_INVALID"])
}

fn method(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    let digest = Blob::random(10).digest;
    for (method, path) in
        [("POST", "tags/list"), ("PATCH", "manifests/a"), ("PUT", &*format!("blobs/{digest}"))]
    {
        let answer = lab.ask(method, path).send()?;
        answer.is(&[405])?.says(&["UNSUPPORTED"])?.need("Allow")?;
    }
    Ok(())
}

fn content_type(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    let answer = lab.get_manifest("nobody")?;
    if answer.codes().is_empty() {
        return Ok(());
    }
    let found = answer.need("Content-Type")?;
    match found.split(';').next().map(str::trim) {
        Some("application/json") => Ok(()),
        _ => answer.header_is("Content-Type", "application/json").map(drop),
    }
}

fn head(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    for path in ["manifests/nobody", "manifests/sha256:x", "blobs/sha256:x", "nonsense/x"] {
        lab.head(path)?.is_refusal()?.has_no_body()?;
    }
    Ok(())
}
