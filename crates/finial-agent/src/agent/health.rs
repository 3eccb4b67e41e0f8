//! Whether the agent is alive and ready: whether workloads get answers.

use std::path::PathBuf;

use finial_runtime::health::{Health, HealthRegistry};
use tokio::sync::watch;
use tonic::Code;

use crate::api::health::probe;

/// The check SPIRE's agent has, under its name. Before the socket appears the agent is alive, and not ready; without a
/// public socket it is ready once it has `started`.
pub(super) fn checks(started: watch::Receiver<bool>, socket: Option<PathBuf>) -> HealthRegistry {
    HealthRegistry::new().with_check("agent", move || {
        let (is_started, socket) = (*started.borrow(), socket.clone());
        async move {
            if !is_started {
                return Health::starting();
            }
            let Some(socket) = socket else {
                return Health::good();
            };
            match probe(&socket).await {
                Err(status) if status.code() == Code::Unavailable => {
                    Health::bad("make_new_x509_err", "workload api is unavailable")
                }
                Ok(()) | Err(_) => Health::good(),
            }
        }
    })
}
