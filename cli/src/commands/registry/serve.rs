//! `registry serve`: the server, until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use blob_store::FolderStorage;
use registry::{Event, Exposure, Limits, Observer, ServeError, Server, ServerConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Context;
use crate::error::{CommandError, Exit, OrExit as _};
use crate::text::{self, plain};
use crate::transfer::block_on;

/// Serve a registry from a folder until interrupted
///
/// Any OCI client can push to it and pull from it. What it acknowledges is on disk.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// The folder that holds everything [default: HULL_HOME/registry]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Listen beyond this machine all the same: whoever reaches the address can read and replace everything
    #[arg(long)]
    without_tls_and_users: bool,
    /// The largest blob, in GiB
    #[arg(long, value_name = "GIB", default_value_t = 1024)]
    max_blob: u64,
}

pub(super) fn run(context: &Context, args: ServeArgs) -> Result<(), CommandError> {
    block_on(serve(context, args))?
}

async fn serve(context: &Context, args: ServeArgs) -> Result<(), CommandError> {
    allow_many_connections();
    let data = args.data.unwrap_or_else(|| context.home.join("registry"));
    let storage = FolderStorage::open(&data).or_exit(Exit::Failed)?;
    let exposure = match args.without_tls_and_users {
        true => Exposure::AnyoneWithoutTls,
        false => Exposure::LoopbackOnly,
    };
    let config = ServerConfig {
        listen: args.listen,
        exposure,
        tls: None,
        operations: None,
        limits: Limits { blob_bytes: args.max_blob.saturating_mul(1 << 30), ..Limits::default() },
        observer: Arc::new(Log),
    };
    let server = Server::bind(config, Arc::new(storage)).await?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    text::result(server.local_addr());
    text::say(format_args!("Serving {} at http://{}", data.display(), server.local_addr()));
    server
        .run(async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
            text::say("Stopping; requests under way are answered first.");
        })
        .await;
    Ok(())
}

/// Lets this process have as many files open as it may. The usual 1024 are fewer than the connections that are accepted; what
/// cannot be raised is found out when it is used up, and then said.
fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Says on stderr what an operator should know.
#[derive(Debug)]
struct Log;

impl Observer for Log {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::RequestFailed { request, error } => {
                let (method, path) = (request.method(), request.path());
                text::say(format_args!("{method} {} failed: {}", plain(&path), text::chain_of(*error)));
            }
            Event::AcceptFailed { error } => text::say(format_args!("cannot accept a connection: {error}")),
            Event::UploadsExpired { count } => {
                text::say(format_args!("{} forgotten", text::count(*count as u64, "abandoned upload")));
            }
            Event::ExpiryFailed { error } => {
                text::say(format_args!("cannot look for abandoned uploads: {}", text::chain_of(*error)));
            }
            _ => {}
        }
    }
}

impl From<ServeError> for CommandError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::NotLoopback { .. } => Self::from_error(Exit::Usage, error)
                .hint("put it behind a proxy with TLS and users, or say `--without-tls-and-users`"),
            ServeError::Listen { .. } => Self::from_error(Exit::Failed, error)
                .hint("another program may listen there; choose another port"),
            error => Self::from_error(Exit::Failed, error),
        }
    }
}
