//! What goes because of its age, and why: the pure part of retention. Who asks deletes it.
//!
//! - A rule with `keep_newest` or `tags_older_than` is about the tags that its `tags` match. It keeps
//!   the newest of them, and those that are young enough; it lets the others go.
//! - A tag goes if a rule lets it go and none keeps it. One that no rule is about stays, and so does an
//!   immutable one, which is counted among the newest all the same.
//! - A manifest that no tag leads to goes when it is older than every matching rule's
//!   `untagged_after` says. Without such a rule it stays.
//!
//! So one more rule never deletes what another keeps, and forgetting one deletes nothing.

use std::time::Duration;

use super::{Rule, Rules};

/// Something that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired<T> {
    /// What it is.
    pub what: T,
    /// Which rules let it go, as a sentence for people.
    pub reason: String,
}

/// What a rule says of a tag that it is about.
enum Verdict {
    Keeps,
    /// For this reason.
    LetsGo(String),
}

impl Rules {
    /// Those of a repository's tags that are to go, newest first. `tags` has all of them, each with how
    /// long ago it was set last, in any order.
    pub fn expired_tags<'t>(&self, repository: &str, tags: &[(&'t str, Duration)]) -> Vec<Expired<&'t str>> {
        let mut newest_first = tags.to_vec();
        // Of tags that were set at the same time, always the same ones stay.
        newest_first.sort_unstable_by_key(|(tag, age)| (*age, *tag));
        let mut reasons: Vec<Option<Vec<String>>> = vec![Some(Vec::new()); newest_first.len()];
        for rule in self.of(repository).filter(|rule| rule.is_about_tags()) {
            let about = newest_first.iter().zip(&mut reasons).filter(|((tag, _), _)| rule.covers(tag));
            for (place, ((_, age), reasons)) in about.enumerate() {
                match rule.judge(place, *age) {
                    Verdict::Keeps => *reasons = None,
                    Verdict::LetsGo(reason) => reasons.iter_mut().for_each(|all| all.push(reason.clone())),
                }
            }
        }
        let judged = newest_first.into_iter().zip(reasons);
        let gone = judged.filter_map(|((what, _), reasons)| {
            let reasons = reasons.filter(|reasons| !reasons.is_empty())?;
            (!self.is_immutable(repository, what)).then(|| Expired { what, reason: reasons.join("; ") })
        });
        gone.collect()
    }

    /// Those of a repository's manifests without a tag that are to go, in the order of `manifests`: each
    /// with how long ago its newest copy was put.
    ///
    /// `manifests` must leave out children of an index that stays and referrers of what stays.
    pub fn expired_manifests<T>(
        &self,
        repository: &str,
        manifests: impl IntoIterator<Item = (T, Duration)>,
    ) -> Vec<Expired<T>> {
        let rules = self.of(repository);
        let longest =
            rules.filter_map(|rule| Some((rule.untagged_after?, rule))).max_by_key(|(time, _)| *time);
        let Some((limit, rule)) = longest else { return Vec::new() };
        let old = manifests.into_iter().filter(|(_, age)| *age > limit);
        let gone = old.map(|(what, age)| {
            let (pattern, limit, age) = (&rule.repositories, span(limit), span(age));
            let reason = format!(
                "the rule for `{pattern}` keeps untagged manifests for {limit}; this was pushed {age} ago"
            );
            Expired { what, reason }
        });
        gone.collect()
    }
}

impl Rule {
    /// True if something may go by this rule.
    pub(crate) const fn has_retention(&self) -> bool {
        self.is_about_tags() || self.untagged_after.is_some()
    }

    const fn is_about_tags(&self) -> bool {
        self.keep_newest.is_some() || self.tags_older_than.is_some()
    }

    fn covers(&self, tag: &str) -> bool {
        self.tags.is_empty() || self.tags.iter().any(|pattern| pattern.matches(tag))
    }

    /// Judges the tag that is at `place`, counted from 0, among those that the rule is about.
    fn judge(&self, place: usize, age: Duration) -> Verdict {
        let is_among_newest = self.keep_newest.is_some_and(|newest| place < newest);
        let is_young = self.tags_older_than.is_some_and(|limit| age <= limit);
        if is_among_newest || is_young {
            return Verdict::Keeps;
        }
        let newest = self.keep_newest.map(|newest| match newest {
            1 => "the newest".to_owned(),
            newest => format!("the {newest} newest"),
        });
        let younger = self.tags_older_than.map(|limit| format!("what was set within {}", span(limit)));
        let kept: Vec<String> = newest.into_iter().chain(younger).collect();
        Verdict::LetsGo(format!(
            "the rule for `{}` keeps {} of {}; this is number {}, set {} ago",
            self.repositories,
            kept.join(" and "),
            self.subject(),
            place + 1,
            span(age)
        ))
    }

    /// The tags that the rule is about.
    fn subject(&self) -> String {
        let patterns: Vec<String> = self.tags.iter().map(|pattern| format!("`{pattern}`")).collect();
        if patterns.is_empty() { "all tags".to_owned() } else { patterns.join(", ") }
    }
}

