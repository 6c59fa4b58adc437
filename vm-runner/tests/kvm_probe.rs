//! The KVM probe on the `/dev/kvm` of whatever host this is.

use vm_runner::kvm::{self, KvmUnusable};

#[test]
fn the_probe_comes_to_a_verdict_with_a_reason() {
    let verdicts = [(); 4].map(|()| kvm::probe());
    for unusable in verdicts.iter().filter_map(|verdict| verdict.as_ref().err()) {
        eprintln!("{unusable}");
        assert!(unusable.to_string().contains("/dev/kvm"));
        assert!(!matches!(unusable, KvmUnusable::Setup { .. }), "{unusable}");
    }
    assert!(verdicts.iter().any(|verdict| !matches!(verdict, Err(KvmUnusable::Stuck))));
    // The verdict is the host's, not chance's; but that it takes too long may be chance on a busy host.
    let is_late = |verdict: &Result<(), KvmUnusable>| {
        matches!(verdict, Err(KvmUnusable::Slow { .. } | KvmUnusable::Stuck))
    };
    let in_time: Vec<bool> = verdicts.iter().filter(|verdict| !is_late(verdict)).map(Result::is_ok).collect();
    assert!(in_time.windows(2).all(|pair| pair[0] == pair[1]), "{verdicts:?}");
}
