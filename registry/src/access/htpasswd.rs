//! Users of another registry: the lines of an htpasswd file.
//!
//! ```text
//! # a comment
//! alice:$2y$10$...
//! ```
//!
//! Only bcrypt (`htpasswd -B`) is taken over. The other schemes are broken or are no hashes at all.
//! Messages tell the line and never what it holds behind the name.
//!
//! Source: Apache httpd 2.4, "Password Formats".

use std::collections::HashSet;

use super::password::StoredPassword;
use super::principal::{AccountName, AccountNameError};

/// Why an htpasswd file is not taken over. Nothing of it is then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HtpasswdError {
    /// There is no `:`.
    #[error("line {line} is not `NAME:HASH`")]
    Form {
        /// Counted from 1.
        line: usize,
    },
    /// The name cannot be a user's here.
    #[error("line {line} names a user that cannot be here")]
    Name {
        /// Counted from 1.
        line: usize,
        /// Why.
        #[source]
        reason: AccountNameError,
    },
    /// One user, two passwords.
    #[error("line {line} names `{name}` again")]
    Twice {
        /// Counted from 1.
        line: usize,
        /// The user.
        name: AccountName,
    },
    /// The hash is none that still protects a password.
    #[error(
        "line {line}: the password of `{name}` is {scheme}; wanted is bcrypt with a cost of at most 15, as \
         `htpasswd -B` writes it"
    )]
    Scheme {
        /// Counted from 1.
        line: usize,
        /// The user.
        name: AccountName,
        /// What it is instead.
        scheme: &'static str,
    },
}

/// Reads a whole file.
pub(crate) fn parse(text: &str) -> Result<Vec<(AccountName, StoredPassword)>, HtpasswdError> {
    let mut users: Vec<(AccountName, StoredPassword)> = Vec::new();
    let mut seen = HashSet::new();
    for (index, entry) in text.lines().enumerate() {
        let (line, entry) = (index + 1, entry.trim());
        if entry.is_empty() || entry.starts_with('#') {
            continue;
        }
        let (name, hash) = entry.split_once(':').ok_or(HtpasswdError::Form { line })?;
        let name: AccountName = name.parse().map_err(|reason| HtpasswdError::Name { line, reason })?;
        let Some(stored) = StoredPassword::from_bcrypt(hash) else {
            return Err(HtpasswdError::Scheme { line, name, scheme: scheme(hash) });
        };
        if !seen.insert(name.clone()) {
            return Err(HtpasswdError::Twice { line, name });
        }
        users.push((name, stored));
    }
    Ok(users)
}

fn scheme(hash: &str) -> &'static str {
    let heads = [
        ("$apr1$", "hashed with Apache's MD5"),
        ("$1$", "hashed with MD5"),
        ("$2", "bcrypt of a kind or a cost that is not verified here"),
        ("$5$", "hashed with SHA-256"),
        ("$6$", "hashed with SHA-512"),
        ("{SHA}", "hashed with unsalted SHA-1"),
    ];
    let known = heads.into_iter().find(|(head, _)| hash.starts_with(head));
    known.map_or("not hashed, or in a way that is not known here", |(_, scheme)| scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bcrypt() -> String {
        format!("$2y$05${}", "a".repeat(53))
    }

    #[test]
    fn names_and_hashes_are_read_and_comments_are_not() {
        let users = parse(&format!("# made by hand\n\nalice:{0}\r\n  bob:{0}  \n", bcrypt())).unwrap();
        let names: Vec<_> = users.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
        assert!(users.iter().all(|(_, stored)| stored.as_str() == bcrypt()));
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn other_schemes_and_bad_lines_are_refused_without_showing_a_hash() {
        let good = bcrypt();
        let check = |text: &str, want: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(want) && !error.contains("SECRET"), "{error}");
        };
        check("SECRET", "line 1 is not `NAME:HASH`");
        check(&format!("a:{good}\nb c:SECRET"), "line 2 names a user that cannot be here");
        check(&format!("a:{good}\n\na:{good}"), "line 3 names `a` again");
        check(
            "a:$apr1$x$SECRET",
            "line 1: the password of `a` is hashed with Apache's MD5; wanted is bcrypt",
        );
        check("a:{SHA}SECRET", "line 1: the password of `a` is hashed with unsalted SHA-1");
        check("a:$6$x$SECRET", "line 1: the password of `a` is hashed with SHA-512");
        check("a:$2y$31$SECRET", "line 1: the password of `a` is bcrypt of a kind");
        check("a:SECRET", "line 1: the password of `a` is not hashed");
        check("a:", "line 1: the password of `a` is not hashed");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(\\PC{0,40}\n){0,4}|[a-z:$0-9/{}#\n]{0,80}") {
            let _ = parse(&text);
        }
    }
}
