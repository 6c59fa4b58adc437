//! vm-runner
