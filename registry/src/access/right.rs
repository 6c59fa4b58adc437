//! Rights: what may be done in which repositories.
//!
//! A right is a grant: a prefix of repository names, and actions. The prefix `team` means the
//! repository `team` and everything below `team/`, never `teams`. Grants only add up; nothing takes
//! away what another one gives.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::RepositoryName;

/// Something that is done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read manifests, blobs and lists.
    Pull,
    /// Upload blobs, put manifests, move tags.
    Push,
    /// Delete manifests, tags and blobs.
    Delete,
    /// All of that, and move or delete tags that nobody else may touch.
    Admin,
}

/// A set of actions. Printed as `pull,push`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(into = "Vec<String>", try_from = "Vec<String>")]
pub struct Actions(u8);

/// The repositories that a grant is about: `*` for all, or the name of one that is meant with all below it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix(Option<RepositoryName>); // `None`: all of them.

/// Actions that are allowed in some repositories. Printed as `PREFIX:ACTIONS`, for instance
/// `team/web:pull,push`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Where.
    pub prefix: Prefix,
    /// What.
    pub actions: Actions,
}

/// Why a text is not a right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// There is no such action.
    #[error("`{text}` is not an action; expected `pull`, `push`, `delete` or `admin`")]
    Action {
        /// What was found, control characters escaped.
        text: String,
    },
    /// No repository can be called that.
    #[error(
        "`{text}` is not a prefix of repository names; expected `*`, or a name such as `team` or `team/web`"
    )]
    Prefix {
        /// What was found, control characters escaped.
        text: String,
    },
    /// There is no `:`.
    #[error("`{text}` is not a right; expected `PREFIX:ACTIONS`, for instance `team/web:pull,push`")]
    Form {
        /// What was found, control characters escaped.
        text: String,
    },
}

impl Action {
    const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Delete, Self::Admin];

    /// `pull`, `push`, `delete` or `admin`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let found = Self::ALL.into_iter().find(|action| action.as_str() == text);
        found.ok_or_else(|| GrantError::Action { text: text.escape_debug().to_string() })
    }
}

impl Actions {
    /// No action.
    pub const NONE: Self = Self(0);
    /// Every action.
    pub const ALL: Self = Self(0b1111);

    /// True if `action` is among them. `admin` implies the others.
    pub const fn contains(self, action: Action) -> bool {
        self.0 & (action.bit() | Action::Admin.bit()) != 0
    }

    /// Those that are in one of the sets at least.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The actions that were named, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.0 & action.bit() != 0)
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        Self(actions.into_iter().fold(0, |bits, action| bits | action.bit()))
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().map(Action::as_str).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Actions({self})")
    }
}

impl FromStr for Actions {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        text.split(',').map(str::parse).collect()
    }
}

impl From<Actions> for Vec<String> {
    fn from(actions: Actions) -> Self {
        actions.iter().map(|action| action.as_str().to_owned()).collect()
    }
}

impl TryFrom<Vec<String>> for Actions {
    type Error = GrantError;

    fn try_from(texts: Vec<String>) -> Result<Self, GrantError> {
        texts.iter().map(|text| text.parse()).collect()
    }
}

impl Prefix {
    pub(crate) fn covers(&self, repository: &RepositoryName) -> bool {
        let Some(prefix) = &self.0 else { return true };
        let rest = repository.as_str().strip_prefix(prefix.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefix({self})")
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("*", RepositoryName::as_str))
    }
}

impl FromStr for Prefix {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        match text {
            "*" => Ok(Self(None)),
            name => RepositoryName::parse(name)
                .map(|name| Self(Some(name)))
                .map_err(|_| GrantError::Prefix { text: text.escape_debug().to_string() }),
        }
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl TryFrom<String> for Prefix {
    type Error = GrantError;

    fn try_from(text: String) -> Result<Self, GrantError> {
        text.parse()
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.prefix, self.actions)
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let form = || GrantError::Form { text: text.escape_debug().to_string() };
        let (prefix, actions) = text.rsplit_once(':').ok_or_else(form)?;
        Ok(Self { prefix: prefix.parse()?, actions: actions.parse()? })
    }
}

/// What `grants` allow in `repository`, together.
pub(crate) fn allowed(grants: &[Grant], repository: &RepositoryName) -> Actions {
    let covering = grants.iter().filter(|grant| grant.prefix.covers(repository));
    covering.fold(Actions::NONE, |actions, grant| actions.with(grant.actions))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `grants` (separated by blanks) allow `action` in `repository`.
    #[track_caller]
    fn check(grants: &str, repository: &str, action: Action, want: bool) {
        let grants: Vec<Grant> = grants.split(' ').map(|grant| grant.parse().unwrap()).collect();
        let repository = RepositoryName::parse(repository).unwrap();
        assert_eq!(allowed(&grants, &repository).contains(action), want);
    }

    #[test]
    fn a_prefix_is_a_repository_and_all_below_it() {
        check("team:pull", "team", Action::Pull, true);
        check("team:pull", "team/web", Action::Pull, true);
        check("team:pull", "team/web/x", Action::Pull, true);
        check("team:pull", "teams", Action::Pull, false);
        check("team:pull", "team-x/web", Action::Pull, false);
        check("team:pull", "other/team", Action::Pull, false);
        check("team/web:pull", "team", Action::Pull, false);
        check("*:pull", "any/thing", Action::Pull, true);
    }

    #[test]
    fn actions_are_allowed_one_by_one_and_admin_implies_the_others() {
        check("team:pull", "team", Action::Push, false);
        check("team:push", "team", Action::Pull, false);
        check("team:pull,push", "team", Action::Delete, false);
        check("team:pull,push,delete", "team", Action::Admin, false);
        for action in Action::ALL {
            check("team:admin", "team", action, true);
        }
    }

    #[test]
    fn grants_add_up() {
        check("*:pull team:push", "team", Action::Pull, true);
        check("*:pull team:push", "team", Action::Push, true);
        check("*:pull team:push", "other", Action::Push, false);
    }

    #[test]
    fn a_grant_reads_back_as_it_prints() {
        for text in ["*:pull", "team/web:pull,push", "a:delete,admin"] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        let grant: Grant = "team:push,pull,push".parse().unwrap();
        assert_eq!(grant.to_string(), "team:pull,push");
        let json = r#"{"prefix":"team","actions":["pull","push"]}"#;
        assert_eq!(serde_json::to_string(&grant).unwrap(), json);
        assert_eq!(serde_json::from_str::<Grant>(json).unwrap(), grant);
    }

    #[test]
    fn what_is_no_grant_is_an_error_that_says_what_is_wrong() {
        let check = |text: &str, want: &str| {
            let error = text.parse::<Grant>().unwrap_err().to_string();
            assert!(error.starts_with(want), "{text}: {error}");
        };
        check("team", "`team` is not a right");
        check("team:", "`` is not an action");
        check("team:fly", "`fly` is not an action");
        check(":pull", "`` is not a prefix");
        check("Team:pull", "`Team` is not a prefix");
        check("team/*:pull", "`team/*` is not a prefix");
        check("team/:pull", "`team/` is not a prefix");
    }
}
