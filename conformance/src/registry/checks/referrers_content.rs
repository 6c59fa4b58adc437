//! "Pushing Manifests with Subject", what a referrer's descriptor says, and the referrers tag schema.

use serde_json::{Value, json};

use crate::registry::answer::{Verdict, hold};
use crate::registry::check::{Section, may, must, sound};
use crate::registry::checks::pushing_manifests::there;
use crate::registry::checks::referrers::{SBOM, artifact, is_of, only_one, require};
use crate::registry::content::{Algorithm, Blob, IMAGE, Manifest, index, word};
use crate::registry::lab::Lab;

const WITH_SUBJECT: &str = "distribution-spec, Push, Pushing Manifests with Subject";
const LISTING: &str = "distribution-spec, Content Discovery, Listing Referrers";
const TAG_SCHEMA: &str = "distribution-spec, Backwards Compatibility, Referrers Tag Schema";

pub(super) const SECTION: Section = Section {
    name: "referrers-content",
    heading: "distribution-spec, Content Discovery, Listing Referrers; Push, Pushing Manifests with Subject",
    checks: &[
        must("subject-header", "a PUT with a subject is answered with OCI-Subject: <its digest>", header)
            .from(WITH_SUBJECT),
        must("subject-header-of-an-index", "the same for an index", header_of_index).from(WITH_SUBJECT),
        sound("subject-header-only-then", "a PUT without a subject has no OCI-Subject", no_header)
            .from(WITH_SUBJECT),
        must("subject-may-be-absent", "a manifest whose subject is not there is taken", absent)
            .from("distribution-spec, Push"),
        must("subject-absent-is-listed", "its referrers are listed all the same", absent_listed)
            .from(LISTING),
        must("subject-pushed-later", "they are listed when the subject comes afterwards too", pushed_later)
            .from(LISTING),
        sound(
            "subject-malformed",
            "a subject that is no descriptor is refused, or kept without being listed",
            malformed,
        )
        .from("image-spec, Image Manifest, subject"),
        must("referrer-type", "artifactType is the manifest's artifactType", kind).from(LISTING),
        must("referrer-type-from-config", "without artifactType it is the config's media type", from_config)
            .from(LISTING),
        must("referrer-type-of-an-index", "an index's artifactType is listed", of_index).from(LISTING),
        must(
            "referrer-index-without-type",
            "an index without artifactType is listed without one",
            index_without,
        )
        .from(LISTING),
        must("referrer-annotations", "annotations of the manifest are listed", annotations).from(LISTING),
        must("referrer-index-annotations", "annotations of an index are listed", index_annotations)
            .from(LISTING),
        sound(
            "referrer-without-annotations",
            "a manifest without annotations is listed without any",
            no_annotations,
        )
        .from(LISTING),
        may("referrers-of-sha512", "a subject may be named by its sha512", of_sha512)
            .from("image-spec, Descriptors, Registered Algorithms"),
        must("referrers-tag", "an index can be pushed under the referrers tag, and comes back", fallback)
            .from(TAG_SCHEMA),
        sound("referrers-tag-and-api", "a referrer in the index of the tag is listed once", fallback_and_api)
            .from("distribution-spec, Upgrade Procedures, Enabling the Referrers API"),
    ],
};

/// An index with this subject; it is not pushed itself.
fn index_about(lab: &Lab<'_>, subject: &Value) -> Result<Value, crate::registry::answer::Problem> {
    let mut value = lab.index()?;
    value["subject"] = subject.clone();
    Ok(value)
}

fn says_subject(lab: &Lab<'_>, value: &Value, subject: &str) -> Verdict {
    require(&lab.another())?;
    let manifest = Manifest::of(value);
    for reference in ["a", &manifest.digest] {
        lab.put(&manifest, reference)?.header_is("OCI-Subject", subject)?;
    }
    Ok(())
}

fn header(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    says_subject(lab, &artifact(lab, SBOM, &subject.descriptor())?, &subject.digest)
}

fn header_of_index(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    says_subject(lab, &index_about(lab, &subject.descriptor())?, &subject.digest)
}

fn no_header(lab: &Lab<'_>) -> Verdict {
    let answer = lab.put(&Manifest::of(&lab.image()?), "a")?;
    hold(answer.header("OCI-Subject").is_none(), || format!("{} => OCI-Subject", answer.request))
}

/// A manifest that is nowhere.
fn nobody() -> Manifest {
    Manifest::raw(Algorithm::Sha256, IMAGE, Blob::random(500).bytes)
}

fn absent(lab: &Lab<'_>) -> Verdict {
    let manifest = Manifest::of(&artifact(lab, SBOM, &nobody().descriptor())?);
    lab.put(&manifest, "a")?;
    there(lab, "a", &manifest)
}

/// Pushes it and finds it as the one referrer of `subject`.
fn listed(lab: &Lab<'_>, value: &Value, subject: &str) -> Result<Value, crate::registry::answer::Problem> {
    let manifest = Manifest::of(value);
    lab.put(&manifest, &manifest.digest)?;
    only_one(lab, subject, &manifest)
}

fn absent_listed(lab: &Lab<'_>) -> Verdict {
    let subject = nobody();
    listed(lab, &artifact(lab, SBOM, &subject.descriptor())?, &subject.digest).map(drop)
}

