//! Talking to registries: the client with its logins, and progress for people.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use appliance::manifest::ManifestError;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use registry_client::credentials::{CredentialFile, CredentialFiles};
use registry_client::{
    Client, ClientError, ClientOptions, Event, FetchImageError, Plan, Progress, RequestError,
};

use crate::environment;
use crate::error::{CommandError, Exit, OTHER_PLATFORM};
use crate::text;

/// How a registry is spoken to.
#[derive(Debug, clap::Args)]
pub(crate) struct TransferArgs {
    /// Blobs that move at the same time
    #[arg(long, default_value_t = 3, value_name = "NUMBER")]
    concurrency: usize,
    /// Speak to this registry without TLS, as HOST[:PORT]; this machine's need no flag
    #[arg(long, value_name = "HOST")]
    insecure: Vec<String>,
}

impl Default for TransferArgs {
    fn default() -> Self {
        Self { concurrency: 3, insecure: Vec::new() }
    }
}

impl TransferArgs {
    /// A client with docker's and podman's logins.
    pub(crate) fn client(&self) -> Result<Client, CommandError> {
        let files = environment::docker_config().into_iter().chain(environment::podman_auth());
        let files = files.map(CredentialFile::new).collect();
        Ok(Client::new(ClientOptions {
            credentials: Arc::new(CredentialFiles::new(files)),
            concurrency: self.concurrency,
            insecure_hosts: self.insecure.clone(),
            token_services: environment::token_services(),
            ..ClientOptions::default()
        })?)
    }
}

/// Runs `work` to its end on a runtime of its own. One thread serves all connections: two would wake
/// each other for nothing, and what takes long, hashing and writing, has threads of its own anyway.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, CommandError> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(work))
}

/// One bar for everything that moves; a line per failure that is tried again.
pub(crate) struct Bar {
    bar: ProgressBar,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    plan: Plan,
    finished: usize,
}

impl Bar {
    /// A bar on stderr, where that is a terminal.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = "{prefix} {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
        Self { bar, said: Mutex::default() }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn message(&self, said: &Said) -> String {
        format!("{} of {}", said.finished, text::count(said.plan.blobs as u64, "blob"))
    }
}

impl Progress for Bar {
    fn report(&self, event: Event<'_>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Planned(plan) => {
                said.plan = plan;
                self.bar.set_length(plan.bytes);
                self.bar.set_message(self.message(&said));
            }
            Event::Started { at_bytes, .. } => self.bar.inc(at_bytes),
            Event::Moved { bytes, .. } | Event::Rebuilt { bytes, .. } => self.bar.inc(bytes),
            Event::Mounted { blob } => self.bar.inc(blob.size_bytes),
            Event::Finished { .. } => {
                said.finished += 1;
                self.bar.set_message(self.message(&said));
            }
            Event::Waiting { reason, delay } => {
                let line =
                    format!("{}; again in {}", text::plain(&reason.to_string()), text::duration(delay));
                self.bar.suspend(|| text::say(line));
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bar")
    }
}

/// `123 MiB in 1.5 s (80 MiB/s)`.
pub(crate) fn speed(bytes: u64, since: Instant) -> String {
    let time = since.elapsed();
    let per_second = bytes as f64 / time.max(Duration::from_millis(1)).as_secs_f64();
    format!("{} in {} ({}/s)", text::size(bytes), text::duration(time), text::size(per_second as u64))
}

const TRY_AGAIN: &str = "try again; what has arrived is not moved twice";

/// How a command ends when a request has failed, and what to do about it.
pub(crate) fn exit_of(error: Option<&RequestError>) -> (Exit, Option<&'static str>) {
    match error {
        Some(RequestError::Unreachable { .. }) => {
            (Exit::Unreachable, Some("check the name and port, and that the registry runs"))
        }
        Some(RequestError::Stalled { .. } | RequestError::Cut { .. } | RequestError::Busy { .. }) => {
            (Exit::Unreachable, Some(TRY_AGAIN))
        }
        Some(RequestError::LoginNeeded { .. } | RequestError::LoginRefused { .. }) => {
            (Exit::Refused, Some("sign in with `hull login HOST`"))
        }
        Some(RequestError::Denied { .. }) => {
            (Exit::Refused, Some("ask whoever runs the registry for the right"))
        }
        Some(RequestError::ForeignTokenService { .. }) => {
            (Exit::Refused, Some("if that host may see it, name it in HULL_TOKEN_SERVICES"))
        }
        Some(RequestError::NotFound { .. }) => (Exit::NotFound, Some("check the name and the tag")),
        _ => (Exit::Failed, None),
    }
}

/// A failure with the exit code and the hint that belong to its request, where there was one.
fn transfer_error(
    request: (Exit, Option<&'static str>),
    error: impl std::error::Error + Send + Sync + 'static,
) -> CommandError {
    let (exit, hint) = request;
    let error = CommandError::from_error(exit, error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

impl From<registry_client::PullError> for CommandError {
    fn from(error: registry_client::PullError) -> Self {
        match error {
            registry_client::PullError::NoRegistry { .. } => {
                Self::from_error(Exit::Usage, error).hint("`hull images` lists what is here already")
            }
            registry_client::PullError::Store(error) => error.into(),
            registry_client::PullError::Interrupted { .. } => {
                let (exit, _) = exit_of(error.request());
                Self::from_error(exit, error).hint(TRY_AGAIN)
            }
            registry_client::PullError::WrongDigest { .. }
            | registry_client::PullError::WrongSize { .. }
            | registry_client::PullError::TooLong { .. } => Self::from_error(Exit::Failed, error)
                .hint("the registry's copy is damaged; push the appliance there again"),
            registry_client::PullError::Manifest { source: ManifestError::NoPlatform { .. }, .. } => {
                Self::from_error(Exit::NotFound, error).hint(OTHER_PLATFORM)
            }
            registry_client::PullError::Manifest { .. } | registry_client::PullError::Document { .. } => {
                Self::from_error(Exit::Failed, error)
                    .hint("hull pulls what `hull pack` made and nothing else")
            }
            error => transfer_error(exit_of(error.request()), error),
        }
    }
}

impl From<FetchImageError> for CommandError {
    fn from(error: FetchImageError) -> Self {
        match error {
            FetchImageError::Request(error) => error.into(),
            FetchImageError::NoRegistry { .. } => {
                Self::from_error(Exit::Usage, error).hint("write it as docker://HOST[:PORT]/NAME[:TAG]")
            }
            FetchImageError::NoPlatform { .. } => {
                Self::from_error(Exit::NotFound, error).hint("`--arch` chooses another architecture")
            }
            FetchImageError::TooLarge { .. } => {
                Self::from_error(Exit::Failed, error).hint("`--max-size` accepts larger images")
            }
            FetchImageError::NotAnImage { .. } => {
                Self::from_error(Exit::Failed, error).hint("`hull pull` fetches appliances")
            }
            error => Self::from_error(Exit::Failed, error)
                .hint("the registry's copy is damaged; whoever put it there can do so again"),
        }
    }
}

impl From<registry_client::PushError> for CommandError {
    fn from(error: registry_client::PushError) -> Self {
        match error {
            registry_client::PushError::NoRegistry { .. } => {
                Self::from_error(Exit::Usage, error).hint("`hull tag` gives it a name with a registry")
            }
            registry_client::PushError::Store(error) => error.into(),
            error => transfer_error(exit_of(error.request()), error),
        }
    }
}

impl From<RequestError> for CommandError {
    fn from(error: RequestError) -> Self {
        transfer_error(exit_of(Some(&error)), error)
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        Self::from_error(Exit::Failed, error)
    }
}
