//! Who is asking: passwords, tokens, and where they go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use registry_client::credentials::{Credential, CredentialFile, CredentialSource as _};
use registry_client::{
    Client, ClientError, ClientOptions, Event, LoginError, Progress, RequestError, Silent,
};

use crate::fake::{BASIC_ME, Fake, Guard};
use crate::sample::{PLATFORM, Sample, chain, client, client_with, folder};

fn client_as(user: &str, password: &str) -> Client {
    let credentials = Arc::new(Credential::password(user, password));
    client_with(ClientOptions { credentials, ..ClientOptions::default() })
}

async fn guarded(guard: impl FnOnce(&Fake) -> Guard) -> Fake {
    let fake = Fake::start().await;
    fake.guard(guard(&fake));
    fake.set_tokens(&["first"]);
    fake
}

#[tokio::test]
async fn a_login_is_checked_before_it_is_kept() {
    let bearer = |fake: &Fake| Guard::Bearer { realm: fake.url("/token") };
    for fake in [guarded(|_| Guard::Basic).await, guarded(bearer).await] {
        let folder = tempfile::tempdir().unwrap();
        let file = CredentialFile::new(folder.path().join("config.json"));
        let wrong =
            client().login(&fake.host(), &Credential::password("me", "guess"), &file).await.unwrap_err();
        assert_eq!(chain(&wrong), format!("the registry {} does not accept the login of me", fake.host()));
        assert!(matches!(wrong, LoginError::Request(RequestError::LoginRefused { .. })));
        assert!(!file.path().exists());

        let right = Credential::password("me", "pw");
        client().login(&fake.host(), &right, &file).await.unwrap();
        assert_eq!(file.find(&fake.host(), None).unwrap(), Some(right));
    }
}

#[tokio::test]
async fn a_password_is_shown_only_after_it_was_asked_for() {
    let fake = guarded(|_| Guard::Basic).await;
    let sample = Sample::new(&[1000]);
    sample.put_in(&fake, "web", "1");
    let here = folder();
    client_as("me", "pw").pull(&fake.reference("web:1"), &here.store, PLATFORM, &Silent).await.unwrap();
    let shown: Vec<_> =
        fake.take_seen().into_iter().map(|seen| seen.headers.get("authorization").cloned()).collect();
    assert_eq!(shown[0], None);
    assert!(shown[1..].iter().all(|value| value.as_ref().is_some_and(|value| value == BASIC_ME)));

    let nobody =
        client().pull(&fake.reference("web:1"), &folder().store, PLATFORM, &Silent).await.unwrap_err();
    assert!(matches!(nobody.request(), Some(RequestError::LoginNeeded { .. })), "{nobody}");
    let wrong =
        client_as("me", "guess").pull(&fake.reference("web:1"), &folder().store, PLATFORM, &Silent).await;
    assert!(matches!(wrong.unwrap_err().request(), Some(RequestError::LoginRefused { .. })));
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_when_it_has_run_out() {
    let fake = guarded(|fake| Guard::Bearer { realm: fake.url("/token") }).await;
    let sample = Sample::new(&[1000, 2000, 20 << 20]);
    let here = folder();
    let reference = fake.reference("web:1");
    sample.put_in_store(&here.store, &reference.to_string());
    client_as("me", "pw").push(&reference, &here.store, &Silent).await.unwrap();
    let tokens =
        |fake: &Fake| fake.take_requests().iter().filter(|request| request.contains("/token")).count();
    assert_eq!(tokens(&fake), 1);

    let client = client_as("me", "pw");
    client.pull(&reference, &folder().store, PLATFORM, &Silent).await.unwrap();
    assert_eq!(tokens(&fake), 1);

    // The registry forgets its tokens while a pull, or a push, is under way.
    client.pull(&reference, &folder().store, PLATFORM, &Forgets::new(&fake, "second")).await.unwrap();
    assert_eq!(tokens(&fake), 2);
    let other = fake.reference("other:1");
    Sample::new(&[30 << 20]).put_in_store(&here.store, &other.to_string());
    client.push(&other, &here.store, &Forgets::new(&fake, "third")).await.unwrap();
    assert_eq!(tokens(&fake), 2);
}

/// Has the registry forget its tokens for a new one when the first bytes have moved.
struct Forgets<'a> {
    fake: &'a Fake,
    token: &'static str,
    done: AtomicBool,
}

impl<'a> Forgets<'a> {
    fn new(fake: &'a Fake, token: &'static str) -> Self {
        Self { fake, token, done: AtomicBool::new(false) }
    }
}

impl Progress for Forgets<'_> {
    fn report(&self, event: Event<'_>) {
        if matches!(event, Event::Moved { .. }) && !self.done.swap(true, Ordering::SeqCst) {
            self.fake.set_tokens(&[self.token]);
        }
    }
}

#[tokio::test]
async fn a_token_service_elsewhere_gets_no_password_in_plain_http() {
    let elsewhere = Fake::start().await;
    let fake = guarded(|_| Guard::Bearer { realm: elsewhere.url("/token") }).await;
    let error = client().check_login(&fake.host(), &Credential::password("me", "pw")).await.unwrap_err();
    assert!(matches!(error, RequestError::BadRedirect { .. }), "{error}");
    assert!(elsewhere.take_seen().is_empty());
}

#[tokio::test]
async fn a_token_service_of_somebody_else_gets_a_login_only_if_it_is_listed() {
    // The fake is 127.0.0.1, so `localhost` is another host. Nobody speaks TLS there.
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let service = format!("localhost:{}", elsewhere.local_addr().unwrap().port());
    let fake = guarded(|_| Guard::Bearer { realm: format!("https://{service}/token") }).await;
    let sample = Sample::new(&[1000]);
    sample.put_in(&fake, "web", "1");
    let folder = tempfile::tempdir().unwrap();
    let file = CredentialFile::new(folder.path().join("config.json"));
    let me = Credential::password("me", "pw");

    let refused = client().login(&fake.host(), &me, &file).await.unwrap_err();
    let want = format!(
        "the registry {} would have us send the login to {service}, which is neither its own host nor of its site",
        fake.host()
    );
    assert_eq!(chain(&refused), want);
    let refused = client_as("me", "pw").resolve(&fake.reference("web:1")).await.unwrap_err();
    assert!(matches!(refused, RequestError::ForeignTokenService { .. }), "{refused}");
    assert!(!file.path().exists());
    assert!(elsewhere.accept().is_err());

    // The others get as far as the connection.
    drop(elsewhere);
    let is_tried = |error: RequestError| {
        matches!(error, RequestError::Unreachable { .. } | RequestError::Client(ClientError::NoCertificates))
    };
    let nobody = client().resolve(&fake.reference("web:1")).await.unwrap_err();
    assert!(is_tried(nobody));
    let trusting = client_with(ClientOptions { token_services: vec![service], ..ClientOptions::default() });
    assert!(is_tried(trusting.check_login(&fake.host(), &me).await.unwrap_err()));
}
