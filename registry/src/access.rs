//! Who may do what: users, robots, their rights, and how they prove who they are.
//!
//! ```text
//! Authorization: Basic   --> log_in  --.                            .--> yes
//! Authorization: Bearer  --> bearer  ---+--> Caller --may(action)--+
//! nothing                --> anonymous-'                            `--> 401 or 403
//! ```
//!
//! - [`Access`] is what an operator changes; what a client may do is in [`gate`], as values.
//! - Rights are looked up at each request. Who is removed is out at once, whatever they hold.
//! - A storage in which there was never an account is open to whoever reaches its server. From the
//!   first account on it never is again, also when all accounts are gone.
//! - Secrets are kept as hashes only, and appear in no message, event or `Debug`.
//!
//! Nothing here knows HTTP.

pub(crate) mod audit;
pub(crate) mod gate;
mod guesses;
pub(crate) mod htpasswd;
pub(crate) mod login;
pub(crate) mod password;
pub(crate) mod principal;
mod records;
pub(crate) mod right;
pub(crate) mod robot_token;
pub(crate) mod scope;
pub(crate) mod secret;
pub(crate) mod token;
mod verified;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blob_store::{Sharing, Storage};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use self::audit::{Audit, AuditedAction, Outcome};
use self::guesses::Guesses;
use self::htpasswd::HtpasswdError;
use self::password::{PasswordError, Passwords, StoredPassword};
use self::principal::AccountName;
use self::records::Records;
use self::right::Grant;
use self::robot_token::{RobotId, RobotToken, StoredToken};
use self::secret::Secret;
use self::token::TokenKey;
use self::verified::Verified;
use crate::clock::{Clock, Time};
use crate::event::{Event, Observer};
use crate::layout;
use crate::log::{Log, LogError};
use crate::random;

/// Most grants of an account.
const MAX_GRANTS: usize = 100;
/// Who changes accounts: whoever runs the command line on the server.
const OPERATOR: &str = "operator";

/// The accounts of a storage. Clones are the same.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    users: Records<User>,
    robots: Records<Robot>,
    passwords: Passwords,
    guesses: Guesses,
    verified: Verified,
    key: OnceCell<TokenKey>,
    /// Some account was seen. It stays so.
    was_closed: AtomicBool,
    /// No account was there when this process looked. Meaningless once `was_closed`.
    was_open: AtomicBool,
}

/// A user's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct User {
    name: AccountName,
    password: StoredPassword,
    grants: Vec<Grant>,
}

/// A robot's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Robot {
    name: AccountName,
    token: StoredToken,
    grants: Vec<Grant>,
    /// From then on the token is worth nothing; `None`: never.
    expires: Option<Time>,
    created: Time,
}

/// A user, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UserInfo {
    /// Who.
    pub name: AccountName,
    /// What they may do.
    pub grants: Vec<Grant>,
}

/// A robot, without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RobotInfo {
    /// Who.
    pub name: AccountName,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// When it was added.
    pub created: Time,
    /// From when on its token is worth nothing; `None`: never.
    pub expires: Option<Time>,
    /// Whether that is now.
    pub is_expired: bool,
}

/// How long a robot's token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// For so long from now.
    After(Duration),
    /// Until it is revoked.
    Never,
}

/// What came of an htpasswd file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Imported {
    /// Users who are here now.
    pub added: Vec<AccountName>,
    /// Users who were here before; nothing of theirs was changed.
    pub existing: Vec<AccountName>,
}

