//! `/token`: a bearer token for whoever proves who they are.
//!
//! ```text
//! GET  /token?service=..&scope=..      Authorization: Basic          as docker and podman ask
//! POST /token                          grant_type=password&..        as containerd asks
//!                                      grant_type=refresh_token&..   with a robot's token
//! ```
//!
//! Whoever shows nothing gets a token too, where everybody may pull something. A token for scopes that
//! its holder has no right to is not refused, it only has less in it. There are no refresh tokens: who
//! wants something that holds longer than a password has a robot added. The answer does not say when
//! the token was issued, since clients whose clock is wrong would take it for old.
//!
//! Source: docker's "Token Authentication Specification", "OAuth2 Token Authentication".

use std::net::IpAddr;

use http::Method;
use http::header::{self, HeaderValue};
use serde_json::json;

use super::gate::Shown;
use super::{Answer, ApiError, Call, Query, Service, json as json_answer};
use crate::access::gate::Caller;
use crate::access::login::{Account, LoginError};
use crate::access::scope::Scopes;
use crate::access::secret::Secret;
use crate::access::token::LIFE;

/// Largest form that is read.
const MAX_FORM: u64 = 64 << 10;

impl Service {
    pub(super) async fn token(&self, mut call: Call, address: IpAddr) -> Answer {
        let form = match call.method == Method::POST {
            true => {
                let body = call.body.whole(MAX_FORM).await?;
                Some(Query::parse(Some(&String::from_utf8_lossy(&body))))
            }
            false => None,
        };
        let shown = match &form {
            Some(form) => credentials(form)?,
            None => Shown::read(&call.headers),
        };
        let account = match self.account(shown, address).await {
            Ok(account) => account,
            Err(LoginError::Wrong | LoginError::BadToken) => {
                let challenge = format!("Basic realm=\"{}\"", self.gate.url(&call.headers).authority);
                return Err(ApiError::Unauthorized { challenge });
            }
            Err(error) => return Err(error.into()),
        };
        let params = form.as_ref().unwrap_or(&call.query);
        let caller = match self.gate.is_open().await? {
            true => Caller::anybody(),
            false => Caller::somebody(account.clone(), &self.gate.everybodys, None),
        };
        let scopes = Scopes::parse(params.all("scope"));
        let scopes = scopes.narrowed(|action, repository| caller.has_right(action, repository));
        let token = self.gate.access.issue(&account, scopes).await?;
        let answer = json!({
            "token": token.reveal(),
            "access_token": token.reveal(),
            "expires_in": LIFE.as_secs(),
            "token_type": "Bearer",
        });
        let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(json_answer([no_store], &answer))
    }

    async fn account(&self, shown: Shown, address: IpAddr) -> Result<Account, LoginError> {
        match shown {
            Shown::Nothing if self.gate.everybodys.is_empty() && !self.gate.is_open().await? => {
                Err(LoginError::Wrong)
            }
            Shown::Nothing => Ok(Account::anonymous()),
            // Whoever may do anything without an account may also show one that is not there.
            _ if self.gate.is_open().await? => Ok(Account::anonymous()),
            Shown::Password { name, password } => self.gate.log_in(&name, &password, address).await,
            // A robot's token only: a bearer token must not get another one when it ends.
            Shown::Bearer(token) => self.gate.log_in_robot(&token, address).await,
            Shown::Unknown => Err(LoginError::Wrong),
        }
    }
}

/// What a form shows.
fn credentials(form: &Query) -> Result<Shown, ApiError> {
    let secret = |name: &str| form.get(name).map(Secret::new);
    let shown = match form.get("grant_type") {
        Some("password") => form
            .get("username")
            .zip(secret("password"))
            .map(|(name, password)| Shown::Password { name: name.to_owned(), password }),
        Some("refresh_token") => secret("refresh_token").map(Shown::Bearer),
        _ => None,
    };
    shown.ok_or(ApiError::BadGrant)
}
