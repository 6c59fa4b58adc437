//! Overlays, judged by `qemu-img`.

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::process::Command;

use vm_runner::overlay;

/// `qemu-img` with `args`; `None` where there is none.
fn qemu_img(args: &[&str]) -> Option<String> {
    let Ok(output) = Command::new("qemu-img").args(args).output() else {
        eprintln!("skipped: qemu-img is not installed");
        return None;
    };
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn qemu_finds_no_fault_in_overlays_of_any_size() {
    let folder = tempfile::tempdir().unwrap();
    for size_bytes in [512, 1 << 20, (2 << 30) + 512, 10 << 40, 1 << 50] {
        let path = folder.path().join(size_bytes.to_string());
        overlay::create(&path, size_bytes).unwrap();
        let path = path.to_str().unwrap();
        let Some(check) = qemu_img(&["check", "--output=json", "-f", "qcow2", path]) else { return };
        let check: serde_json::Value = serde_json::from_str(&check).unwrap();
        for fault in ["corruptions", "leaks", "check-errors"] {
            assert_eq!(check[fault].as_u64().unwrap_or(0), 0, "{size_bytes}: {fault}");
        }
        let info = qemu_img(&["info", "--output=json", "-f", "qcow2", path]).unwrap();
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], size_bytes);
        assert_eq!(info["backing-filename"], serde_json::Value::Null);
    }
}

#[test]
fn an_overlay_that_exists_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlay.qcow2");
    std::fs::write(&path, "precious").unwrap();
    let error = overlay::create(&path, 1 << 20).unwrap_err();
    assert!(error.to_string().starts_with("cannot create the overlay `"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn what_somebody_left_who_was_killed_while_writing_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.qcow2");
    std::fs::write(folder.path().join(".data.qcow2.new-Xy12ab"), "QFI").unwrap();
    std::fs::write(folder.path().join(".other.qcow2.new-Xy12ab"), "QFI").unwrap();
    overlay::create(&path, 1 << 20).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 << 16);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".other.qcow2.new-Xy12ab", "data.qcow2"]);
}

#[test]
fn nothing_stays_of_an_overlay_that_could_not_be_created() {
    let folder = tempfile::tempdir().unwrap();
    assert!(overlay::create(&folder.path().join("none/data.qcow2"), 1 << 20).is_err());
    std::fs::write(folder.path().join("data.qcow2"), "precious").unwrap();
    assert!(overlay::create(&folder.path().join("data.qcow2"), 1 << 20).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_ephemeral_overlay_has_no_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = overlay::create_ephemeral(folder.path(), 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 << 16);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