/// Why an account was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The name is taken.
    #[error("there is an account `{name}` already")]
    Exists {
        /// The name.
        name: AccountName,
    },
    /// The name is nobody's.
    #[error("there is no account `{name}`")]
    Unknown {
        /// The name.
        name: AccountName,
    },
    /// The password is not accepted.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// More grants than a record holds.
    #[error("an account may have at most {MAX_GRANTS} grants; these are {count}")]
    TooManyGrants {
        /// How many.
        count: usize,
    },
    /// The htpasswd file is not taken over.
    #[error(transparent)]
    Htpasswd(#[from] HtpasswdError),
    /// The storage failed, or a record in it is damaged.
    #[error("the accounts cannot be read or changed")]
    Records(#[source] RecordsError),
}

/// Why the records of accounts cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RecordsError(LogError);

impl From<LogError> for RecordsError {
    fn from(error: LogError) -> Self {
        Self(error)
    }
}

impl From<LogError> for AccessError {
    fn from(error: LogError) -> Self {
        Self::Records(error.into())
    }
}

impl Access {
    /// The accounts in `storage`. Where a server uses the storage for itself alone, changes must go
    /// through [`crate::Server::access`], since it remembers what it read.
    pub fn new(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>, observer: Arc<dyn Observer>) -> Self {
        Self(Arc::new(Inner {
            users: Records::new(Arc::clone(&storage), layout::users()),
            robots: Records::new(Arc::clone(&storage), layout::robots()),
            passwords: Passwords::new(),
            guesses: Guesses::new(),
            verified: Verified::new(),
            key: OnceCell::new(),
            was_closed: AtomicBool::new(false),
            was_open: AtomicBool::new(false),
            storage,
            clock,
            observer,
        }))
    }

    /// Adds a user.
    ///
    /// # Errors
    ///
    /// [`AccessError::Exists`], [`AccessError::Password`], [`AccessError::TooManyGrants`],
    /// [`AccessError::Records`]. Nothing is changed then.
    pub async fn add_user(
        &self,
        name: &AccountName,
        password: &Secret,
        grants: Vec<Grant>,
    ) -> Result<(), AccessError> {
        check_grants(&grants)?;
        let password = self.0.passwords.hash(password.clone()).await?;
        self.put_user(User { name: name.clone(), password, grants }).await
    }

    /// Gives a user another password. Bearer tokens that were issued for the old one are worth nothing
    /// from now on.
    ///
    /// # Errors
    ///
    /// [`AccessError::Unknown`], [`AccessError::Password`], [`AccessError::Records`].
    pub async fn set_password(&self, name: &AccountName, password: &Secret) -> Result<(), AccessError> {
        let password = self.0.passwords.hash(password.clone()).await?;
        let change = |user: &User| User { password: password.clone(), ..user.clone() };
        self.change_user(name, |user| Some(change(user))).await?;
        self.audit(AuditedAction::SetPassword, name);
        Ok(())
    }

    /// Gives a user other rights instead of those they have.
    ///
    /// # Errors
    ///
    /// [`AccessError::Unknown`], [`AccessError::TooManyGrants`], [`AccessError::Records`].
    pub async fn set_grants(&self, name: &AccountName, grants: Vec<Grant>) -> Result<(), AccessError> {
        check_grants(&grants)?;
        self.change_user(name, |user| Some(User { grants: grants.clone(), ..user.clone() })).await?;
        self.audit(AuditedAction::SetGrants, name);
        Ok(())
    }

    /// Removes a user, who is out at once.
    ///
    /// # Errors
    ///
    /// [`AccessError::Unknown`], [`AccessError::Records`].
    pub async fn remove_user(&self, name: &AccountName) -> Result<(), AccessError> {
        self.change_user(name, |_| None).await?;
        self.audit(AuditedAction::RemoveUser, name);
        Ok(())
    }

    /// All users.
    ///
    /// # Errors
    ///
    /// [`AccessError::Records`].
    pub async fn users(&self) -> Result<Vec<UserInfo>, AccessError> {
        let users = self.0.users.all().await?;
        let info = |user: Arc<User>| UserInfo { name: user.name.clone(), grants: user.grants.clone() };
        Ok(users.into_iter().map(info).collect())
    }

    /// Adds a robot and returns its token. It can be had here only; what is kept is a hash. The name
    /// of a robot whose token has expired can be used again.
    ///
    /// # Errors
    ///
    /// [`AccessError::Exists`], [`AccessError::TooManyGrants`], [`AccessError::Records`].
    pub async fn add_robot(
        &self,
        name: &AccountName,
        grants: Vec<Grant>,
        expiry: Expiry,
    ) -> Result<Secret, AccessError> {
        check_grants(&grants)?;
        let created = self.now();
        let expires = match expiry {
            Expiry::After(life) => Some(created.after(life)),
            Expiry::Never => None,
        };
        let token = RobotToken::draw(name);
        let robot = Robot { name: name.clone(), token: token.stored(), grants, expires, created };
        let add = |known: Option<&Robot>| match known {
            Some(known) if !known.is_expired(created) => Err(AccessError::Exists { name: name.clone() }),
            _ => Ok(Some(robot.clone())),
        };
        self.0.robots.change(&layout::robot(&token.id), created, add).await?;
        self.0.was_closed.store(true, Ordering::SeqCst);
        self.audit(AuditedAction::AddRobot, name);
        Ok(token.show())
    }

    /// Makes a robot's token worth nothing.
    ///
    /// # Errors
    ///
    /// [`AccessError::Unknown`], [`AccessError::Records`].
    pub async fn revoke_robot(&self, name: &AccountName) -> Result<(), AccessError> {
        let revoke = |known: Option<&Robot>| match known {
            Some(known) if known.name == *name => Ok(None),
            _ => Err(AccessError::Unknown { name: name.clone() }),
        };
        let folder = layout::robot(&RobotId::of(name));
        self.0.robots.change(&folder, self.now(), revoke).await?;
        self.audit(AuditedAction::RevokeRobot, name);
        Ok(())
    }

    /// All robots that were not revoked.
    ///
    /// # Errors
    ///
    /// [`AccessError::Records`].
    pub async fn robots(&self) -> Result<Vec<RobotInfo>, AccessError> {
        let now = self.now();
        let info = |robot: Arc<Robot>| RobotInfo {
            name: robot.name.clone(),
            grants: robot.grants.clone(),
            created: robot.created,
            expires: robot.expires,
            is_expired: robot.is_expired(now),
        };
        let mut robots: Vec<_> = self.0.robots.all().await?.into_iter().map(info).collect();
        robots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(robots)
    }

    /// Adds the users of an htpasswd file, all with the same rights. Their passwords stay as they are;
    /// only bcrypt is taken over.
    ///
    /// # Errors
    ///
    /// [`AccessError::Htpasswd`], [`AccessError::TooManyGrants`]: nobody is added.
    /// [`AccessError::Records`]: some may be, and importing again adds the others.
    pub async fn import_htpasswd(&self, text: &str, grants: Vec<Grant>) -> Result<Imported, AccessError> {
        check_grants(&grants)?;
        let mut imported = Imported::default();
        for (name, password) in htpasswd::parse(text)? {
            let user = User { name: name.clone(), password, grants: grants.clone() };
            match self.put_user(user).await {
                Ok(()) => imported.added.push(name),
                Err(AccessError::Exists { name }) => imported.existing.push(name),
                Err(error) => return Err(error),
            }
        }
        Ok(imported)
    }

    /// True if there was never an account, so that everybody may do everything.
    pub(crate) async fn is_open(&self) -> Result<bool, LogError> {
        let Inner { was_closed, was_open, storage, .. } = &*self.0;
        if was_closed.load(Ordering::SeqCst) {
            return Ok(false);
        }
        // This process would know of an account: it would have added it.
        if storage.sharing() == Sharing::Exclusive && was_open.load(Ordering::SeqCst) {
            return Ok(true);
        }
        let mut is_open = true;
        for folder in [layout::users(), layout::robots()] {
            is_open &= storage.list(&folder, None, 1).await?.is_empty();
        }
        let seen = if is_open { was_open } else { was_closed };
        seen.store(true, Ordering::SeqCst);
        Ok(is_open)
    }

    /// Learns what it takes to treat all users alike. See [`password`].
    pub(crate) async fn prepare(&self) -> Result<(), LogError> {
        for user in self.0.users.all().await? {
            self.0.passwords.notice(&user.password);
        }
        Ok(())
    }

    /// The key of bearer tokens; the first who needs it draws it.
    async fn key(&self) -> Result<&TokenKey, LogError> {
        let load = async || {
            let log: Log<'_, String> = Log::new(&*self.0.storage, layout::token_keys());
            let draw = |newest: Option<&_>| Ok(newest.is_none().then(|| hex::encode(random::bytes::<32>())));
            log.append_if::<LogError>(draw).await?;
            let newest = log.newest().await?.expect("it was there, or was just put there");
            Ok(TokenKey::new(newest.entry.as_bytes()))
        };
        self.0.key.get_or_try_init(load).await
    }

    fn now(&self) -> Time {
        self.0.clock.now()
    }

    async fn put_user(&self, user: User) -> Result<(), AccessError> {
        let name = user.name.clone();
        let add = |known: Option<&User>| match known {
            Some(_) => Err(AccessError::Exists { name: name.clone() }),
            None => Ok(Some(user.clone())),
        };
        self.0.users.change(&layout::user(&name), self.now(), add).await?;
        self.0.was_closed.store(true, Ordering::SeqCst);
        self.0.passwords.notice(&user.password);
        self.audit(AuditedAction::AddUser, &name);
        Ok(())
    }

    async fn change_user(
        &self,
        name: &AccountName,
        change: impl Fn(&User) -> Option<User>,
    ) -> Result<(), AccessError> {
        let decide = |known: Option<&User>| match known {
            Some(user) => Ok(change(user)),
            None => Err(AccessError::Unknown { name: name.clone() }),
        };
        self.0.users.change(&layout::user(name), self.now(), decide).await
    }

    /// Tells whoever wants to know.
    pub(crate) fn report(&self, audit: &Audit) {
        self.0.observer.observe(&Event::Audit(audit));
    }

    fn audit(&self, action: AuditedAction, name: &AccountName) {
        self.report(&Audit {
            principal: OPERATOR.to_owned(),
            address: None,
            action,
            repository: None,
            object: Some(name.to_string()),
            digest: None,
            outcome: Outcome::Done,
        });
    }
}

/// Not what the storage holds.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Robot {
    fn is_expired(&self, now: Time) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

fn check_grants(grants: &[Grant]) -> Result<(), AccessError> {
    match grants.len() {
        count if count > MAX_GRANTS => Err(AccessError::TooManyGrants { count }),
        _ => Ok(()),
    }
}