/// A time in its largest unit of which there are two at least.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(24 * 60 * 60, "days"), (60 * 60, "hours"), (60, "minutes")];
    match units.into_iter().find(|(unit, _)| seconds >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * DAY)
    }

    fn patterns(text: &str) -> Vec<Pattern> {
        text.split_whitespace().map(Pattern::new).collect()
    }

    /// A rule for all repositories about these tags.
    fn rule(tags: &str, keep_newest: Option<usize>, older_than: Option<u64>) -> Rule {
        let tags_older_than = older_than.map(days);
        Rule { tags: patterns(tags), keep_newest, tags_older_than, ..Rule::new(Pattern::new("*")) }
    }

    /// Of tags that were set so many days ago, `want` go.
    #[track_caller]
    fn check(rules: &[Rule], tags: &[(&str, u64)], want: &[&str]) {
        let rules = Rules(rules.to_vec());
        let tags: Vec<_> = tags.iter().map(|(tag, age)| (*tag, days(*age))).collect();
        let gone: Vec<_> = rules.expired_tags("team/web", &tags).into_iter().map(|gone| gone.what).collect();
        assert_eq!(gone, want);
    }

    const FOUR: [(&str, u64); 4] = [("old", 30), ("new", 1), ("newer", 0), ("older", 40)];

    #[test]
    fn without_a_rule_about_them_tags_stay() {
        check(&[], &FOUR, &[]);
        check(&[rule("", None, None)], &FOUR, &[]);
        check(&[rule("v*", Some(0), None)], &FOUR, &[]);
        let elsewhere = Rule { repositories: Pattern::new("other/*"), ..rule("", Some(0), None) };
        check(&[elsewhere], &FOUR, &[]);
    }

    #[test]
    fn the_newest_stay() {
        check(&[rule("", Some(5), None)], &FOUR, &[]);
        check(&[rule("", Some(3), None)], &FOUR, &["older"]);
        check(&[rule("", Some(1), None)], &FOUR, &["new", "old", "older"]);
        check(&[rule("", Some(0), None)], &FOUR, &["newer", "new", "old", "older"]);
        // Only those that the rule is about are counted.
        check(&[rule("old*", Some(1), None)], &FOUR, &["older"]);
        // Set at the same time: always the same one goes.
        check(&[rule("", Some(1), None)], &[("b", 1), ("a", 1)], &["b"]);
        check(&[rule("", Some(1), None)], &[("a", 1), ("b", 1)], &["b"]);
    }

    #[test]
    fn what_is_old_goes_but_for_the_newest() {
        check(&[rule("", None, Some(30))], &FOUR, &["older"]);
        check(&[rule("", None, Some(29))], &FOUR, &["old", "older"]);
        check(&[rule("", Some(3), Some(29))], &FOUR, &["older"]);
        check(&[rule("", Some(1), Some(5))], &FOUR, &["old", "older"]);
        check(&[rule("", Some(0), Some(50))], &FOUR, &[]);
    }

    #[test]
    fn what_any_rule_keeps_stays() {
        check(&[rule("", None, Some(5)), rule("old*", Some(1), None)], &FOUR, &["older"]);
        check(&[rule("old*", Some(1), None), rule("", None, Some(5))], &FOUR, &["older"]);
        check(&[rule("old", Some(0), None), rule("new*", Some(1), None)], &FOUR, &["new", "old"]);
    }

    #[test]
    fn immutable_tags_stay_and_count() {
        let frozen = Rule { immutable_tags: patterns("old new*"), ..rule("", Some(1), None) };
        check(&[frozen], &FOUR, &["older"]);
    }

    #[test]
    fn whoever_looks_first_is_told_why() {
        let rules = Rules(vec![rule("pr-* ci-*", Some(1), Some(14)), rule("", Some(2), None)]);
        let tags = [("pr-1", days(90)), ("pr-2", days(1)), ("latest", days(0))];
        let gone = rules.expired_tags("r", &tags);
        assert_eq!(
            gone[0].reason,
            "the rule for `*` keeps the newest and what was set within 14 days of `pr-*`, `ci-*`; this is \
             number 2, set 90 days ago; the rule for `*` keeps the 2 newest of all tags; this is number 3, \
             set 90 days ago"
        );
    }

    #[test]
    fn untagged_manifests_stay_as_long_as_any_rule_keeps_them() {
        let check = |limits: &[u64], want: &[&str]| {
            let rule = |limit: &u64| Rule { untagged_after: Some(days(*limit)), ..rule("", None, None) };
            let rules = Rules(limits.iter().map(rule).collect());
            let gone = rules.expired_manifests("r", FOUR.map(|(name, age)| (name, days(age))));
            assert_eq!(gone.iter().map(|gone| gone.what).collect::<Vec<_>>(), want);
        };
        check(&[], &[]);
        check(&[30], &["older"]);
        check(&[1], &["old", "older"]);
        check(&[1, 30, 2], &["older"]);
    }

    #[test]
    fn untagged_manifests_go_for_a_reason() {
        let rules = Rules(vec![Rule { untagged_after: Some(days(7)), ..Rule::new(Pattern::new("ci/*")) }]);
        let reason = &rules.expired_manifests("ci/web", [((), days(8))])[0].reason;
        assert_eq!(
            reason,
            "the rule for `ci/*` keeps untagged manifests for 7 days; this was pushed 8 days ago"
        );
        assert!(rules.expired_manifests("web", [((), days(8))]).is_empty());
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        let check = |seconds, want| assert_eq!(span(Duration::from_secs(seconds)), want);
        check(1, "1 seconds");
        check(119, "119 seconds");
        check(120, "2 minutes");
        check(DAY, "24 hours");
        check(14 * DAY + 1, "14 days");
    }
}
