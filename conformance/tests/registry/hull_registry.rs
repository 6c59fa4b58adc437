//! `hull registry serve` passes everything, and skips nothing.

use conformance::Outcome;
use conformance::registry::{Options, User};

use crate::servers::Server;
use crate::{findings, not_passed, options};

#[track_caller]
fn check(user: Option<User>) {
    let Some(server) = Server::hull(user.as_ref()) else { return };
    let findings = findings(&Options { user, ..options(server.url()) });
    assert_eq!(not_passed(&findings), []);
    assert!(findings.count(Outcome::Pass) > 300);
}

#[test]
fn hull_passes_every_check_where_everybody_may_do_everything() {
    check(None);
}

#[test]
fn hull_passes_every_check_where_nobody_but_its_user_may_do_anything() {
    check(Some(User { name: "alice".to_owned(), password: "correct horse".to_owned() }));
}
