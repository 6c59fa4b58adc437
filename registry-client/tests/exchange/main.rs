//! The client against registries: one that misbehaves on demand, and Debian's `docker-registry`.

#![expect(clippy::print_stderr, reason = "a test that skips itself says why")]

mod disks;
mod docker_registry;
mod fake;
mod image;
mod login;
mod pull;
mod push;
mod rebuild;
mod redirects;
mod sample;
