//! Whoever keeps a storage in order: within a server, from time to time and when told to; or alone, when
//! no server runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blob_store::Storage;
use tokio::sync::Mutex;

use super::{Collected, Collector, Mode, Scrubbed, Scrubber};
use crate::clock::{Clock, SteadyClock, SystemClock};
use crate::event::{Event, Observer};
use crate::repository::{Repositories, RepositoryError};
use crate::rules::Rules;
use crate::server::{Garbage, ServeError, check_layout};
use crate::uploads::Uploads;

/// Collects garbage and looks for damage.
#[derive(Debug)]
pub struct Caretaker {
    repositories: Arc<Repositories>,
    collector: Collector,
    observer: Arc<dyn Observer>,
    /// Held while garbage is collected. Cycles at the same time would be right, but of no use.
    turn: Mutex<()>,
}

/// Why a caretaker could not finish. What it did until then is done.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CareError(#[from] RepositoryError);

/// How often abandoned uploads are looked for, at most and at least.
const EXPIRY_PERIOD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60 * 60));

impl Caretaker {
    /// A caretaker of a storage that no server of this process serves.
    ///
    /// # Errors
    ///
    /// [`ServeError::OtherLayout`], [`ServeError::Storage`].
    pub async fn open(
        storage: Arc<dyn Storage>,
        garbage: Garbage,
        rules: Rules,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ServeError> {
        check_layout(&*storage).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let repositories = Repositories::new(storage, Arc::clone(&clock), garbage.grace, Arc::new(rules));
        Ok(Self::new(Arc::new(repositories), garbage.grace, clock, observer))
    }

    pub(crate) fn new(
        repositories: Arc<Repositories>,
        grace: Duration,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let clock = Arc::new(SteadyClock::over(clock));
        let collector = Collector::new(Arc::clone(&repositories), clock, grace);
        Self { repositories, collector, observer, turn: Mutex::default() }
    }

    /// Runs one cycle of garbage collection, after the one that is under way.
    ///
    /// # Errors
    ///
    /// [`CareError`]. The next cycle goes on with what this one left.
    pub async fn collect(&self, mode: Mode) -> Result<Collected, CareError> {
        let _turn = self.turn.lock().await;
        let collected = self.collector.run(mode).await;
        match &collected {
            Ok(collected) if mode == Mode::Collect => {
                self.observer.observe(&Event::GarbageCollected { collected });
            }
            Ok(_) => {}
            Err(error) => self.observer.observe(&Event::CollectionFailed { error }),
        }
        Ok(collected?)
    }

    /// Reads everything again, at most `rate` bytes per second, and puts what is damaged into quarantine
    /// unless this is a dry run.
    ///
    /// # Errors
    ///
    /// [`CareError`], where the storage fails otherwise than by what it says about one object.
    pub async fn scrub(&self, mode: Mode, rate: Option<u64>) -> Result<Scrubbed, CareError> {
        let scrubbed = Scrubber::new(&self.repositories, mode, rate).run().await?;
        self.observer.observe(&Event::Scrubbed { scrubbed: &scrubbed });
        Ok(scrubbed)
    }

    /// Collects garbage for ever, each `period`; not at once, since a server that has just started has
    /// other things to do.
    pub(crate) async fn collect_each(&self, period: Option<Duration>) {
        let Some(period) = period.filter(|period| !period.is_zero()) else { return };
        let mut wait = period / 10;
        loop {
            tokio::time::sleep(wait).await;
            // What became of it is observed.
            let _ = self.collect(Mode::Collect).await;
            wait = period;
        }
    }

    /// Forgets abandoned uploads for ever, at once and then from time to time.
    pub(crate) async fn expire_uploads(&self, uploads: &Uploads, expiry: Duration) {
        let mut ticks = tokio::time::interval((expiry / 4).clamp(EXPIRY_PERIOD.0, EXPIRY_PERIOD.1));
        loop {
            ticks.tick().await;
            match uploads.expire(SystemTime::now()).await {
                Ok(0) => {}
                Ok(count) => self.observer.observe(&Event::UploadsExpired { count }),
                Err(error) => self.observer.observe(&Event::ExpiryFailed { error: &error }),
            }
        }
    }
}
