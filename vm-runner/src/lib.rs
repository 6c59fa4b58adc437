//! vm-runner

pub mod engine;
pub mod kvm;
pub mod nbd;
pub mod net;
pub mod overlay;
pub mod qemu;
pub mod qmp;
