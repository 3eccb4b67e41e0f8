//! Keeps the registry fresh from the change log.
//!
//! A commit of this process wakes the tail at once; commits of others that share the store are found by a short poll. The
//! wake-up carries no data: what is read is always the log after the revision held, in order.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use finial_datastore::{Changes, DataStore, Revision, StoreError};
use finial_runtime::log::chain;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::Registry;
use super::feed::Feeds;
use super::index::{Index, Touched};

impl Registry {
    /// Loads everything from the store.
    pub async fn load(store: Arc<dyn DataStore>) -> Result<Arc<Self>, StoreError> {
        let index = Index::new(store.snapshot().await?);
        let revision = watch::Sender::new(index.revision());
        Ok(Arc::new(Self {
            store,
            index: RwLock::new(index),
            feeds: Arc::new(Feeds::default()),
            revision,
            tailing: Mutex::new(()),
        }))
    }

    /// Applies everything that is committed by now. Whoever has just written sees it afterwards.
    ///
    /// Cancel-safe: what was applied stays, the rest waits for the next call.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        let _tailing = self.tailing.lock().await;
        loop {
            let held = self.revision();
            match self.store.changes_since(held, BATCH_RECORDS).await? {
                Changes::Since(batch) if batch.revision == held => return Ok(()),
                Changes::Since(batch) => self.advance(|index| index.apply(batch)),
                Changes::TooOld => {
                    tracing::info!(
                        subsystem_name = "registry",
                        revision = held.0,
                        "Change log does not reach back; reloading everything"
                    );
                    let fresh = Index::new(self.store.snapshot().await?);
                    self.advance(|index| {
                        *index = fresh;
                        Touched {
                            everyone: true,
                            ..Touched::default()
                        }
                    });
                    return Ok(());
                }
            }
        }
    }

    /// Follows the change log until `stop`. While the store is out of reach, the registry goes on with what it has.
    pub async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut committed = self.store.changed();
        let mut failing = false;
        let mut pause = POLL_INTERVAL;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // After a failure only time helps: commits would wake it just as often.
                Ok(()) = committed.changed(), if !failing => {}
                () = tokio::time::sleep(pause) => {}
            }
            match self.catch_up().await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!(
                            subsystem_name = "registry",
                            revision = self.revision().0,
                            "Caught up with the change log again"
                        );
                    }
                    pause = POLL_INTERVAL;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            subsystem_name = "registry",
                            revision = self.revision().0,
                            error = %chain(&error),
                            "Failed to read the change log; going on with what is known"
                        );
                    }
                    pause = (pause * 2).min(MAX_POLL_INTERVAL);
                }
            }
        }
    }

    /// Changes the index and wakes whom it concerns, as one step: whoever sees the new revision and finds no wake-up knows
    /// that there is none to come.
    fn advance(&self, change: impl FnOnce(&mut Index) -> Touched) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let touched = change(&mut index);
        let revision: Revision = index.revision();
        self.feeds.wake(&touched, revision);
        self.revision.send_replace(revision);
    }
}

/// How often other processes' commits are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How rarely, at most, when the store does not answer.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(15);

/// How many change records are read at once.
const BATCH_RECORDS: u32 = 10_000;
