//! What the operator rules for repositories: what may not move, how much they hold, what is kept.
//!
//! Every rule whose pattern matches a repository holds for it, so rules add up, and of two that
//! disagree the stricter one decides. Values only; who pushes and who collects garbage asks.

use std::fmt;
use std::time::Duration;

/// All rules, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

/// What holds for the repositories that a pattern matches. What is absent rules nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The repositories.
    pub repositories: Pattern,
    /// Tags that never move and are never deleted, once they are there.
    pub immutable_tags: Vec<Pattern>,
    /// Bytes of all blobs that one repository may hold.
    pub quota_bytes: Option<u64>,
    /// The tags that `keep_newest` and `tags_older_than` are about; all of them where this is empty.
    pub tags: Vec<Pattern>,
    /// So many of those tags stay, those set last. Without `tags_older_than`, the others go.
    pub keep_newest: Option<usize>,
    /// Those tags go when they were set longer ago than this, but for what `keep_newest` keeps.
    pub tags_older_than: Option<Duration>,
    /// A manifest that no tag leads to goes when it was pushed longer ago than this.
    pub untagged_after: Option<Duration>,
}

/// A name in which each `*` stands for any text, slashes and nothing at all included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Rules {
    /// The rules for a repository.
    pub fn of<'a>(&'a self, repository: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(move |rule| rule.repositories.matches(repository))
    }
}

impl Pattern {
    /// The pattern that is written so.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// True if `name` is what the pattern says.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, others)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let (middle, last) = others.rsplit_once('*').unwrap_or(("", others));
        // The leftmost place for each part leaves the most to those behind it.
        for part in middle.split('*') {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let check = |pattern: &str, name: &str, want: bool| {
            assert_eq!(Pattern::new(pattern).matches(name), want, "{pattern} {name}");
        };
        check("web", "web", true);
        check("web", "web2", false);
        check("*", "", true);
        check("*", "a/b", true);
        check("team/*", "team/a/b", true);
        check("team/*", "team", false);
        check("team/*", "teams/a", false);
        check("*/web", "a/b/web", true);
        check("*/web", "a/web/b", false);
        check("v*.*.*", "v1.2.3", true);
        check("v*.*.*", "v1.2", false);
        check("a*a", "a", false);
        check("a*a", "aa", true);
        check("*ab*ab*", "abab", true);
        check("*ab*ab*", "aab", false);
        check("**", "x", true);
        check("", "", true);
        check("", "x", false);
    }

    #[test]
    fn all_rules_that_match_hold() {
        let rule = |pattern: &str, quota| Rule {
            repositories: Pattern::new(pattern),
            immutable_tags: Vec::new(),
            quota_bytes: Some(quota),
            tags: Vec::new(),
            keep_newest: None,
            tags_older_than: None,
            untagged_after: None,
        };
        let rules = Rules(vec![rule("*", 1), rule("team/*", 2), rule("other", 3)]);
        let quotas: Vec<_> = rules.of("team/web").filter_map(|rule| rule.quota_bytes).collect();
        assert_eq!(quotas, [1, 2]);
    }

    proptest::proptest! {
        #[test]
        fn patterns_match_as_the_plainest_algorithm_says(pattern in "[ab*]{0,8}", name in "[ab]{0,8}") {
            fn plainly(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|n| plainly(rest, &name[n..])),
                    Some((c, rest)) => name.first() == Some(c) && plainly(rest, &name[1..]),
                }
            }
            let want = plainly(pattern.as_bytes(), name.as_bytes());
            proptest::prop_assert_eq!(Pattern::new(pattern).matches(&name), want);
        }
    }
}
