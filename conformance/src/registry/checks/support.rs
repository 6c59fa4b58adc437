//! "Determining Support" (end-1).

use crate::registry::answer::Verdict;
use crate::registry::check::{Section, must, sound};
use crate::registry::client::Identity;
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "support",
    heading: "distribution-spec, API, Determining Support",
    checks: &[
        must("base-is-answered", "GET /v2/ is answered 200 by whatever implements the specification", base),
        must("base-needs-no-rights", "without a user, GET /v2/ is answered 200 or 401", base_for_nobody)
            .from("distribution-spec, API, Endpoints, end-1"),
        sound(
            "unknown-paths-are-refused",
            "a path under /v2/ that no endpoint has is answered 404",
            unknown_path,
        )
        .from("RFC 9110, 15.5.5"),
        sound(
            "unknown-parameters-are-ignored",
            "a parameter that nobody knows changes nothing",
            unknown_parameter,
        ),
    ],
};

fn base(lab: &Lab<'_>) -> Verdict {
    lab.client.ask("GET", "/v2/").send()?.is(&[200])?;
    Ok(())
}

fn base_for_nobody(lab: &Lab<'_>) -> Verdict {
    let answer = lab.client.ask("GET", "/v2/").identity(Identity::Nobody).send()?;
    answer.is(&[200, 401])?;
    Ok(())
}

fn unknown_path(lab: &Lab<'_>) -> Verdict {
    lab.get("nonsense/x")?.is(&[404])?;
    Ok(())
}

fn unknown_parameter(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    lab.get_manifest("a?unheard=of&x")?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}
