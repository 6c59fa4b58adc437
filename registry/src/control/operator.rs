//! Whoever runs a registry, whether a server has its storage or not.

use std::path::Path;
use std::sync::Arc;

use blob_store::Storage;

use super::client::{Client, LinkError};
use super::{Keeper, Order, Refusal, Report};
use crate::access::principal::AccountName;
use crate::access::right::Grant;
use crate::access::secret::Secret;
use crate::access::{Access, Expiry, Imported, RobotInfo, UserInfo};
use crate::clock::SystemClock;
use crate::event::Observer;
use crate::lifecycle::{Caretaker, Collected, Mode, Scrubbed};
use crate::rules::Rules;
use crate::server::{Garbage, ServeError};

/// Whoever runs a registry. See the module's header.
#[derive(Debug)]
pub struct Operator(Way);

#[derive(Debug)]
enum Way {
    Direct(Keeper),
    Running(Client),
}

/// Why an operator's order was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// It cannot be done. What was done before that stays done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server did not answer. The order may have been carried out or not.
    #[error("the server did not say what came of it")]
    Link(#[from] LinkError),
}

impl Operator {
    /// Works on a storage that this process has open, or that several may share.
    ///
    /// # Errors
    ///
    /// [`ServeError::OtherLayout`], [`ServeError::Storage`].
    pub async fn direct(
        storage: Arc<dyn Storage>,
        garbage: Garbage,
        rules: Rules,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ServeError> {
        let caretaker = Caretaker::open(Arc::clone(&storage), garbage, rules, Arc::clone(&observer)).await?;
        let access = Access::new(storage, Arc::new(SystemClock), observer);
        Ok(Self(Way::Direct(Keeper { access, caretaker: Arc::new(caretaker) })))
    }

    /// Speaks to the server whose control folder, [`crate::ServerConfig::control`], this is.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn running(control: &Path) -> Result<Self, LinkError> {
        Ok(Self(Way::Running(Client::new(control).await?)))
    }

    /// Runs one cycle of garbage collection, after the one that is under way.
    ///
    /// # Errors
    ///
    /// [`OperatorError`]; so for all that follow.
    pub async fn collect(&self, mode: Mode) -> Result<Collected, OperatorError> {
        self.give(Order::Collect { mode }, |report| match report {
            Report::Collected(collected) => Some(collected),
            _ => None,
        })
        .await
    }

    /// Reads everything again, at most `rate` bytes per second. See [`Caretaker::scrub`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn scrub(&self, mode: Mode, rate: Option<u64>) -> Result<Scrubbed, OperatorError> {
        self.give(Order::Scrub { mode, rate }, |report| match report {
            Report::Scrubbed(scrubbed) => Some(scrubbed),
            _ => None,
        })
        .await
    }

    /// See [`Access::users`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn users(&self) -> Result<Vec<UserInfo>, OperatorError> {
        self.give(Order::Users, |report| match report {
            Report::Users(users) => Some(users),
            _ => None,
        })
        .await
    }

    /// See [`Access::add_user`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn add_user(
        &self,
        name: AccountName,
        password: Secret,
        grants: Vec<Grant>,
    ) -> Result<(), OperatorError> {
        self.give(Order::AddUser { name, password, grants }, done).await
    }

    /// See [`Access::set_password`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn set_password(&self, name: AccountName, password: Secret) -> Result<(), OperatorError> {
        self.give(Order::SetPassword { name, password }, done).await
    }

    /// See [`Access::set_grants`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn set_grants(&self, name: AccountName, grants: Vec<Grant>) -> Result<(), OperatorError> {
        self.give(Order::SetGrants { name, grants }, done).await
    }

    /// See [`Access::remove_user`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn remove_user(&self, name: AccountName) -> Result<(), OperatorError> {
        self.give(Order::RemoveUser { name }, done).await
    }

    /// See [`Access::import_htpasswd`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn import_htpasswd(&self, text: Secret, grants: Vec<Grant>) -> Result<Imported, OperatorError> {
        self.give(Order::ImportHtpasswd { text, grants }, |report| match report {
            Report::Imported(imported) => Some(imported),
            _ => None,
        })
        .await
    }

    /// See [`Access::robots`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn robots(&self) -> Result<Vec<RobotInfo>, OperatorError> {
        self.give(Order::Robots, |report| match report {
            Report::Robots(robots) => Some(robots),
            _ => None,
        })
        .await
    }

    /// See [`Access::add_robot`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn add_robot(
        &self,
        name: AccountName,
        grants: Vec<Grant>,
        expiry: Expiry,
    ) -> Result<Secret, OperatorError> {
        self.give(Order::AddRobot { name, grants, expiry }, |report| match report {
            Report::Token(token) => Some(token),
            _ => None,
        })
        .await
    }

    /// See [`Access::revoke_robot`].
    ///
    /// # Errors
    ///
    /// As [`Operator::collect`].
    pub async fn revoke_robot(&self, name: AccountName) -> Result<(), OperatorError> {
        self.give(Order::RevokeRobot { name }, done).await
    }

    /// Has an order carried out, and takes from the report what belongs to it.
    async fn give<T>(
        &self,
        order: Order,
        take: impl FnOnce(Report) -> Option<T>,
    ) -> Result<T, OperatorError> {
        let report = match &self.0 {
            Way::Direct(keeper) => keeper.obey(order).await?,
            Way::Running(client) => client.send(&order).await??,
        };
        Ok(take(report).ok_or(LinkError::Strange)?)
    }
}

fn done(report: Report) -> Option<()> {
    matches!(report, Report::Done).then_some(())
}
