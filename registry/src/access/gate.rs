//! Whether somebody may do something.
//!
//! ```text
//!                     has the right           lacks it
//! showed nothing      yes                     Unproven: prove who you are
//! showed who it is    yes                     No, whether or not there is such a repository
//! showed a token      yes, if it is for that  as above
//!                     Unproven, if it is not: get another token
//! ```
//!
//! Source: docker's "Token Authentication Specification"; OCI distribution-spec 1.1, "Error Codes".

use super::login::Account;
use super::principal::Principal;
use super::right::{Action, Grant, allowed};
use super::scope::{Scope, Scopes};
use crate::name::RepositoryName;

/// What it takes to do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: this is how one proves who one is.
    Nothing,
    /// To have shown something, if only that one is nobody.
    Showing,
    /// To have shown something; what is listed is what one may pull.
    Catalog,
    /// A right.
    Right(Action, RepositoryName),
}

/// Who asks, and what they may do.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    principal: Principal,
    /// The principal, printed.
    name: String,
    rights: Rights,
    /// What their bearer token is for; `None` if they showed something else.
    scopes: Option<Scopes>,
    shows: Shows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    Nothing,
    Something,
}

#[derive(Debug, Clone)]
enum Rights {
    /// Those of everybody where there is no account: all but an `admin`'s, since what an operator rules
    /// is meant for somebody.
    Everybodys,
    Granted(Vec<Grant>),
}

/// Whether somebody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    /// Not with what was shown.
    Unproven,
    No,
}

impl Needs {
    /// What to get a token for.
    pub(crate) fn scope(&self) -> Option<Scope> {
        match self {
            Self::Right(action, repository) => Some(Scope::to(*action, repository.clone())),
            Self::Catalog => Some(Scope::Catalog),
            Self::Nothing | Self::Showing => None,
        }
    }
}

impl Caller {
    /// Somebody on a server without accounts.
    pub(crate) fn anybody() -> Self {
        Self::new(Principal::Anonymous, Rights::Everybodys, None, Shows::Something)
    }

    /// Somebody who showed nothing, and may do what everybody may.
    pub(crate) fn nobody(everybodys: &[Grant]) -> Self {
        Self::new(Principal::Anonymous, Rights::Granted(everybodys.to_vec()), None, Shows::Nothing)
    }

    /// Somebody who proved who they are, with a token for `scopes` or with something else.
    pub(crate) fn somebody(account: Account, everybodys: &[Grant], scopes: Option<Scopes>) -> Self {
        let mut grants = account.grants;
        grants.extend_from_slice(everybodys);
        Self::new(account.principal, Rights::Granted(grants), scopes, Shows::Something)
    }

    fn new(principal: Principal, rights: Rights, scopes: Option<Scopes>, shows: Shows) -> Self {
        Self { name: principal.to_string(), principal, rights, scopes, shows }
    }

    /// Who it is, as it is told and written down.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// True if they showed a bearer token, and nothing better.
    pub(crate) const fn has_token(&self) -> bool {
        self.scopes.is_some()
    }

    pub(crate) const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// True if they have the right, and showed something that is good for it.
    ///
    /// A token narrows what is pulled, pushed and deleted. Whether that touches what only an `admin`
    /// may touch is not in it: clients do not know that action.
    pub(crate) fn may(&self, action: Action, repository: &RepositoryName) -> bool {
        let in_scope = match &self.scopes {
            Some(scopes) if action != Action::Admin => scopes.allow(action, repository),
            _ => true,
        };
        in_scope && self.has_right(action, repository)
    }

    /// True if they have the right, whatever they showed.
    pub(crate) fn has_right(&self, action: Action, repository: &RepositoryName) -> bool {
        match &self.rights {
            Rights::Everybodys => action != Action::Admin,
            Rights::Granted(grants) => allowed(grants, repository).contains(action),
        }
    }

