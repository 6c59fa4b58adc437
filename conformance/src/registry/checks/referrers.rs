//! "Listing Referrers" (end-12a, end-12b): the list, its form, filters and pages.

use serde_json::{Value, json};

use crate::registry::answer::{Answer, Problem, Verdict, hold};
use crate::registry::check::{Section, must, should, sound};
use crate::registry::checks::tags::next;
use crate::registry::content::{Blob, EMPTY, INDEX, Manifest, image};
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "referrers",
    heading: "distribution-spec, Content Discovery, Listing Referrers",
    checks: &[
        should("referrers-are-supported", "the referrers API is there: it is not answered 404", supported)
            .from("distribution-spec, Requirements; Listing Referrers"),
        must(
            "referrers-of-nothing",
            "a digest that nothing refers to is answered 200 with an empty index",
            of_nothing,
        ),
        must(
            "referrers-no-repository",
            "a referrers request is never answered 404, as the API is there",
            no_repository,
        ),
        must("referrers-content-type", "Content-Type is the image index's", content_type),
        must("referrers-form", "the body is an image index of schema version 2", form),
        must("referrers-malformed-digest", "what is no digest is answered 400", malformed),
        must("referrers-list", "a pushed referrer is listed with media type, digest and size", listed),
        must("referrers-of-a-tag-push", "a referrer that was pushed by tag is listed too", by_tag),
        must("referrers-several", "every referrer is listed", several),
        must("referrers-once", "a referrer that is pushed again is listed once", once),
        must("referrers-only", "manifests without a subject, and those of another one, are not listed", only),
        must(
            "referrers-of-this-repository",
            "referrers in another repository are not listed",
            same_repository,
        ),
        must("referrers-of-a-referrer", "a referrer may be a subject", of_referrer),
        should("referrers-filter", "artifactType=... gets the referrers of this type, and says so", filter),
        should(
            "referrers-filter-to-nothing",
            "a type that nobody has gets an empty index",
            filter_to_nothing,
        ),
        should(
            "referrers-filter-is-decoded",
            "the filter is percent-decoded; + in a type is sent as %2B",
            decoded,
        ),
        sound(
            "referrers-filter-unknown",
            "an unknown filter is ignored, and not said to be applied",
            unknown_filter,
        ),
        must(
            "referrers-pages",
            "a hundred referrers are listed, once each, following Link where there is one",
            pages,
        ),
        must("referrers-of-filtered-pages", "the same with a filter", filtered_pages),
        must("referrers-deleted", "a deleted referrer is not listed", deleted)
            .from("distribution-spec, Content Management, Deleting Manifests"),
        sound(
            "referrers-of-deleted-subject",
            "referrers of a deleted subject are still listed, or gone themselves",
            subject_deleted,
        )
        .from("distribution-spec, Push (a subject need not exist)"),
    ],
};

/// The descriptors of an answer, which is an index.
pub(super) fn descriptors(answer: &Answer) -> Result<Vec<Value>, Problem> {
    let value = answer.is(&[200])?.json()?;
    let list = value["manifests"].as_array();
    Ok(list.ok_or_else(|| answer.problem("wanted a list `manifests`"))?.clone())
}

/// Asks for the referrers of a digest.
///
/// # Errors
///
/// [`Problem::Unsupported`] where the registry has no such API, which a digest that nobody refers to tells.
pub(super) fn ask(lab: &Lab<'_>, rest: &str) -> Result<Answer, Problem> {
    let answer = lab.get(&format!("referrers/{rest}"))?;
    if answer.status() == 404 {
        require(&lab.another())?;
    }
    Ok(answer)
}

/// A problem where there is no referrers API.
pub(super) fn require(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    let answer = lab.get(&format!("referrers/{}", Blob::random(10).digest))?;
    match answer.status() {
        404 | 405 => Err(Problem::Unsupported("it has no referrers API".to_owned())),
        _ => Ok(()),
    }
}

/// All descriptors, page after page.
pub(super) fn all(lab: &Lab<'_>, rest: &str) -> Result<Vec<Value>, Problem> {
    let mut answer = ask(lab, rest)?;
    let mut found = descriptors(&answer)?;
    while let Some(target) = next(&answer)? {
        answer = lab.client.ask_at("GET", target).send()?;
        let more = descriptors(&answer)?;
        hold(!more.is_empty() && found.len() < 10_000, || {
            format!("{} => pages without end", answer.request)
        })?;
        found.extend(more);
    }
    Ok(found)
}

