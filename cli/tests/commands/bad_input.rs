//! What a person, a file, a registry or the host gets wrong: an error that says what was found, what
//! was wanted and what to do, with the exit code that README promises; nothing half-written, nothing lost.

mod files;
mod hosts;
mod names;
mod registries;
