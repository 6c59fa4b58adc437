//! What the operator rules for repositories: what may not move, how much they hold, what is kept.
//!
//! Every rule whose pattern matches a repository holds for it. Where several do:
//!
//! - of quotas, the smallest counts;
//! - a tag is immutable if any rule says so;
//! - of what may go for its age, what any rule keeps stays ([`retention`]'s business).
//!
//! Values only. Whoever pushes asks, and so does whoever collects garbage.

mod retention;

use std::fmt;
use std::time::Duration;

pub use self::retention::Expired;

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
    /// Bytes of all blobs and manifests that one repository may hold.
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

/// What makes a tag immutable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Immutable<'a> {
    /// The rule's pattern for repositories.
    pub repositories: &'a Pattern,
    /// Its pattern for tags that matched.
    pub tags: &'a Pattern,
}

impl Rules {
    /// Bytes that a repository may hold; `None` if as many as there is room for.
    pub fn quota(&self, repository: &str) -> Option<u64> {
        self.of(repository).filter_map(|rule| rule.quota_bytes).min()
    }

    /// What makes a tag immutable, if anything does.
    pub fn immutable(&self, repository: &str, tag: &str) -> Option<Immutable<'_>> {
        self.of(repository).find_map(|rule| {
            let tags = rule.immutable_tags.iter().find(|pattern| pattern.matches(tag))?;
            Some(Immutable { repositories: &rule.repositories, tags })
        })
    }

    /// True if a tag never moves and is never deleted, once it is there.
    pub fn is_immutable(&self, repository: &str, tag: &str) -> bool {
        self.immutable(repository, tag).is_some()
    }

    /// True if a repository may have immutable tags.
    pub fn has_immutable_tags(&self, repository: &str) -> bool {
        self.of(repository).any(|rule| !rule.immutable_tags.is_empty())
    }

    /// The rules for a repository.
    pub fn of<'a>(&'a self, repository: &str) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(move |rule| rule.repositories.matches(repository))
    }
}

impl Rule {
    /// A rule for these repositories that rules nothing yet.
    pub const fn new(repositories: Pattern) -> Self {
        Self {
            repositories,
            immutable_tags: Vec::new(),
            quota_bytes: None,
            tags: Vec::new(),
            keep_newest: None,
            tags_older_than: None,
            untagged_after: None,
        }
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

    fn rules() -> Rules {
        let rule = |pattern: &str, quota_bytes, immutable: &[&str]| Rule {
            quota_bytes,
            immutable_tags: immutable.iter().map(|text| Pattern::new(*text)).collect(),
            ..Rule::new(Pattern::new(pattern))
        };
        Rules(vec![
            rule("*", Some(100), &[]),
            rule("team/*", Some(200), &["v*", "stable"]),
            rule("team/small", Some(50), &[]),
            rule("free", None, &["*-rc"]),
        ])
    }

    #[test]
    fn the_smallest_quota_counts() {
        let check = |repository: &str, want| assert_eq!(rules().quota(repository), want, "{repository}");
        check("other", Some(100));
        check("team/web", Some(100));
        check("team/small", Some(50));
        check("free", Some(100));
        assert_eq!(Rules::default().quota("other"), None);
        assert_eq!(Rules(vec![Rule::new(Pattern::new("*"))]).quota("other"), None);
    }

    #[test]
    fn a_tag_is_immutable_if_any_rule_says_so() {
        let check = |repository: &str, tag: &str, want: Option<(&str, &str)>| {
            let rules = rules();
            let found = rules.immutable(repository, tag);
            let found = found.map(|found| (found.repositories.to_string(), found.tags.to_string()));
            assert_eq!(found, want.map(|(a, b)| (a.to_owned(), b.to_owned())), "{repository}:{tag}");
            assert_eq!(rules.is_immutable(repository, tag), want.is_some());
        };
        check("team/web", "v1", Some(("team/*", "v*")));
        check("team/web", "stable", Some(("team/*", "stable")));
        check("team/web", "latest", None);
        check("free", "1-rc", Some(("free", "*-rc")));
        check("other", "v1", None);
        assert!(rules().has_immutable_tags("team/web") && !rules().has_immutable_tags("other"));
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