/// An artifact of this type with this subject; it is not pushed itself, and its blob is.
pub(super) fn artifact(lab: &Lab<'_>, kind: &str, subject: &Value) -> Result<Value, Problem> {
    let blob = Blob::of("{}");
    if lab.head_blob(&blob.digest)?.status() != 200 {
        lab.push(&blob)?;
    }
    let mut value = image(&blob.descriptor(EMPTY), &[blob.descriptor(EMPTY)]);
    value["artifactType"] = json!(kind);
    value["subject"] = subject.clone();
    Ok(value)
}

pub(super) const SBOM: &str = "application/vnd.example.sbom.v1";
pub(super) const SIGNATURE: &str = "application/vnd.example.signature.v1";

/// Pushes an artifact that refers to `subject`.
fn refer(lab: &Lab<'_>, kind: &str, subject: &Manifest) -> Result<Manifest, Problem> {
    let manifest = Manifest::of(&artifact(lab, kind, &subject.descriptor())?);
    lab.put(&manifest, &manifest.digest)?;
    Ok(manifest)
}

/// The list is of these manifests, in any order, each once.
pub(super) fn is_of(found: &[Value], wanted: &[&Manifest]) -> Verdict {
    let mut found: Vec<&str> = found.iter().map(|one| one["digest"].as_str().unwrap_or_default()).collect();
    let mut wanted: Vec<&str> = wanted.iter().map(|one| one.digest.as_str()).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    hold(found == wanted, || match found.len() + wanted.len() {
        0..=6 => format!("listed are {found:?}; wanted {wanted:?}"),
        _ => format!("listed are {} manifests; wanted {}, each once", found.len(), wanted.len()),
    })
}

fn supported(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    lab.get(&format!("referrers/{}", Blob::random(10).digest))?.is(&[200])?;
    Ok(())
}

fn of_nothing(lab: &Lab<'_>) -> Verdict {
    require(lab)?;
    let manifest = lab.untagged()?;
    for digest in [&manifest.digest, &Blob::random(10).digest] {
        is_of(&descriptors(&ask(lab, digest)?)?, &[])?;
    }
    Ok(())
}

fn no_repository(lab: &Lab<'_>) -> Verdict {
    require(&lab.another())?;
    is_of(&descriptors(&ask(lab, &Blob::random(10).digest)?)?, &[])
}

fn content_type(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    ask(lab, &subject.digest)?.is(&[200])?.header_is("Content-Type", INDEX)?;
    refer(lab, SBOM, &subject)?;
    ask(lab, &subject.digest)?.is(&[200])?.header_is("Content-Type", INDEX)?;
    Ok(())
}

fn form(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    refer(lab, SBOM, &subject)?;
    let answer = ask(lab, &subject.digest)?;
    let value = answer.is(&[200])?.json()?;
    let good = value["schemaVersion"] == 2 && value["mediaType"] == INDEX && value["manifests"].is_array();
    hold(good, || format!("{} => no image index", answer.request))
}

fn malformed(lab: &Lab<'_>) -> Verdict {
    require(lab)?;
    for digest in ["sha256:baddigest", "x", "sha256:", &Blob::of("x").digest.to_uppercase()] {
        ask(lab, digest)?.is(&[400])?;
    }
    Ok(())
}

/// The only referrer of `subject`, as it is listed.
pub(super) fn only_one(lab: &Lab<'_>, subject: &str, wanted: &Manifest) -> Result<Value, Problem> {
    let found = all(lab, subject)?;
    is_of(&found, &[wanted])?;
    let one = found.into_iter().next().unwrap_or_default();
    for (field, value) in [("mediaType", json!(wanted.media_type)), ("size", json!(wanted.bytes.len()))] {
        hold(one[field] == value, || format!("{field} is {}; wanted {value}", one[field]))?;
    }
    Ok(one)
}

fn listed(lab: &Lab<'_>) -> Verdict {
    let subject = lab.tagged("a")?;
    let referrer = refer(lab, SBOM, &subject)?;
    only_one(lab, &subject.digest, &referrer).map(drop)
}

fn by_tag(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let referrer = Manifest::of(&artifact(lab, SBOM, &subject.descriptor())?);
    lab.put(&referrer, "sbom")?;
    only_one(lab, &subject.digest, &referrer).map(drop)
}

fn several(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let (one, two) = (refer(lab, SBOM, &subject)?, refer(lab, SIGNATURE, &subject)?);
    let three = refer(lab, SBOM, &subject)?;
    is_of(&all(lab, &subject.digest)?, &[&one, &two, &three])
}

fn once(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let referrer = refer(lab, SBOM, &subject)?;
    lab.put(&referrer, &referrer.digest)?;
    lab.put(&referrer, "a")?;
    only_one(lab, &subject.digest, &referrer).map(drop)
}

