//! `healthcheck`.

use anyhow::{anyhow, ensure};
use finial_runtime::cli::{Code, Console, FlagSet, Flags};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client;
use super::client::{Printed, Server, with_server};

/// Flags of `healthcheck`.
pub(super) fn flags() -> FlagSet {
    client::flags("healthcheck")
        .bool("shallow", "Accepted for compatibility; has no effect")
        .bool("verbose", "Says what is going on")
}

/// `healthcheck`
pub(super) fn run(flags: &Flags, console: &mut Console) -> Code {
    let verbose = flags.bool("verbose");
    with_server(flags, console, async |server| {
        let mut printed = Printed::default();
        if verbose {
            printed.out.push_str("Checking server health...\n");
        }
        match check(&server, verbose, &mut printed).await {
            Ok(()) => printed.out.push_str("Server is healthy.\n"),
            Err(error) => printed.failure = Some(format!("server is unhealthy: {error}")),
        }
        Ok(printed)
    })
}

async fn check(server: &Server, verbose: bool, printed: &mut Printed) -> anyhow::Result<()> {
    let response = HealthClient::new(server.channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .map_err(|status| {
            if verbose {
                let line = format!("Failed to check health: {}\n", server.error(&status));
                printed.err.push_str(&line);
            }
            anyhow!("unable to determine health")
        })?
        .into_inner();
    let status = response.status();
    ensure!(
        status == ServingStatus::Serving,
        "server returned status \"{}\"",
        status.as_str_name()
    );
    Ok(())
}
