//! Forgets what has lost its meaning: expired entries, agents and tokens, and the tail of the change log.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use finial_datastore::{DataStore, StoreError};
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use crate::config::PruneAgents;

/// The loops that prune.
#[derive(Debug, Clone)]
pub(crate) struct Janitor {
    store: Arc<dyn DataStore>,
    clock: SharedClock,
    agents: Option<PruneAgents>,
}

const ENTRIES_INTERVAL: Duration = Duration::from_mins(5);
/// Servers that share a store do not come at the same time.
const AGENTS_INTERVAL_MINUTES: std::ops::Range<u64> = 45..75;
const TOKENS_INTERVAL: Duration = Duration::from_hours(1);
/// An agent that comes with its token a week too late should hear that it expired or was used, and not that it never was.
const TOKENS_KEPT_FOR: Duration = Duration::from_hours(14 * 24);
const CHANGES_INTERVAL: Duration = Duration::from_mins(10);
/// A server or agent that is further behind takes everything anew.
const CHANGES_KEPT: u64 = 100_000;

impl Janitor {
    pub(crate) fn new(
        store: Arc<dyn DataStore>,
        clock: SharedClock,
        agents: Option<PruneAgents>,
    ) -> Self {
        Self {
            store,
            clock,
            agents,
        }
    }

    /// Prunes until `stop`. A round that fails is tried again at the next.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::join!(
            every(&stop, || ENTRIES_INTERVAL, || self.entries()),
            every(&stop, agents_interval, || self.agents()),
            every(&stop, || TOKENS_INTERVAL, || self.tokens()),
            every(&stop, || CHANGES_INTERVAL, || self.changes()),
        );
    }

    async fn entries(&self) {
        let outcome = self.store.prune_entries(self.clock.now()).await;
        report("registration entries", outcome);
    }

    async fn agents(&self) {
        let Some(prune) = self.agents else { return };
        let Some(expired_before) = self.clock.now().checked_sub(prune.expired_for) else {
            return;
        };
        let outcome = self
            .store
            .prune_agents(expired_before, prune.include_tofu)
            .await;
        report("attested agents", outcome);
    }

    async fn tokens(&self) {
        let Some(expired_before) = self.clock.now().checked_sub(TOKENS_KEPT_FOR) else {
            return;
        };
        let outcome = self.store.prune_join_tokens(expired_before).await;
        report("join tokens", outcome);
    }

    async fn changes(&self) {
        report(
            "change records",
            self.store.prune_changes(CHANGES_KEPT).await,
        );
    }
}

async fn every<F: Future<Output = ()>>(
    stop: &CancellationToken,
    interval: impl Fn() -> Duration,
    work: impl Fn() -> F,
) {
    while stop
        .run_until_cancelled(tokio::time::sleep(interval()))
        .await
        .is_some()
    {
        work().await;
    }
}

fn agents_interval() -> Duration {
    Duration::from_mins(rand::rng().random_range(AGENTS_INTERVAL_MINUTES))
}

fn report(what: &'static str, outcome: Result<u64, StoreError>) {
    match outcome {
        Ok(0) => {}
        Ok(count) => tracing::info!(subsystem_name = "janitor", what, count, "Pruned"),
        Err(error) => {
            tracing::warn!(subsystem_name = "janitor", what, error = %chain(&error), "Failed to prune");
        }
    }
}
