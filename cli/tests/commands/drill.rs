//! `kill -9` of everything that belongs to a VM, at every moment: the next command tells the truth,
//! and nothing is left.

use std::fs::File;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::disks::{boot, noise};
use crate::support::registry::Guard;
use crate::support::source::{author, edit};
use crate::support::vm::{Vm, kill, send};
use crate::support::wait::{until, until_ended};
use crate::support::{Host, files};

/// A host with the appliance `drill:1`, which boots to a halt at once, and may reach the world.
fn host() -> Option<Host> {
    let host = Host::for_vms()?;
    let folder = author(&host, "a", &boot());
    edit(&folder, "from = [\"0.0.0.0/0\"]", "from = [\"0.0.0.0/0\"]\npublish = { host-port = 8080 }");
    host.ok("pack a -t drill:1");
    Some(host)
}

/// Kills the processes `pids`, and waits until they and what goes with them have ended.
fn kill_and_wait(pids: &[Option<i32>]) {
    pids.iter().flatten().for_each(|pid| kill(*pid));
    pids.iter().flatten().for_each(|pid| until_ended(*pid));
}

/// The VM has failed for a `reason`, nothing of it is left but its folder, and it can be removed.
#[track_caller]
fn has_failed(host: &Host, vm: &Vm, before: &[String], reason: &str) {
    let found = host.vm(&vm.name);
    assert_eq!(found["state"]["status"], "failed", "{found}");
    let said = found["state"]["reason"].as_str().unwrap_or_default();
    assert!(said.contains(reason), "{said}");
    assert_eq!(found["state"]["ports"].as_array().unwrap().len(), 0);
    assert_eq!(found["state"]["qemu"], serde_json::Value::Null);
    assert_eq!(host.json("ps --json")[0], found, "what has failed is shown without being asked for");
    nothing_is_left(host, vm, before);
    host.ok(&format!("rm {}", vm.name));
    is_removed(host, vm, before);
}

#[track_caller]
fn nothing_is_left(host: &Host, vm: &Vm, before: &[String]) {
    assert_eq!((vm.supervisor(), vm.qemu()), (None, None));
    assert_eq!(host.world().state(), before);
}

#[track_caller]
fn is_removed(host: &Host, vm: &Vm, before: &[String]) {
    assert_eq!(host.ok("ps --all --json"), "[]");
    nothing_is_left(host, vm, before);
    assert_eq!(files(&host.home().join("vms")).len(), 0);
    assert_eq!(files(&host.home().join("store/pins")).len(), 0);
}

#[test]
fn a_vm_whose_processes_are_killed_has_failed_and_leaves_nothing() {
    let Some(host) = host() else { return };
    let before = host.world().state();
    let vm = Vm::of(&host, "drill");
    let killed = "its supervisor was killed";
    for (victims, reason) in
        [("supervisor", killed), ("qemu", "QEMU was killed by signal 9"), ("both", killed)]
    {
        host.ok(&format!("run -d --name {} drill:1", vm.name));
        assert_ne!(host.world().state(), before, "a VM that runs has a network");
        let (supervisor, qemu) = (vm.supervisor(), vm.qemu());
        assert!(supervisor.is_some() && qemu.is_some());
        match victims {
            // QEMU is told by the kernel to follow; that takes a moment.
            "supervisor" => kill_and_wait(&[supervisor]),
            "qemu" => kill_and_wait(&[qemu]),
            _ => kill_and_wait(&[supervisor, qemu]),
        }
        if victims == "qemu" {
            // Its supervisor writes down what happened, cleans up and ends.
            until_ended(supervisor.unwrap());
        }
        has_failed(&host, &vm, &before, reason);
        until_ended(qemu.unwrap());
    }
}

/// A sign that a VM has come so far.
type Sign = fn(&Host, &Vm) -> bool;

const SIGNS: [(&str, Sign); 6] = [
    ("it has a folder", |_, vm| !vm.id().is_empty()),
    ("it is written down as starting", |_, vm| has_begun(vm)),
    ("its namespace is there", |host, vm| {
        let id = vm.id();
        !id.is_empty() && host.world().path(&format!("/run/netns/hull-{id}")).exists()
    }),
    ("the host forwards for it", |host, _| host.world().path("/run/hull/forwarding-was-off").exists()),
    ("its QEMU is there", |_, vm| vm.qemu().is_some()),
    ("its QEMU is written down", |_, vm| vm.written("state.json")["qemu"].is_object()),
];

/// True from when it is written down as starting.
fn has_begun(vm: &Vm) -> bool {
    ["starting", "running"].contains(&vm.written_status().as_str())
}

