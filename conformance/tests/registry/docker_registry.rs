//! Debian's `docker-registry` fails exactly what is known of it.

use std::process::Command;

use conformance::Outcome;
use conformance::registry::User;

use crate::servers::Server;
use crate::{findings, not_passed, only, options, outcome};

const KNOWN: &str = include_str!("docker-registry-2.8.2.txt");

/// `FAIL name` and `SKIP name`, each of which has a reason behind it.
fn known() -> Vec<String> {
    let lines = KNOWN.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut known: Vec<String> = lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(words.len() > 2, "no reason: {line}");
            words[..2].join(" ")
        })
        .collect();
    known.sort_unstable();
    known
}

fn is_known_version() -> bool {
    let Ok(output) = Command::new("docker-registry").arg("--version").output() else { return true };
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let known = version.contains(" 2.8.2");
    if !known {
        eprintln!(
            "skipped: the faults of docker-registry 2.8.2 are known, but not those of {}",
            version.trim()
        );
    }
    known
}

#[test]
fn docker_registry_fails_what_is_known_of_it_and_nothing_else() {
    let Some(server) = Server::docker_registry("").filter(|_| is_known_version()) else { return };
    let findings = findings(&options(server.url()));
    let found = not_passed(&findings);
    let names: Vec<String> = found.iter().map(|(line, _)| line.clone()).collect();
    let unexpected: Vec<_> = found.iter().filter(|(line, _)| !known().contains(line)).collect();
    assert_eq!(names, known(), "{unexpected:#?}");
    assert!(findings.count(Outcome::Pass) > 200);
    // Leftovers of a run do not matter to the next one.
    let again = crate::findings(&only(server.url(), &["pulling-blobs", "deletion", "catalog"]));
    assert_eq!(again.count(Outcome::Fail), 0, "{:#?}", not_passed(&again));
}

#[test]
fn a_registry_that_asks_for_a_password_is_signed_in_to() {
    // The password is `correct horse`; bcrypt at its lowest cost.
    let htpasswd = "alice:$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("htpasswd");
    std::fs::write(&path, htpasswd).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path.display());
    let Some(server) = Server::docker_registry(&auth) else { return };
    let mut options = only(server.url(), &["signing-in", "pulling-manifests", "mounts"]);
    options.user = Some(User { name: "alice".to_owned(), password: "correct horse".to_owned() });
    let signed_in = findings(&options);
    for finding in &signed_in.all {
        let token = finding.check.starts_with("token-");
        let known = known().iter().any(|line| line.ends_with(&format!(" {}", finding.check)));
        let want = if token { Outcome::Skip } else { Outcome::Pass };
        assert!(known || finding.outcome == want, "{}: {}", finding.check, finding.remark);
    }

    options.user = Some(User { name: "alice".to_owned(), password: "wrong".to_owned() });
    let refused = findings(&options);
    assert_eq!(outcome(&refused, "signing-in"), Outcome::Fail);
    assert_eq!(outcome(&refused, "manifest-by-tag"), Outcome::Fail);
}
