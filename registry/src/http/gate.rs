//! The one gate that every request passes: who asks, and whether they may.
//!
//! Source: RFC 9110, section 11; RFC 7617 (`Basic`); RFC 6750 (`Bearer`); docker's "Token Authentication
//! Specification".

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{self, HeaderMap};
use http::uri::Authority;

use super::{Answer, ApiError, Query};
use crate::access::Access;
use crate::access::audit::{Audit, AuditedAction, Outcome};
use crate::access::gate::{Caller, Needs, Verdict};
use crate::access::login::{Account, LoginError};
use crate::access::right::{Action, Grant};
use crate::access::scope::Scope;
use crate::access::secret::Secret;
use crate::exchange::Exchange;
use crate::name::{ManifestName, RepositoryName, parse_digest};
use crate::public_url::PublicUrl;
use crate::route::Route;

/// Longest claimed name that is told.
const MAX_CLAIM: usize = 64;

/// Lets requests through, or not.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) access: Access,
    /// Whether everybody may do everything until there is an account. Else nobody may do anything.
    pub(crate) open_without_accounts: bool,
    /// What everybody may do, once there are accounts.
    pub(crate) everybodys: Vec<Grant>,
    /// Where clients reach this server, if that is not what they say.
    pub(crate) public_url: Option<PublicUrl>,
    /// How clients reach it otherwise.
    pub(crate) scheme: &'static str,
}

/// What a request wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) route: &'a Route,
    pub(super) method: &'a Method,
    pub(super) query: &'a Query,
}

/// What a request shows.
#[derive(Debug)]
pub(super) enum Shown {
    Nothing,
    Password {
        name: String,
        password: Secret,
    },
    Bearer(Secret),
    /// Something that means nothing here.
    Unknown,
}

/// What it takes to do `method` at `route`.
pub(crate) fn needs(route: &Route, method: &Method) -> Needs {
    let right = |action, repository: &_| Needs::Right(action, Clone::clone(repository));
    match route {
        Route::Base => Needs::Showing,
        Route::Catalog => Needs::Catalog,
        Route::Token => Needs::Nothing,
        Route::Tags(repository) | Route::Referrers(repository, _) | Route::History(repository, _) => {
            right(Action::Pull, repository)
        }
        Route::Uploads(repository) | Route::Upload(repository, _) => right(Action::Push, repository),
        Route::Manifest(repository, _) | Route::Blob(repository, _) => {
            let action = match *method {
                Method::GET | Method::HEAD => Action::Pull,
                Method::DELETE => Action::Delete,
                _ => Action::Push,
            };
            right(action, repository)
        }
    }
}

impl Asked<'_> {
    /// What to get a token for: what it takes, and what a mount reads from.
    fn scopes(self) -> String {
        let needed = needs(self.route, self.method).scope();
        let source = match self.route {
            Route::Uploads(_) => self.query.get("from").and_then(|from| RepositoryName::parse(from).ok()),
            _ => None,
        };
        let source = source.map(|from| Scope::to(Action::Pull, from));
        needed.into_iter().chain(source).map(|scope| scope.to_string()).collect::<Vec<_>>().join(" ")
    }
}

impl Gate {
    /// True if everybody may do everything now.
    pub(super) async fn is_open(&self) -> Result<bool, LoginError> {
        Ok(self.open_without_accounts && self.access.is_open().await?)
    }