fn pushed_later(lab: &Lab<'_>) -> Verdict {
    let subject = Manifest::of(&lab.image()?);
    let referrer = Manifest::of(&artifact(lab, SBOM, &subject.descriptor())?);
    lab.put(&referrer, &referrer.digest)?;
    lab.put(&subject, "a")?;
    only_one(lab, &subject.digest, &referrer).map(drop)
}

fn malformed(lab: &Lab<'_>) -> Verdict {
    let good = nobody().descriptor();
    let mut bad = vec![json!("x"), json!([]), json!(7)];
    for (field, value) in [("digest", json!("../../x")), ("digest", json!(null)), ("size", json!(-1))] {
        let mut subject = good.clone();
        subject[field] = value;
        bad.push(subject);
    }
    for subject in bad {
        let manifest = Manifest::of(&artifact(lab, SBOM, &subject)?);
        let answer = lab.send(&manifest, &manifest.digest)?;
        match answer.status() {
            201 => there(lab, &manifest.digest, &manifest)?,
            _ => drop(answer.is_refusal()?),
        }
    }
    Ok(())
}

fn field_is(one: &Value, field: &str, wanted: &Value) -> Verdict {
    let found = &one[field];
    hold(found == wanted, || format!("{field} is listed as {found}; wanted {wanted}"))
}

fn kind(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let one = listed(lab, &artifact(lab, SBOM, &subject.descriptor())?, &subject.digest)?;
    field_is(&one, "artifactType", &json!(SBOM))
}

fn from_config(lab: &Lab<'_>) -> Verdict {
    for empty in [false, true] {
        let (lab, config_type) = (lab.another(), format!("application/vnd.example.{}.config", word()));
        let subject = lab.untagged()?;
        let mut value = lab.image()?;
        value["subject"] = subject.descriptor();
        value["config"]["mediaType"] = json!(config_type);
        // Empty or missing, says the text.
        if empty {
            value["artifactType"] = json!("");
        }
        let one = listed(&lab, &value, &subject.digest)?;
        field_is(&one, "artifactType", &json!(config_type))?;
    }
    Ok(())
}

fn of_index(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let mut value = index_about(lab, &subject.descriptor())?;
    value["artifactType"] = json!("application/vnd.example.set.v1");
    let one = listed(lab, &value, &subject.digest)?;
    field_is(&one, "artifactType", &json!("application/vnd.example.set.v1"))
}

fn index_without(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let one = listed(lab, &index_about(lab, &subject.descriptor())?, &subject.digest)?;
    hold(one.get("artifactType").is_none(), || format!("artifactType is listed as {}", one["artifactType"]))
}

fn carried(lab: &Lab<'_>, mut value: Value, subject: &str) -> Verdict {
    let wanted = json!({
        "org.opencontainers.image.created": "2022-01-01T14:42:55Z",
        "org.example.\u{e9}": "\u{65e5}\u{672c} \"quoted\"",
        "org.example.empty": "",
        "org.example.unique": word(),
    });
    value["annotations"] = wanted.clone();
    let one = listed(lab, &value, subject)?;
    field_is(&one, "annotations", &wanted)
}

fn annotations(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    carried(lab, artifact(lab, SBOM, &subject.descriptor())?, &subject.digest)
}

fn index_annotations(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    carried(lab, index_about(lab, &subject.descriptor())?, &subject.digest)
}

fn no_annotations(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let mut value = artifact(lab, SBOM, &subject.descriptor())?;
    value.as_object_mut().expect("a manifest is an object").remove("annotations");
    let one = listed(lab, &value, &subject.digest)?;
    let none =
        one.get("annotations").is_none_or(|found| found.as_object().is_some_and(serde_json::Map::is_empty));
    hold(none, || format!("annotations are listed as {}", one["annotations"]))
}

fn of_sha512(lab: &Lab<'_>) -> Verdict {
    require(&lab.another())?;
    let subject = Manifest::by(Algorithm::Sha512, &lab.image()?);
    lab.send(&subject, &subject.digest)?.is_or_unsupported(&[201])?;
    let value = artifact(lab, SBOM, &subject.descriptor())?;
    listed(lab, &value, &subject.digest)?;
    let answer = lab.put(&Manifest::of(&value), "a")?;
    answer.header_is("OCI-Subject", &subject.digest).map(drop)
}

/// `sha256-<hex>`.
fn tag_of(subject: &Manifest) -> String {
    subject.digest.replace(':', "-")
}

fn fallback(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let referrer = Manifest::of(&artifact(lab, SBOM, &subject.descriptor())?);
    lab.put(&referrer, &referrer.digest)?;
    let tag = tag_of(&subject);
    lab.get_manifest(&tag)?.is(&[404])?;
    let list = Manifest::of(&index(&[referrer.descriptor()]));
    lab.put(&list, &tag)?;
    there(lab, &tag, &list)?;
    // It is a tag like others: the next client replaces it.
    let list = Manifest::of(&index(&[]));
    lab.put(&list, &tag)?;
    there(lab, &tag, &list)
}

fn fallback_and_api(lab: &Lab<'_>) -> Verdict {
    require(&lab.another())?;
    let subject = lab.untagged()?;
    let referrer = Manifest::of(&artifact(lab, SBOM, &subject.descriptor())?);
    lab.put(&referrer, &referrer.digest)?;
    lab.put(&Manifest::of(&index(&[referrer.descriptor()])), &tag_of(&subject))?;
    is_of(&crate::registry::checks::referrers::all(lab, &subject.digest)?, &[&referrer])
}