/// Starts `hull run` and waits for `sign`.
fn run_until(host: &Host, vm: &Vm, what: &str, sign: Sign) -> Guard {
    let arguments = ["run", "--detach", "--name", &vm.name, "drill:1"];
    let stderr = File::create(host.folder().join("stderr")).unwrap();
    let mut run = Guard(host.hull(arguments).stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
    until(what, || {
        let seen = sign(host, vm).then_some(());
        if let Some(status) = run.0.try_wait().unwrap().filter(|status| seen.is_none() && !status.success()) {
            panic!("{what}: {status}: {}", std::fs::read_to_string(host.folder().join("stderr")).unwrap());
        }
        seen
    });
    run
}

#[test]
fn a_vm_that_is_killed_while_it_starts_leaves_nothing() {
    let Some(host) = host() else { return };
    let before = host.world().state();
    for (what, sign) in SIGNS {
        let vm = Vm::of(&host, "starting");
        let run = run_until(&host, &vm, what, sign);
        // First whoever would clean up; then the supervisor, which it may be starting just now.
        drop(run);
        until("nobody holds its lock", || {
            vm.supervisor().into_iter().for_each(kill);
            vm.is_unlocked().then_some(())
        });
        until("its QEMU has gone", || vm.qemu().is_none().then_some(()));
        let found = host.vm(&vm.name);
        let status = found["state"]["status"].as_str().unwrap();
        assert!(["created", "failed"].contains(&status), "{what}: {found}");
        host.ok(&format!("rm {}", vm.name));
        is_removed(&host, &vm, &before);
    }
}

#[test]
fn whoever_starts_a_vm_hears_that_its_supervisor_was_killed() {
    let Some(host) = host() else { return };
    let before = host.world().state();
    let vm = Vm::of(&host, "heard");
    let run = host.hull(["run", "--detach", "--name", &vm.name, "drill:1"]);
    let outcome = std::thread::scope(|scope| {
        let outcome = scope.spawn(|| crate::support::Done::of(&mut { run }));
        let supervisor = until("it has a supervisor", || vm.supervisor());
        until("it starts", || has_begun(&vm).then_some(()));
        kill(supervisor);
        outcome.join().unwrap()
    });
    // Had it been quicker than we, it would have been started before it was killed.
    if outcome.code != Some(0) {
        outcome.fails(125, &[&vm.name, "ended without a word"]);
        until("its QEMU has gone", || vm.qemu().is_none().then_some(()));
        is_removed(&host, &vm, &before);
    }
}

#[test]
fn a_vm_that_is_being_removed_when_that_is_killed_is_gone_with_the_next_command() {
    let Some(host) = host() else { return };
    let vm = Vm::of(&host, "half");
    host.ok(&format!("run -d --name {} drill:1", vm.name));
    let id = vm.id();
    host.ok(&format!("kill {}", vm.name));
    // As far as it had come: hidden, still pinned.
    std::fs::rename(vm.folder(), host.home().join("vms").join(format!(".{id}"))).unwrap();
    assert_eq!(host.ok("ps --all --json"), "[]");
    assert_eq!(files(&host.home().join("vms")).len(), 0);
    assert_eq!(files(&host.home().join("store/pins")).len(), 0);
}

#[test]
fn a_pack_that_is_killed_leaves_nothing_half_written() {
    let host = Host::new();
    author(&host, "a", &noise(1, 32 << 20));
    let pack = host.hull(["pack", "a", "-t", "web:1"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn();
    let pack = Guard(pack.unwrap());
    until("it writes", || (!host.half_written().is_empty()).then_some(()));
    drop(pack);
    assert!(host.references().is_empty());
    assert_eq!((host.half_written().len(), host.damaged().len()), (0, 0));
    host.ok("pack a -t web:1");
}

#[test]
fn a_vm_in_the_foreground_ends_with_ctrl_c_and_goes_with_rm() {
    let Some(host) = host() else { return };
    let before = host.world().state();
    let vm = Vm::of(&host, "fore");
    let arguments = ["run", "--rm", "--name", &vm.name, "drill:1"];
    let mut run = host.hull(arguments);
    let mut run = Guard(run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let pid = run.0.id().cast_signed();
    until("it runs", || (vm.written_status() == "running").then_some(()));
    let mut console = run.0.stdout.take().unwrap();
    let mut said = vec![0; 4];
    std::io::Read::read_exact(&mut console, &mut said).unwrap();
    assert_eq!(said, b"BOOT", "the guest's console is on stdout");
    send(pid, Signal::INT);
    // It has no ears for the power button: the second one is for good.
    until("it is told to stop", || (vm.written_status() == "stopping").then_some(()));
    send(pid, Signal::INT);
    let status = run.0.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    is_removed(&host, &vm, &before);
}

#[test]
fn a_vm_that_starts_again_by_itself_can_be_stopped_in_between() {
    let Some(host) = host() else { return };
    let hull_toml = host.folder().join("a/hull.toml");
    let text = std::fs::read_to_string(&hull_toml).unwrap();
    std::fs::write(&hull_toml, text + "\n[policy.lifecycle]\nrestart = \"on-failure\"\n").unwrap();
    host.ok("pack a -t again:1");
    let before = host.world().state();
    let vm = Vm::of(&host, "again");
    host.ok(&format!("run -d --name {} again:1", vm.name));
    let first = vm.qemu().unwrap();
    kill_and_wait(&[Some(first)]);
    let second = until("it runs again", || vm.qemu().filter(|pid| *pid != first));
    until("that is written down", || (vm.written_status() == "running").then_some(()));
    assert_eq!(host.vm(&vm.name)["state"]["restarts"], 1);
    kill_and_wait(&[Some(second)]);
    let between = until("it is between two starts", || {
        let state = vm.written("state.json");
        (state["status"] == "restarting").then_some(state)
    });
    assert!(between["reason"].as_str().unwrap().contains("killed by signal 9"), "{between}");
    host.ok(&format!("stop {}", vm.name));
    assert_eq!(host.ok("ps --json"), "[]");
    host.ok(&format!("rm {}", vm.name));
    is_removed(&host, &vm, &before);
}