    /// Who asks, if they may.
    pub(super) async fn admit(
        &self,
        asked: Asked<'_>,
        headers: &HeaderMap,
        exchange: &Exchange,
    ) -> Result<Caller, ApiError> {
        let needs = needs(asked.route, asked.method);
        if needs == Needs::Nothing {
            return Ok(Caller::nobody(&self.everybodys));
        }
        let unauthorized =
            |error| ApiError::Unauthorized { challenge: self.challenge(headers, &asked.scopes(), error) };
        let address = exchange.peer().ip();
        let caller = match self.caller(asked.route, headers, address).await {
            Ok(caller) => caller,
            Err(LoginError::Wrong) => return Err(unauthorized(None)),
            Err(LoginError::BadToken) => return Err(unauthorized(Some("invalid_token"))),
            Err(error) => return Err(error.into()),
        };
        exchange.asked_by(caller.name().to_owned());
        match caller.judge(&needs) {
            Verdict::Yes => Ok(caller),
            Verdict::Unproven => Err(unauthorized(caller.has_token().then_some("insufficient_scope"))),
            Verdict::No => {
                self.audit_denial(&caller, &needs, address);
                Err(ApiError::Denied)
            }
        }
    }

    async fn caller(
        &self,
        route: &Route,
        headers: &HeaderMap,
        address: IpAddr,
    ) -> Result<Caller, LoginError> {
        if self.is_open().await? {
            return Ok(Caller::anybody());
        }
        match Shown::read(headers) {
            Shown::Nothing => Ok(Caller::nobody(&self.everybodys)),
            Shown::Unknown => Err(LoginError::Wrong),
            Shown::Password { name, password } => {
                let account = self.log_in(&name, &password, address).await?;
                Ok(Caller::somebody(account, &self.everybodys, None))
            }
            Shown::Bearer(token) => {
                // What was good when an upload began is good until its end.
                let began = match route {
                    Route::Upload(_, upload) => Some(upload.begun()),
                    _ => None,
                };
                let (account, scopes) = self.access.bearer(token.reveal(), began).await?;
                Ok(Caller::somebody(account, &self.everybodys, scopes))
            }
        }
    }

    /// Whose name and password these are. That somebody is wrong about it is remembered.
    pub(super) async fn log_in(
        &self,
        name: &str,
        password: &Secret,
        address: IpAddr,
    ) -> Result<Account, LoginError> {
        let account = self.access.log_in(name, password, address).await;
        self.audit_login(name, address, &account);
        account
    }

    /// Whose token this is, if it is a robot's.
    pub(super) async fn log_in_robot(&self, token: &Secret, address: IpAddr) -> Result<Account, LoginError> {
        let account = self.access.log_in_robot(token).await;
        self.audit_login("", address, &account);
        account
    }

    fn audit_login(&self, name: &str, address: IpAddr, account: &Result<Account, LoginError>) {
        if let Err(LoginError::Wrong | LoginError::BadToken | LoginError::TooMany(_)) = account {
            let claim: String = name.chars().take(MAX_CLAIM).collect();
            self.access.report(&Audit {
                principal: format!("user:{}", claim.escape_debug()),
                address: Some(address),
                action: AuditedAction::LogIn,
                repository: None,
                object: None,
                digest: None,
                outcome: Outcome::Denied,
            });
        }
    }

    /// The value of `WWW-Authenticate`: where to get a token, and for what.
    fn challenge(&self, headers: &HeaderMap, scopes: &str, error: Option<&str>) -> String {
        let PublicUrl { scheme, authority } = self.url(headers);
        let mut challenge = format!("Bearer realm=\"{scheme}://{authority}/token\",service=\"{authority}\"");
        let scopes = Some(scopes).filter(|scopes| !scopes.is_empty());
        for (name, value) in [("scope", scopes), ("error", error)] {
            if let Some(value) = value {
                challenge += &format!(",{name}=\"{value}\"");
            }
        }
        challenge
    }

    /// Where this client reaches the server.
    pub(super) fn url(&self, headers: &HeaderMap) -> PublicUrl {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        let host = headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        let host = host.filter(PublicUrl::is_plain);
        // Who does not say where they are going is on their own.
        let authority = host.unwrap_or_else(|| Authority::from_static("localhost"));
        PublicUrl { scheme: self.scheme, authority }
    }

