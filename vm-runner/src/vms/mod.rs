//! VMs: their folders, their supervisors, and how other processes talk to those.

mod admission;
mod console;
pub mod control;
mod health;
mod home;
mod launch;
mod publish;
mod state;
mod stats;
mod supervisor;

pub use admission::{Circumstances, Refusal, admit, day_of};
pub use home::{Listing, Vm, VmError, VmFolder, VmLock, Vms, free_name, new_id};
pub use launch::{Launch, LaunchError};
pub use publish::{PublishAtError, publish_at};
pub use state::{Event, ProcessId, PublishAt, PublishedPort, Spec, State, Status, unix_now_s};
pub use stats::{DiskStats, FirewallCounter, PublishedStats, Stats};
pub use supervisor::{SuperviseError, close_inherited_files, supervise};
