//! Carries out what an operator wants, on a storage that this process has open.

use std::error::Error;
use std::sync::Arc;

use super::{Order, Reason, Refusal, Report};
use crate::access::{Access, AccessError};
use crate::lifecycle::{CareError, Caretaker};

/// Whoever can change a registry.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pub(crate) access: Access,
    pub(crate) caretaker: Arc<Caretaker>,
}

impl Keeper {
    /// Carries out one order. To stop in the middle harms nothing, as a crash there would not.
    pub(crate) async fn obey(&self, order: Order) -> Result<Report, Refusal> {
        let Self { access, caretaker } = self;
        Ok(match order {
            Order::Collect { mode } => Report::Collected(caretaker.collect(mode).await?),
            Order::Scrub { mode, rate } => Report::Scrubbed(caretaker.scrub(mode, rate).await?),
            Order::Users => Report::Users(access.users().await?),
            Order::Robots => Report::Robots(access.robots().await?),
            Order::ImportHtpasswd { text, grants } => {
                Report::Imported(access.import_htpasswd(text.reveal(), grants).await?)
            }
            Order::AddRobot { name, grants, expiry } => {
                Report::Token(access.add_robot(&name, grants, expiry).await?)
            }
            Order::AddUser { name, password, grants } => {
                done(access.add_user(&name, &password, grants).await?)
            }
            Order::SetPassword { name, password } => done(access.set_password(&name, &password).await?),
            Order::SetGrants { name, grants } => done(access.set_grants(&name, grants).await?),
            Order::RemoveUser { name } => done(access.remove_user(&name).await?),
            Order::RevokeRobot { name } => done(access.revoke_robot(&name).await?),
        })
    }
}

fn done((): ()) -> Report {
    Report::Done
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        let reason = match &error {
            AccessError::Exists { .. } => Reason::Exists,
            AccessError::Unknown { .. } => Reason::Unknown,
            AccessError::Password(_) | AccessError::TooManyGrants { .. } | AccessError::Htpasswd(_) => {
                Reason::Invalid
            }
            AccessError::Records(_) => Reason::Failed,
        };
        Self { reason, message: sentence(&error) }
    }
}

impl From<CareError> for Refusal {
    fn from(error: CareError) -> Self {
        Self { reason: Reason::Failed, message: sentence(&error) }
    }
}

/// An error with its reasons.
fn sentence(error: &dyn Error) -> String {
    let (mut sentence, mut reason) = (error.to_string(), error.source());
    while let Some(error) = reason {
        sentence = format!("{sentence}: {error}");
        reason = error.source();
    }
    sentence
}
