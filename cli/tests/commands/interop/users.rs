//! A registry with users and robots: who signs in with what, who may do what, and what others are told.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use blob_store::FolderStorage;
use registry::{Access, AccessError, Expiry, Secret, SystemClock};

use super::images::{files, write_context};
use super::machine::Machine;
use crate::support::disks::noise;
use crate::support::registry::Registry;
use crate::support::source::author_in;
use crate::support::{Done, Host};

/// A registry in which alice may do everything below `team`, a robot may pull there, and everybody may
/// pull below `public`.
#[derive(Debug)]
struct WithUsers {
    _registry: Registry,
    _host: Host,
    address: String,
    /// The robot's token. Its name is `reader`.
    token: String,
}

const PASSWORD: &str = "correct horse battery";

impl WithUsers {
    fn start() -> Self {
        let host = Host::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let token = runtime.block_on(accounts(&host.folder().join("registry"))).unwrap();
        fs::write(host.folder().join("registry.toml"), "[access]\nanonymous-pull = [\"public\"]\n").unwrap();
        let registry = Registry::start_with(&host, &["--config", "registry.toml"]);
        let address = registry.address.clone();
        Self { _registry: registry, _host: host, address, token }
    }
}

/// Adds alice and the robot to a storage that is not served yet. Returns the robot's token.
async fn accounts(folder: &Path) -> Result<String, AccessError> {
    let storage = Arc::new(FolderStorage::open(folder).unwrap());
    let access = Access::new(storage, Arc::new(SystemClock), Arc::new(()));
    let grants = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let all = grants(&["team:pull,push,delete", "public:pull,push"]);
    access.add_user(&"alice".parse().unwrap(), &Secret::new(PASSWORD), all).await?;
    let reader = "reader".parse().unwrap();
    let token = access.add_robot(&reader, grants(&["team:pull"]), Expiry::Never).await?;
    Ok(token.reveal().to_owned())
}

/// `PROGRAM login`, as all of them have it.
fn login(machine: &Machine, program: &str, user: &str, password: &str, address: &str) -> Done {
    let file = machine.folder().join("password");
    fs::write(&file, password).unwrap();
    let mut command =
        machine.command(&format!("{program} login --username {user} --password-stdin {address}"));
    Done::of(command.stdin(fs::File::open(file).unwrap()))
}

/// Nobody, somebody with a wrong password, alice and the robot, each with `program`.
#[track_caller]
fn check(program: &str, push: &str, pull: &str) {
    const PROGRAMS: &[&str] = &["podman", "buildah", "skopeo"];
    let (Some(here), Some(there)) = (Machine::with(PROGRAMS), Machine::with(PROGRAMS)) else { return };
    let registry = WithUsers::start();
    let address = &registry.address;
    here.allow_plain_http(address);
    there.allow_plain_http(address);
    write_context(&here, 1);
    here.ok("buildah build -q --layers -t localhost/built context");
    let push = |reference: &str| push.replace("TO", &format!("{address}/{reference}"));
    let pull = |reference: &str| pull.replace("FROM", &format!("{address}/{reference}"));

    // What is refused is a HEAD, whose answer has no words: these are the program's.
    here.fails(&push("team/app:1"), "denied");
    let wrong = login(&here, program, "alice", "wrong horse battery", address);
    assert_ne!(wrong.code, Some(0));
    assert!(wrong.stderr.contains("invalid username/password"), "{}", wrong.stderr);
    login(&here, program, "alice", PASSWORD, address).ok();
    here.ok(&push("team/app:1"));
    here.ok(&push("public/app:1"));
    here.fails(&push("elsewhere/app:1"), "Forbidden");

    // Nobody in particular, then the robot, then nobody again.
    there.ok(&pull("public/app:1"));
    there.fails(&pull("team/app:1"), "unauthorized");
    login(&there, program, "reader", &registry.token, address).ok();
    let pulled = pull("team/app:1");
    there.ok(&pulled);
    assert!(there.files_of_image(&format!("{address}/team/app:1")) == files(1));
    there.fails(&format!("skopeo delete docker://{address}/team/app:1"), "Forbidden");
    there.ok(&format!("{program} logout {address}"));
    there.ok("podman rmi --all --force");
    there.fails(&pulled, "unauthorized");
}

#[test]
fn podman_signs_in_as_a_user_and_as_a_robot() {
    check("podman", "podman push -q localhost/built docker://TO", "podman pull -q FROM");
}

#[test]
fn buildah_signs_in_as_a_user_and_as_a_robot() {
    check("buildah", "buildah push -q localhost/built docker://TO", "buildah pull -q FROM");
}

#[test]
fn skopeo_signs_in_as_a_user_and_as_a_robot() {
    let push = "skopeo copy -q containers-storage:localhost/built docker://TO";
    check("skopeo", push, "skopeo copy -q docker://FROM containers-storage:FROM");
}

#[test]
fn hull_and_podman_know_each_others_logins() {
    let (Some(ours), Some(podmans)) = (Machine::with(&["skopeo"]), Machine::with(&["podman"])) else {
        return;
    };
    let registry = WithUsers::start();
    let address = &registry.address;
    let reference = format!("{address}/team/web:1");
    for machine in [&ours, &podmans] {
        machine.allow_plain_http(address);
        author_in(machine.folder(), "a", &noise(1, 1 << 20));
        machine.ok(&format!("hull pack a -t {reference}"));
    }
    ours.fails(&format!("hull push {reference}"), "hull login");
    let wrong = login(&ours, "hull", "alice", "wrong horse battery", address);
    wrong.fails(3, &[address, "alice", "password"]);
    login(&ours, "hull", "alice", PASSWORD, address).ok();
    let digest = ours.ok(&format!("hull push {reference}"));
    ours.ok(&format!("skopeo copy -q --all docker://{reference} docker://{address}/team/copy:1"));

    login(&podmans, "podman", "alice", PASSWORD, address).ok();
    assert_eq!(podmans.ok(&format!("hull push {reference}")), digest);
    podmans.ok(&format!("podman logout {address}"));
    podmans.fails(&format!("hull pull {reference}"), "hull login");
    login(&podmans, "podman", "reader", &registry.token, address).ok();
    podmans.ok(&format!("hull pull {reference}"));
    podmans.fails(&format!("hull push {reference}"), "DENIED");
}

#[test]
fn hull_mounts_only_what_its_user_may_read() {
    let Some(machine) = Machine::with(&[]) else { return };
    let registry = WithUsers::start();
    let address = &registry.address;
    let reference = |name: &str| format!("{address}/{name}/web:1");
    author_in(machine.folder(), "a", &noise(1, 1 << 20));
    machine.ok(&format!("hull pack a -t {}", reference("team")));
    login(&machine, "hull", "alice", PASSWORD, address).ok();
    let push = |from: &str, to: &str| {
        machine.ok(&format!("hull tag {} {}", reference(from), reference(to)));
        let pushed = machine.run(&format!("hull push {}", reference(to)));
        pushed.ok();
        pushed.stderr
    };
    assert!(!push("team", "team").contains("Sent 0 blobs"));
    let mounted = push("team", "team/copy");
    assert!(mounted.contains("Sent 0 blobs"), "{mounted}");

    // Under this name it is nobody's that alice knows: it is sent.
    machine.ok(&format!("hull tag {} {}", reference("team"), reference("secret")));
    for name in ["team", "team/copy"] {
        machine.ok(&format!("hull rmi {}", reference(name)));
    }
    let sent = push("secret", "public");
    assert!(!sent.contains("Sent 0 blobs"), "{sent}");
}
