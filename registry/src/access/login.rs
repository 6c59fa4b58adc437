//! Proving who one is: with a password, with a robot's token, with a bearer token.
//!
//! A password that is wrong, a user who is not there, and a name that nobody can have are the same
//! answer after the same work.

use std::net::IpAddr;

use appliance::Digest;

use super::guesses::TooManyGuesses;
use super::principal::{AccountName, Principal};
use super::right::Grant;
use super::robot_token::{RobotId, RobotToken};
use super::scope::Scopes;
use super::secret::Secret;
use super::token::Token;
use super::{Access, Inner};
use crate::clock::Time;
use crate::layout;
use crate::log::LogError;

/// Somebody who has proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) principal: Principal,
    /// Tells one password or token of the account from another. Not a secret.
    pub(crate) credential: String,
    pub(crate) grants: Vec<Grant>,
}

/// Why somebody is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("the user or the password is wrong")]
    Wrong,
    #[error("the token is not valid, or not any more")]
    BadToken,
    #[error("too many logins have failed; try again in {} seconds", .0.retry_after.as_secs())]
    TooMany(TooManyGuesses),
    #[error(transparent)]
    Records(#[from] LogError),
}

impl From<TooManyGuesses> for LoginError {
    fn from(too_many: TooManyGuesses) -> Self {
        Self::TooMany(too_many)
    }
}

impl Account {
    pub(crate) fn anonymous() -> Self {
        Self { principal: Principal::Anonymous, credential: String::new(), grants: Vec::new() }
    }

    fn new(principal: Principal, stored: &str, grants: &[Grant]) -> Self {
        let mut credential = Digest::sha256(stored.as_bytes()).hex();
        credential.truncate(16);
        Self { principal, credential, grants: grants.to_vec() }
    }
}

impl Access {
    /// Whose name and password these are. A robot's token does as a password, under any name.
    pub(crate) async fn log_in(
        &self,
        name: &str,
        password: &Secret,
        address: IpAddr,
    ) -> Result<Account, LoginError> {
        if let Some(token) = RobotToken::parse(password.reveal()) {
            return self.robot(&token).await;
        }
        let Inner { users, passwords, guesses, verified, .. } = &*self.0;
        let user = match name.parse::<AccountName>() {
            Ok(name) => users.get(&layout::user(&name)).await?,
            Err(_) => None,
        };
        let account = user.as_ref().map(|user| {
            Account::new(Principal::User(user.name.clone()), user.password.as_str(), &user.grants)
        });
        let shown = user.as_ref().map(|user| verified.shown(name, password, user.password.as_str()));
        let was_verified = |now| shown.is_some_and(|shown| verified.contains(&shown, now));

        // Who guesses too often learns nothing, not even that a password was shown here lately.
        guesses.check_account(name, address, self.now())?;
        if was_verified(self.now()) {
            return account.ok_or(LoginError::Wrong);
        }
        guesses.check(name, address, self.now())?;
        let turn = passwords.turn().await;
        // A client that opens several connections shows its password on each; one is enough.
        if was_verified(self.now()) {
            return account.ok_or(LoginError::Wrong);
        }
        let guess = guesses.begin(name, address, self.now())?;
        let is_right =
            passwords.verify(turn, password.clone(), user.as_ref().map(|user| &user.password)).await;
        match (is_right, account, shown) {
            (true, Some(account), Some(shown)) => {
                guesses.was_right(&guess);
                verified.insert(shown, self.now());
                Ok(account)
            }
            _ => Err(LoginError::Wrong),
        }
    }

    /// Whose token this is: a robot's, or one that was issued here. Of the latter, also for what.
    ///
    /// A bearer token must be good now, or have been good at the time `began`, when something began
    /// that is still under way.
    pub(crate) async fn bearer(
        &self,
        text: &str,
        began: Option<Time>,
    ) -> Result<(Account, Option<Scopes>), LoginError> {
        if let Some(token) = RobotToken::parse(text) {
            return Ok((self.robot(&token).await?, None));
        }
        let token = self.key().await?.verify(text).ok_or(LoginError::BadToken)?;
        let holds = token.holds_at(self.now()) || began.is_some_and(|began| token.holds_at(began));
        let account = self
            .account(&token.principal)
            .await?
            .filter(|account| holds && account.credential == token.credential);
        Ok((account.ok_or(LoginError::BadToken)?, Some(token.scopes)))
    }

    /// A bearer token for an account.
    pub(crate) async fn issue(&self, account: &Account, scopes: Scopes) -> Result<Secret, LogError> {
        let (principal, credential) = (account.principal.clone(), account.credential.clone());
        let token = Token::new(principal, credential, scopes, self.now());
        Ok(Secret::new(self.key().await?.sign(&token)))
    }

    /// Whose token this is, if it is a robot's.
    pub(crate) async fn log_in_robot(&self, token: &Secret) -> Result<Account, LoginError> {
        let token = RobotToken::parse(token.reveal()).ok_or(LoginError::BadToken)?;
        self.robot(&token).await
    }

    async fn robot(&self, token: &RobotToken) -> Result<Account, LoginError> {
        let robot = self.0.robots.get(&layout::robot(&token.id)).await?;
        let robot = robot.filter(|robot| robot.token == token.stored() && !robot.is_expired(self.now()));
        let robot = robot.ok_or(LoginError::BadToken)?;
        Ok(Account::new(Principal::Robot(robot.name.clone()), robot.token.as_str(), &robot.grants))
    }

    /// Somebody's account as it is now.
    async fn account(&self, principal: &Principal) -> Result<Option<Account>, LogError> {
        let account = |stored: &str, grants: &[Grant]| Account::new(principal.clone(), stored, grants);
        Ok(match principal {
            Principal::Anonymous => Some(Account::anonymous()),
            Principal::User(name) => {
                let user = self.0.users.get(&layout::user(name)).await?;
                user.map(|user| account(user.password.as_str(), &user.grants))
            }
            Principal::Robot(name) => {
                let robot = self.0.robots.get(&layout::robot(&RobotId::of(name))).await?;
                let robot = robot.filter(|robot| robot.name == *name && !robot.is_expired(self.now()));
                robot.map(|robot| account(robot.token.as_str(), &robot.grants))
            }
        })
    }
}
