//! What must hold for any bytes: one function for each reader of files from strangers.
//!
//! Each function gives its bytes to a reader of [`formats`], reads a bounded part of what comes out, and asserts
//! what the reader promises. An error is a right answer; a panic is a finding. `fuzz/targets` calls them from
//! libFuzzer, `fuzz/tests` from property tests over the same corpus (`fuzz/corpus/<function>/`).
//!
//! Formats that keep their parts megabytes apart would make inputs that no fuzzer can work with. For them the input is
//! folded: see [`fold`].

mod archives;
mod disks;
mod fold;
mod seal;
mod texts;

pub use archives::{ova, tar};
pub use disks::{cut, detect, qcow2, raw, vdi, vhd, vhdx, vmdk};
pub use fold::fold;
pub use texts::{index_page, index_root, ovf};

/// A target: its name, which is also its corpus's, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 13] = [
    ("cut", cut),
    ("detect", detect),
    ("index_page", index_page),
    ("index_root", index_root),
    ("ova", ova),
    ("ovf", ovf),
    ("qcow2", qcow2),
    ("raw", raw),
    ("tar", tar),
    ("vdi", vdi),
    ("vhd", vhd),
    ("vhdx", vhdx),
    ("vmdk", vmdk),
];
