//! Scopes: what a client wants a token for.
//!
//! ```text
//! repository:team/web:pull,push      registry:catalog:*
//! ```
//!
//! A token is good for its scopes and nothing else, and never for more than its holder may. Scopes
//! that mean nothing here are passed over, as the specification asks.
//!
//! Source: docker's "Token Scope Documentation".

use std::fmt;

use serde::{Deserialize, Serialize};

use super::right::{Action, Actions};
use crate::name::RepositoryName;

/// Scopes that one token may have. More are passed over; a client asks anew for what it lacks.
const MAX_SCOPES: usize = 32;

/// What a token may be used for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Scopes {
    repositories: Vec<(RepositoryName, Actions)>,
    /// The list of repositories.
    catalog: bool,
}

/// One scope, as a server asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Repository(RepositoryName, Actions),
    Catalog,
}

impl Scopes {
    /// Reads the values of all `scope` parameters. Several may stand in one, separated by blanks.
    pub(crate) fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scopes = Self::default();
        for scope in texts.into_iter().flat_map(str::split_whitespace).filter_map(Scope::parse) {
            scopes.add(scope);
        }
        scopes
    }

    /// What is in these scopes and what `may` allows of it.
    #[must_use]
    pub(crate) fn narrowed(mut self, may: impl Fn(Action, &RepositoryName) -> bool) -> Self {
        for (repository, actions) in &mut self.repositories {
            *actions = actions.iter().filter(|action| may(*action, repository)).collect();
        }
        self.repositories.retain(|(_, actions)| !actions.is_empty());
        self
    }

    pub(crate) fn allow(&self, action: Action, repository: &RepositoryName) -> bool {
        self.repositories.iter().any(|(name, actions)| name == repository && actions.contains(action))
    }

    pub(crate) const fn allow_catalog(&self) -> bool {
        self.catalog
    }

    fn add(&mut self, scope: Scope) {
        match scope {
            Scope::Catalog => self.catalog = true,
            Scope::Repository(repository, actions) => {
                let known = self.repositories.iter_mut().find(|(name, _)| *name == repository);
                if let Some((_, known)) = known {
                    *known = known.with(actions);
                } else if self.repositories.len() < MAX_SCOPES {
                    self.repositories.push((repository, actions));
                }
            }
        }
    }
}

impl Scope {
    /// What a client should ask for that wants to do `action`. Whoever pushes also looks what is there.
    pub(crate) fn to(action: Action, repository: RepositoryName) -> Self {
        let and_pull = (action == Action::Push).then_some(Action::Pull);
        Self::Repository(repository, [action].into_iter().chain(and_pull).collect())
    }

    fn parse(text: &str) -> Option<Self> {
        let (resource, actions) = text.rsplit_once(':')?;
        match resource.split_once(':')? {
            ("registry", "catalog") if actions == "*" => Some(Self::Catalog),
            ("repository", name) => {
                let actions = match actions {
                    "*" => Actions::ALL,
                    // Other registries have other actions.
                    some => some.split(',').filter_map(|action| action.parse().ok()).collect(),
                };
                Some(Self::Repository(RepositoryName::parse(name).ok()?, actions))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(name, actions) => write!(f, "repository:{name}:{actions}"),
            Self::Catalog => f.write_str("registry:catalog:*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    /// What `texts` allow in `a` and `b/c`, and whether they allow the catalog.
    #[track_caller]
    fn check(texts: &[&str], a: &str, bc: &str, catalog: bool) {
        let scopes = Scopes::parse(texts.iter().copied());
        let allowed = |repository: &str| {
            let all = [Action::Pull, Action::Push, Action::Delete, Action::Admin].into_iter();
            let allowed = all.filter(|action| scopes.allow(*action, &name(repository)));
            allowed.map(Action::as_str).collect::<Vec<_>>().join(",")
        };
        assert_eq!((allowed("a"), allowed("b/c"), scopes.allow_catalog()), (a.into(), bc.into(), catalog));
    }

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        check(&[], "", "", false);
        check(&["repository:a:pull"], "pull", "", false);
        check(&["repository:a:pull,push", "repository:b/c:pull"], "pull,push", "pull", false);
        check(&["repository:a:pull repository:b/c:push"], "pull", "push", false);
        check(&["repository:a:pull", "repository:a:push"], "pull,push", "", false);
        check(&["repository:a:*"], "pull,push,delete,admin", "", false);
        check(&["registry:catalog:*"], "", "", true);
    }

    #[test]
    fn what_means_nothing_here_is_passed_over() {
        check(&["", "x", "repository:a", "repository::pull", "repository:A:pull"], "", "", false);
        check(&["repository:a:pull,fly,", "repository:b/c:"], "pull", "", false);
        check(&["repository(plugin):a:pull", "registry:catalog:pull", "catalog:*"], "", "", false);
        check(&["repository:*:pull", "repository:../a:pull"], "", "", false);
    }

    #[test]
    fn there_are_only_so_many() {
        let texts: Vec<_> = (0..100).map(|n| format!("repository:r{n}:pull")).collect();
        let scopes = Scopes::parse(texts.iter().map(String::as_str));
        assert_eq!(scopes.repositories.len(), MAX_SCOPES);
    }

    #[test]
    fn narrowing_leaves_what_is_allowed() {
        let scopes = Scopes::parse(["repository:a:pull,push repository:b/c:push registry:catalog:*"]);
        let narrowed = scopes.narrowed(|action, _| action == Action::Pull);
        assert_eq!(narrowed, Scopes::parse(["repository:a:pull registry:catalog:*"]));
    }

    #[test]
    fn what_is_asked_for_is_printed_as_clients_expect_it() {
        assert_eq!(Scope::to(Action::Push, name("a/b")).to_string(), "repository:a/b:pull,push");
        assert_eq!(Scope::to(Action::Pull, name("a")).to_string(), "repository:a:pull");
        assert_eq!(Scope::to(Action::Delete, name("a")).to_string(), "repository:a:delete");
        assert_eq!(Scope::Catalog.to_string(), "registry:catalog:*");
    }
}
