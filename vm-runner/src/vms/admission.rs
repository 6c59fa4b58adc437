//! May this appliance run here and now? What its own policy says to that.
//!
//! Pure: the day and the host's name are told. What cannot be verified is refused.

use appliance::Policy;

/// Where and when an appliance is to be started.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The host's full name.
    pub host: &'a str,
    /// Today in UTC, as `YYYY-MM-DD`.
    pub today: &'a str,
}

/// Why an appliance's policy forbids that it runs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Its last day is over.
    #[error("the appliance expired on {expires}; today is {today}")]
    Expired {
        /// Its last day.
        expires: String,
        /// Today.
        today: String,
    },
    /// It may run on other hosts only.
    #[error("the appliance may run on {allowed} only; this host is `{host}`")]
    WrongHost {
        /// The hosts it may run on.
        allowed: String,
        /// This host's name.
        host: String,
    },
    /// It must be signed, and signatures cannot be verified.
    #[error(
        "the appliance requires {required} of its keys to have signed it; this hull cannot verify signatures"
    )]
    Unverifiable {
        /// How many signatures it requires.
        required: u32,
    },
}

/// Holds `policy` against the circumstances.
///
/// # Errors
///
/// [`Refusal`], the first one found.
pub fn admit(policy: &Policy, circumstances: Circumstances<'_>) -> Result<(), Refusal> {
    let Circumstances { host, today } = circumstances;
    if let Some(trust) = &policy.trust
        && trust.require > 0
    {
        return Err(Refusal::Unverifiable { required: trust.require });
    }
    // Both are written with leading zeros, so that their order as text is their order in time.
    if let Some(expires) = &policy.expires
        && expires.as_str() < today
    {
        return Err(Refusal::Expired { expires: expires.clone(), today: today.to_owned() });
    }
    let hosts = policy.placement.as_ref().map_or(&[][..], |placement| &placement.hosts);
    if !hosts.is_empty() && !hosts.iter().any(|pattern| matches(pattern, host)) {
        return Err(Refusal::WrongHost { allowed: hosts.join(", "), host: host.to_owned() });
    }
    Ok(())
}

/// True if `name` is `pattern`, in which each `*` stands for any text. Letters match in either case.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The day that lies `unix_s` seconds after the beginning of 1970, in UTC, as `YYYY-MM-DD`.
///
/// Source: the civil calendar of ISO 8601; years are counted from March, so that leap days come last.
pub fn day_of(unix_s: u64) -> String {
    let days = unix_s / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use appliance::policy::{Placement, Trust};

    use super::*;

    #[track_caller]
    fn check(edit: impl FnOnce(&mut Policy), want: Result<(), &str>) {
        let mut policy = Policy {
            policy_version: 1,
            machines: Default::default(),
            trust: None,
            placement: None,
            expires: None,
        };
        edit(&mut policy);
        let here = Circumstances { host: "web1.prod.example.org", today: "2027-06-30" };
        let admitted = admit(&policy, here).map_err(|refusal| refusal.to_string());
        assert_eq!(admitted.as_ref().map_err(String::as_str).copied(), want);
    }

    #[test]
    fn an_appliance_runs_until_its_last_day_and_where_it_may() {
        check(|_| {}, Ok(()));
        check(|policy| policy.expires = Some("2027-06-30".into()), Ok(()));
        let expired = "the appliance expired on 2027-06-29; today is 2027-06-30";
        check(|policy| policy.expires = Some("2027-06-29".into()), Err(expired));
        let at =
            |hosts: &[&str]| Some(Placement { hosts: hosts.iter().map(|host| (*host).to_owned()).collect() });
        check(|policy| policy.placement = at(&[]), Ok(()));
        check(|policy| policy.placement = at(&["a", "*.PROD.example.org"]), Ok(()));
        let wrong = "the appliance may run on *.test.example.org only; this host is `web1.prod.example.org`";
        check(|policy| policy.placement = at(&["*.test.example.org"]), Err(wrong));
    }

    #[test]
    fn what_cannot_be_verified_is_refused() {
        let refused =
            "the appliance requires 1 of its keys to have signed it; this hull cannot verify signatures";
        let trust = |require| Some(Trust { require, keys: vec!["ed25519:x".into()] });
        check(|policy| policy.trust = trust(1), Err(refused));
        check(|policy| policy.trust = trust(0), Ok(()));
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("web*.example.org", "web1.example.org", true),
            ("*.example.org", "example.org", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "ac", false),
            ("ab*ba", "aba", false),
            ("web", "webs", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (unix_s, want) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_798_761_599, "2026-12-31"),
            (1_798_761_600, "2027-01-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day_of(unix_s), want);
        }
    }
}
