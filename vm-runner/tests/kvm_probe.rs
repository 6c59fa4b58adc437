//! The KVM probe on the `/dev/kvm` of whatever host this is.

use vm_runner::kvm::{self, KvmUnusable};

#[test]
fn the_probe_comes_to_a_verdict_with_a_reason() {
    let verdict = kvm::probe();
    match &verdict {
        Ok(()) => eprintln!("/dev/kvm runs guests"),
        Err(unusable) => {
            eprintln!("{unusable}");
            assert!(unusable.to_string().contains("/dev/kvm"));
        }
    }
    assert!(!matches!(verdict, Err(KvmUnusable::Setup { .. } | KvmUnusable::Stuck)), "{verdict:?}");
    // The verdict is the host's, not chance's.
    for _ in 0..3 {
        assert_eq!(kvm::probe().is_ok(), verdict.is_ok());
    }
}