    /// Whether they may do what needs that.
    pub(crate) fn judge(&self, needs: &Needs) -> Verdict {
        let (is_proven, is_allowed) = match needs {
            Needs::Nothing => (true, true),
            Needs::Showing => (self.shows == Shows::Something, true),
            Needs::Catalog => match &self.scopes {
                None => (self.shows == Shows::Something, true),
                Some(scopes) => (scopes.allow_catalog(), true),
            },
            Needs::Right(action, repository) => {
                // To whom nobody is known, a login may help.
                let may_help = self.principal == Principal::Anonymous;
                (self.may(*action, repository), may_help || self.has_right(*action, repository))
            }
        };
        match (is_proven, is_allowed) {
            (true, _) => Verdict::Yes,
            (false, true) => Verdict::Unproven,
            (false, false) => Verdict::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grants, and what is asked for: `pull team`.
    fn caller(who: &str, everybodys: &str) -> Caller {
        let grants =
            |text: &str| -> Vec<Grant> { text.split_whitespace().map(|g| g.parse().unwrap()).collect() };
        let everybodys = grants(everybodys);
        let account = |granted: &str| {
            let principal = "user:alice".parse().unwrap();
            Account { principal, credential: String::new(), grants: grants(granted) }
        };
        match who.split_once(" with ") {
            None if who == "nobody" => Caller::nobody(&everybodys),
            None => Caller::somebody(account(who), &everybodys, None),
            Some(("nobody", scopes)) => {
                Caller::somebody(Account::anonymous(), &everybodys, Some(Scopes::parse([scopes])))
            }
            Some((granted, scopes)) => {
                Caller::somebody(account(granted), &everybodys, Some(Scopes::parse([scopes])))
            }
        }
    }

    fn needs(text: &str) -> Needs {
        match text.split_once(' ') {
            Some((action, name)) => {
                Needs::Right(action.parse().unwrap(), RepositoryName::parse(name).unwrap())
            }
            None if text == "catalog" => Needs::Catalog,
            None => Needs::Showing,
        }
    }

    /// `want` is `yes`, `no`, or the scope that is asked for.
    #[track_caller]
    fn check(who: &str, everybodys: &str, what: &str, want: &str) {
        let verdict = match caller(who, everybodys).judge(&needs(what)) {
            Verdict::Yes => "yes".to_owned(),
            Verdict::No => "no".to_owned(),
            Verdict::Unproven => needs(what).scope().map_or_else(String::new, |scope| scope.to_string()),
        };
        assert_eq!(verdict, want, "{who}: {what}");
    }

    #[test]
    fn nobody_may_what_everybody_may_and_is_asked_for_a_login_otherwise() {
        check("nobody", "", "pull team", "repository:team:pull");
        check("nobody", "", "push team", "repository:team:pull,push");
        check("nobody", "", "delete team", "repository:team:delete");
        check("nobody", "", "showing", "");
        check("nobody", "", "catalog", "registry:catalog:*");
        check("nobody", "team:pull", "pull team", "yes");
        check("nobody", "team:pull", "push team", "repository:team:pull,push");
        check("nobody", "team:pull", "pull other", "repository:other:pull");
        check("nobody", "team:pull", "showing", "");
        check("nobody", "team:pull", "catalog", "registry:catalog:*");
    }

    #[test]
    fn who_is_known_may_what_they_have_the_right_to_and_nothing_else() {
        check("team:pull", "", "pull team/web", "yes");
        check("team:pull", "", "push team/web", "no");
        check("team:pull", "", "pull other", "no");
        check("team:pull", "other:pull", "pull other", "yes");
        check("team:admin", "", "delete team/web", "yes");
        check("team:pull", "", "showing", "yes");
        check("team:pull", "", "catalog", "yes");
    }

    #[test]
    fn a_token_narrows_what_its_holder_may_and_widens_nothing() {
        check("team:pull,push with repository:team:pull", "", "pull team", "yes");
        check("team:pull,push with repository:team:pull", "", "push team", "repository:team:pull,push");
        check("team:pull,push with repository:team:pull", "", "pull team/web", "repository:team/web:pull");
        check("team:pull with repository:team:pull,push", "", "push team", "no");
        check("team:pull with repository:other:pull", "", "pull other", "no");
        check("team:pull with repository:team:pull", "", "catalog", "registry:catalog:*");
        check("team:pull with registry:catalog:*", "", "catalog", "yes");
        check("team:pull with x", "", "showing", "yes");
        check("nobody with repository:team:pull", "team:pull", "pull team", "yes");
        check("nobody with repository:team:pull", "", "pull team", "repository:team:pull");
        check("nobody with repository:team:push", "team:pull", "push team", "repository:team:pull,push");
    }

    #[test]
    fn an_admin_is_one_with_a_token_too() {
        let team = RepositoryName::parse("team").unwrap();
        assert!(caller("team:admin with repository:team:push", "").may(Action::Admin, &team));
        assert!(!caller("team:push with repository:team:push", "").may(Action::Admin, &team));
        assert!(!caller("team:push with repository:team:*", "").may(Action::Admin, &team));
    }

    #[test]
    fn where_there_is_no_account_anybody_may_do_anything_but_break_rules() {
        for what in ["pull team", "push team", "delete team", "catalog", "showing"] {
            assert_eq!(Caller::anybody().judge(&needs(what)), Verdict::Yes);
        }
        assert!(!Caller::anybody().may(Action::Admin, &RepositoryName::parse("team").unwrap()));
    }
}
