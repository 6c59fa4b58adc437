//! `hull registry serve` passes everything, and skips nothing.

use conformance::Outcome;

use crate::servers::Server;
use crate::{findings, not_passed, options};

#[test]
fn hull_passes_every_check() {
    let Some(server) = Server::hull() else { return };
    let findings = findings(&options(server.url()));
    assert_eq!(not_passed(&findings), []);
    assert!(findings.count(Outcome::Pass) > 250);
}
