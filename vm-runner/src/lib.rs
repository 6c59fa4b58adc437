//! vm-runner

pub mod qmp;