fn only(lab: &Lab<'_>) -> Verdict {
    let (subject, other) = (lab.untagged()?, lab.untagged()?);
    let referrer = refer(lab, SBOM, &subject)?;
    refer(lab, SBOM, &other)?;
    lab.untagged()?;
    only_one(lab, &subject.digest, &referrer).map(drop)
}

fn same_repository(lab: &Lab<'_>) -> Verdict {
    let (there, subject) = (lab.another(), lab.untagged()?);
    refer(&there, SBOM, &subject)?;
    let referrer = refer(lab, SBOM, &subject)?;
    only_one(lab, &subject.digest, &referrer).map(drop)
}

fn of_referrer(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let sbom = refer(lab, SBOM, &subject)?;
    let signature = refer(lab, SIGNATURE, &sbom)?;
    only_one(lab, &subject.digest, &sbom)?;
    only_one(lab, &sbom.digest, &signature).map(drop)
}

/// Referrers of one type; a registry that does not filter lists all and does not say otherwise.
fn filtered(lab: &Lab<'_>, subject: &Manifest, kind: &str) -> Result<Vec<Value>, Problem> {
    let rest = format!("{}?artifactType={}", subject.digest, crate::registry::url::encoded(kind));
    let answer = ask(lab, &rest)?;
    let applied = answer.is(&[200])?.list("OCI-Filters-Applied");
    match applied.contains(&"artifactType") {
        true => all(lab, &rest),
        false => Err(answer.unsupported()),
    }
}

fn filter(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let (one, two) = (refer(lab, SBOM, &subject)?, refer(lab, SBOM, &subject)?);
    let other = refer(lab, SIGNATURE, &subject)?;
    is_of(&filtered(lab, &subject, SBOM)?, &[&one, &two])?;
    is_of(&filtered(lab, &subject, SIGNATURE)?, &[&other])
}

fn filter_to_nothing(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    refer(lab, SBOM, &subject)?;
    is_of(&filtered(lab, &subject, "application/vnd.example.nobody")?, &[])
}

fn decoded(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let one = refer(lab, "application/vnd.example.sbom+json", &subject)?;
    refer(lab, SIGNATURE, &subject)?;
    is_of(&filtered(lab, &subject, "application/vnd.example.sbom+json")?, &[&one])
}

fn unknown_filter(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let (one, two) = (refer(lab, SBOM, &subject)?, refer(lab, SIGNATURE, &subject)?);
    let rest = format!("{}?colour=red", subject.digest);
    let answer = ask(lab, &rest)?;
    hold(answer.is(&[200])?.list("OCI-Filters-Applied").is_empty(), || {
        format!("{} => says that it filtered", answer.request)
    })?;
    is_of(&all(lab, &rest)?, &[&one, &two])
}

/// Pushes a hundred referrers, every second of which is a signature.
fn hundred(lab: &Lab<'_>, subject: &Manifest) -> Result<Vec<Manifest>, Problem> {
    require(&lab.another())?;
    (0..100).map(|number| refer(lab, if number % 2 == 0 { SBOM } else { SIGNATURE }, subject)).collect()
}

fn pages(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let pushed = hundred(lab, &subject)?;
    is_of(&all(lab, &subject.digest)?, &pushed.iter().collect::<Vec<_>>())
}

fn filtered_pages(lab: &Lab<'_>) -> Verdict {
    let subject = lab.untagged()?;
    let pushed = hundred(lab, &subject)?;
    let wanted: Vec<&Manifest> = pushed.iter().step_by(2).collect();
    is_of(&filtered(lab, &subject, SBOM)?, &wanted)
}

fn deleted(lab: &Lab<'_>) -> Verdict {
    require(&lab.another())?;
    let subject = lab.untagged()?;
    let (one, two) = (refer(lab, SBOM, &subject)?, refer(lab, SBOM, &subject)?);
    lab.delete(&format!("manifests/{}", one.digest))?.is_or_unsupported(&[202])?;
    only_one(lab, &subject.digest, &two).map(drop)
}

fn subject_deleted(lab: &Lab<'_>) -> Verdict {
    require(&lab.another())?;
    let subject = lab.untagged()?;
    let referrer = refer(lab, SBOM, &subject)?;
    lab.delete(&format!("manifests/{}", subject.digest))?.is_or_unsupported(&[202])?;
    let found = descriptors(&ask(lab, &subject.digest)?)?;
    match lab.head(&format!("manifests/{}", referrer.digest))?.is(&[200, 404])?.status() {
        200 => is_of(&found, &[&referrer]),
        _ => is_of(&found, &[]),
    }
}