    fn audit_denial(&self, caller: &Caller, needs: &Needs, address: IpAddr) {
        let Needs::Right(action, repository) = needs else { return };
        let action = match action {
            Action::Pull => AuditedAction::Pull,
            Action::Push => AuditedAction::Push,
            Action::Delete | Action::Admin => AuditedAction::Delete,
        };
        self.access.report(&Audit {
            principal: caller.name().to_owned(),
            address: Some(address),
            action,
            repository: Some(repository.as_str().to_owned()),
            object: None,
            digest: None,
            outcome: Outcome::Denied,
        });
    }
}

impl Shown {
    /// Reads `Authorization`. Two of them are none that we know.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Self::Nothing };
        let text = value.to_str().ok().filter(|_| values.next().is_none());
        let Some((scheme, rest)) = text.and_then(|text| text.split_once(' ')) else { return Self::Unknown };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::Bearer(Secret::new(rest));
        }
        let basic = || {
            let decoded = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
            let (name, password) = decoded.split_once(':')?;
            Some(Self::Password { name: name.to_owned(), password: Secret::new(password) })
        };
        match scheme.eq_ignore_ascii_case("basic") {
            true => basic().unwrap_or(Self::Unknown),
            false => Self::Unknown,
        }
    }
}

/// What is to be told of a request that changes something, once it is answered.
#[derive(Debug)]
pub(super) struct Change(Audit);

impl Change {
    /// `None` for requests that change nothing that others see.
    pub(super) fn new(asked: Asked<'_>, caller: &Caller, exchange: &Exchange) -> Option<Self> {
        let Asked { route, method, query } = asked;
        let (action, repository, name) = match route {
            Route::Manifest(repository, name) if *method == Method::PUT => {
                (AuditedAction::Push, repository, Some(name))
            }
            Route::Manifest(repository, name) if *method == Method::DELETE => {
                (AuditedAction::Delete, repository, Some(name))
            }
            Route::Blob(repository, _) if *method == Method::DELETE => {
                (AuditedAction::Delete, repository, None)
            }
            Route::Uploads(repository) if query.get("digest").or(query.get("mount")).is_some() => {
                (AuditedAction::PushBlob, repository, None)
            }
            Route::Upload(repository, _) if *method == Method::PUT => {
                (AuditedAction::PushBlob, repository, None)
            }
            _ => return None,
        };
        let (tag, digest) = match (name, route) {
            (Some(ManifestName::Tag(tag)), _) => (Some(tag.as_str().to_owned()), None),
            (Some(ManifestName::Digest(digest)), _) => {
                // A manifest can get several tags at once.
                let tags = query.all("tag").collect::<Vec<_>>().join(",");
                let tags = Some(tags).filter(|tags| !tags.is_empty() && *method == Method::PUT);
                (tags.map(|tags| tags.escape_debug().to_string()), Some(*digest))
            }
            (None, Route::Blob(_, digest)) => (None, Some(*digest)),
            (None, _) => (None, None),
        };
        Some(Self(Audit {
            principal: caller.name().to_owned(),
            address: Some(exchange.peer().ip()),
            action,
            repository: Some(repository.as_str().to_owned()),
            object: tag,
            digest,
            outcome: Outcome::Done,
        }))
    }

    /// Tells what came of it. A blob that did not arrive is nothing that happened.
    pub(super) fn answered(self, answer: &Answer, access: &Access) {
        let Self(mut audit) = self;
        match answer {
            Ok(response) => {
                if audit.action == AuditedAction::PushBlob && response.status() != http::StatusCode::CREATED {
                    return;
                }
                let digest = response.headers().get(super::DOCKER_CONTENT_DIGEST);
                let digest = digest.and_then(|digest| parse_digest(digest.to_str().ok()?).ok());
                audit.digest = digest.or(audit.digest);
            }
            Err(_) if audit.action == AuditedAction::PushBlob => return,
            Err(_) => audit.outcome = Outcome::Failed,
        }
        access.report(&audit);
    }
}
