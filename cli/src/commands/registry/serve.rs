//! `registry serve`: the server, until it is told to stop.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::Arc;

use registry::{Exposure, ServeError, Server, ServerConfig, SystemClock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::config::{Config, LogFormat, TlsPaths};
use super::log::{Level, Log};
use super::storage::{Place, StorageArgs, control_folder};
use super::tls_files::TlsFiles;
use crate::context::Context;
use crate::environment;
use crate::error::{CommandError, Exit};
use crate::text;

/// Serve a registry until interrupted
///
/// Any OCI client can push to it and pull from it. What it acknowledges is in its folder or bucket. SIGTERM and SIGINT
/// let requests under way end; a second one does not wait. SIGHUP reads the certificate again.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    storage: StorageArgs,
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Speak TLS with this certificate: PEM, those of the authorities in between behind it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The key of that certificate: PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Listen beyond this machine all the same: until there are users, whoever reaches the address can
    /// read and replace everything
    #[arg(long)]
    without_tls_and_users: bool,
    /// Answer /livez, /readyz and /metrics there; without TLS and users
    #[arg(long, value_name = "ADDR:PORT")]
    operations: Option<SocketAddr>,
    /// The largest blob, in GiB [default: 1024]
    #[arg(long, value_name = "GIB")]
    max_blob: Option<u64>,
    /// How the log on stderr is written [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Log each request, which JSON does anyway
    #[arg(long, short)]
    verbose: bool,
}

/// Where the server listens unless it is told.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);
/// Files that are open beside connections, at least: the server's own, and those that requests read and write.
const OTHER_FILES: u64 = 32;
/// Fewer connections than this may be too few for a team.
const FEW_CONNECTIONS: u64 = 4096;

pub(super) fn run(context: &Context, args: ServeArgs) -> Result<(), CommandError> {
    let (config, place) = args.storage.read(context)?;
    let log = Arc::new(Log::new(args.log_format.or(config.log).unwrap_or(LogFormat::Text), args.verbose));
    // The server has threads of its own for connections. What else there is to do is little at a time.
    let runtime =
        Builder::new_multi_thread().worker_threads(2).max_blocking_threads(64).enable_all().build()?;
    let served = runtime.block_on(serve(args, config, place, Arc::clone(&log)));
    drop(runtime);
    log.finish();
    served
}

async fn serve(args: ServeArgs, mut config: Config, place: Place, log: Arc<Log>) -> Result<(), CommandError> {
    if let Some(gib) = args.max_blob {
        config.limits.blob_bytes = gib.saturating_mul(1 << 30);
    }
    limit_connections(&mut config.limits.connections, &log);
    let by_flags = args.tls_certificate.zip(args.tls_key);
    let by_flags = by_flags.map(|(certificate, key)| TlsPaths { certificate, key });
    let tls = by_flags.or(config.tls).map(TlsFiles::open).transpose();
    let tls = tls.map_err(|error| {
        let hint = "both are PEM, and whoever runs the server must be able to read them";
        CommandError { exit: Exit::Failed, error, hint: None }.hint(hint)
    })?;
    let server_config = ServerConfig {
        listen: args.listen.or(config.listen).unwrap_or(LISTEN),
        exposure: match args.without_tls_and_users {
            true => Exposure::AnyoneWithoutTls,
            false => Exposure::LoopbackOrTls,
        },
        tls: tls.as_ref().map(TlsFiles::tls),
        operations: args.operations.or(config.operations),
        limits: config.limits,
        rules: config.rules,
        garbage: config.garbage,
        public_url: config.public_url,
        anonymous_pull: config.anonymous_pull,
        control: match &place {
            Place::Folder(folder) => Some(control_folder(folder)),
            Place::Bucket(_) => None,
        },
        clock: Arc::new(SystemClock),
        observer: Arc::clone(&log) as _,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = Server::bind(server_config, place.open().await?).await?;
    if tls.is_some() || args.storage.config.is_some() {
        // Else a terminal that is closed ends the server, as it ends anything.
        let hangup = signal(SignalKind::hangup())?;
        if let Some(files) = tls {
            tokio::spawn(files.watch(hangup, Arc::clone(&log)));
        }
    }
    let stopped = stop_signals(Arc::clone(&log))?;
    text::result(server.local_addr());
    log.say(Level::Info, format_args!("Serving {place} at {scheme}://{}", server.local_addr()));
    if let Some(operations) = server.operations_addr() {
        text::result(operations);
        log.say(Level::Info, format_args!("Probes and counters are at http://{operations}/metrics"));
    }
    if !server.has_users() {
        let who = match (server.local_addr().ip().is_loopback(), args.without_tls_and_users) {
            (true, _) => "everybody on this machine may push and delete. The first one changes that",
            (false, true) => "everybody who reaches it may push and delete. The first one changes that",
            (false, false) => "nobody may do anything. The first one changes that, while this runs",
        };
        let first = "hull registry user add NAME --grant '*:admin'";
        log.say(Level::Warning, format_args!("There are no users: {who}: {first}"));
    }
    tell_service_manager("READY=1", &log);
    server.run(stopped).await;
    Ok(())
}

/// Done at the first SIGTERM or SIGINT. The second one ends the process, whatever it does: nothing that
/// was acknowledged depends on how it ends.
fn stop_signals(log: Arc<Log>) -> Result<impl Future<Output = ()>, CommandError> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        };
        next().await;
        tell_service_manager("STOPPING=1", &log);
        log.say(Level::Info, "Stopping; requests under way are answered first.");
        // The server may have ended by itself.
        let _ = stop.send(());
        next().await;
        log.say(Level::Warning, "Stopped; requests under way are cut off.");
        log.finish();
        std::process::exit(Exit::Failed.code().into());
    });
    Ok(async {
        let _ = stopped.await;
    })
}

/// Raises the limit on open files as far as it goes, and lets in no more connections than leave files
/// for what they ask for.
fn limit_connections(limit: &mut usize, log: &Log) {
    let before = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before });
    let files = if raised.is_ok() { before.maximum } else { before.current };
    let Some(files) = files else { return };
    let most = files.saturating_sub(OTHER_FILES.max(files / 4)).max(1);
    if *limit as u64 <= most {
        return;
    }
    *limit = most as usize;
    if most < FEW_CONNECTIONS {
        log.say(Level::Warning, format_args!("{most} connections at a time: {files} files may be open"));
    }
}

/// Tells the service manager how the service is, if there is one that wants to know.
///
/// Source: systemd's `sd_notify(3)`.
fn tell_service_manager(state: &str, log: &Log) {
    let Some(socket) = environment::notify_socket() else { return };
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::from_abstract_name(name),
        None => UnixAddr::from_pathname(&socket),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = told {
        log.say(Level::Warning, format_args!("cannot tell the service manager {state}: {error}"));
    }
}

impl From<ServeError> for CommandError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::NotLoopback { .. } => Self::from_error(Exit::Usage, error).hint(
                "`--tls-certificate` and `--tls-key` switch TLS on; or put it behind a proxy that has TLS, or say \
                 `--without-tls-and-users`",
            ),
            ServeError::OtherLayout { .. } => Self::from_error(Exit::Failed, error)
                .hint("serve it with the version of hull that made it, and move it by `hull pull` and `hull push`"),
            ServeError::Listen { .. } => Self::from_error(Exit::Failed, error)
                .hint("another program may listen there; choose another port"),
            error => Self::from_error(Exit::Failed, error),
        }
    }
}
