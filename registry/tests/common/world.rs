//! A registry with accounts, a clock that a test moves, and an observer that keeps what it is told.

use std::sync::{Arc, Mutex};

use appliance::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blob_store::MemoryStorage;
use registry::{AccessError, AccountName, Event, Expiry, Grant, Limits, Observer, Outcome, Secret};

use super::{Client, MANIFEST, Registry, Reply, SetClock, manifest};

/// Keeps everything that an operator is told.
#[derive(Debug, Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<String>>);

impl Observer for Told {
    fn observe(&self, event: &Event<'_>) {
        let text = match event {
            Event::Audit(audit) => {
                let place = [audit.repository.clone(), audit.object.clone()].into_iter().flatten();
                let place: Vec<_> = place.chain(audit.digest.map(|digest| digest.short())).collect();
                let from = audit.address.map_or("here".to_owned(), |address| address.to_string());
                let Outcome::Done = audit.outcome else {
                    let what = format!("{} {} {}", audit.principal, audit.action, place.join(" "));
                    return self.keep(format!("{from}: {}: {}", what.trim_end(), audit.outcome));
                };
                format!("{from}: {} {} {}", audit.principal, audit.action, place.join(" "))
            }
            event => format!("{event:?}"),
        };
        self.keep(text);
    }
}

impl Told {
    fn keep(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    /// What was told of who did what; forgets it.
    pub(crate) fn take_audits(&self) -> Vec<String> {
        let told = std::mem::take(&mut *self.0.lock().unwrap());
        told.into_iter()
            .filter(|text| text.starts_with("here: ") || text.starts_with("127.0.0.1: "))
            .collect()
    }
}

/// A registry whose clock and observer are the test's.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<SetClock>,
    pub(crate) told: Arc<Told>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// Of every user.
pub(crate) const PASSWORD: &str = "correct horse";

impl World {
    pub(crate) fn new(anonymous_pull: &[&str]) -> Self {
        Self::on(MemoryStorage::new(), anonymous_pull)
    }

    pub(crate) fn on(storage: MemoryStorage, anonymous_pull: &[&str]) -> Self {
        let clock = Arc::new(SetClock::at(1_700_000_000));
        let told = Arc::new(Told::default());
        let registry = Registry::configured(Arc::new(storage), Limits::default(), |config| {
            config.clock = Arc::clone(&clock) as _;
            config.observer = Arc::clone(&told) as _;
            config.anonymous_pull = anonymous_pull.iter().map(|prefix| prefix.parse().unwrap()).collect();
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { registry, clock, told, runtime }
    }

    /// With users, each with the same password. `alice *:admin` is one.
    pub(crate) fn with_users(users: &[&str], anonymous_pull: &[&str]) -> Self {
        let world = Self::new(anonymous_pull);
        for user in users {
            world.add_user(user);
        }
        world
    }

    pub(crate) fn add_user(&self, user: &str) {
        let (name, rights) = user.split_once(' ').unwrap();
        let (name, password) = (account(name), Secret::new(PASSWORD));
        let add = self.registry.access.add_user(&name, &password, grants(rights));
        self.runtime.block_on(add).unwrap();
    }

    pub(crate) fn add_robot(&self, name: &str, rights: &str, expiry: Expiry) -> Result<Secret, AccessError> {
        self.runtime.block_on(self.registry.access.add_robot(&account(name), grants(rights), expiry))
    }

    pub(crate) fn client(&self) -> Client {
        self.registry.client()
    }

    /// Asks with these credentials: `alice` for her password, or a whole `Authorization`.
    pub(crate) fn ask(&self, who: &str, method: &str, path: &str) -> Reply {
        send(&mut self.client(), who, method, path, b"")
    }

    /// A bearer token.
    pub(crate) fn token(&self, who: &str, scope: &str) -> String {
        let reply = self.ask(who, "GET", &format!("/token?service=x&scope={scope}")).expect(200);
        format!("Bearer {}", reply.json()["token"].as_str().unwrap())
    }
}

pub(crate) fn account(name: &str) -> AccountName {
    name.parse().unwrap()
}

pub(crate) fn grants(text: &str) -> Vec<Grant> {
    text.split_whitespace().map(|grant| grant.parse().unwrap()).collect()
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Asks with these credentials, as [`World::ask`], and with a body.
pub(crate) fn send(client: &mut Client, who: &str, method: &str, path: &str, body: &[u8]) -> Reply {
    let authorization = match who {
        "" => None,
        who if who.contains(' ') => Some(who.to_owned()),
        who => Some(basic(who, PASSWORD)),
    };
    let mut headers = vec![("content-type", if path.contains("/manifests/") { MANIFEST } else { "x/y" })];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    client.send(method, path, &headers, body)
}

/// Pushes an image with one tag. Its layer is `layer`.
pub(crate) fn push_image(client: &mut Client, who: &str, repository: &str, tag: &str) -> Digest {
    for content in [&b"config"[..], b"layer"] {
        let digest = Digest::sha256(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        send(client, who, "POST", &path, content).expect(201);
    }
    let image = manifest(b"config", b"layer");
    send(client, who, "PUT", &format!("/v2/{repository}/manifests/{tag}"), &image).expect(201);
    Digest::sha256(&image)
}
