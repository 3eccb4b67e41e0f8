//! `healthcheck`.

use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK};
use finial_runtime::process;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::admin::why_unreachable;
use super::client::{self, Agent};

/// Flags of `healthcheck`.
pub(super) fn flags() -> FlagSet {
    client::flags("health")
        .bool("shallow", "Accepted for compatibility; has no effect")
        .bool("verbose", "Says what is going on")
}

/// `healthcheck`
pub(super) fn run(flags: &Flags, console: &mut Console) -> Code {
    match check(flags, console) {
        Ok(()) => {
            console.outln("Agent is healthy.");
            OK
        }
        Err(error) => {
            console.errln(format_args!("Agent is unhealthy: {error:#}"));
            if let Some(hint) = hint(flags) {
                console.errln(hint);
            }
            FAILED
        }
    }
}

/// Says why the agent's socket leads nowhere, if that is the matter.
fn hint(flags: &Flags) -> Option<String> {
    let agent = Agent::find(flags).ok()?;
    process::block_on(why_unreachable(agent.path()))
        .ok()
        .flatten()
}

fn check(flags: &Flags, console: &mut Console) -> anyhow::Result<()> {
    let verbose = flags.bool("verbose");
    if verbose {
        console.outln("Checking agent health...");
    }
    let agent = Agent::find(flags)?;
    let answer = process::block_on(async {
        HealthClient::new(agent.channel())
            .check(HealthCheckRequest::default())
            .await
    })?;
    let status = answer
        .map_err(|status| {
            if verbose {
                console.errln(format_args!(
                    "Failed to check health: {}",
                    agent.error(&status)
                ));
            }
            anyhow::anyhow!("unable to determine health")
        })?
        .into_inner()
        .status();
    anyhow::ensure!(
        status == ServingStatus::Serving,
        "agent returned status \"{}\"",
        status.as_str_name()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_not_there_is_unhealthy() {
        let words = ["-verbose".to_owned(), "-socketPath=/nonexistent".to_owned()];
        let mut console = Console::captured();
        assert_eq!(run(&flags().parse(&words).unwrap(), &mut console), FAILED);
        let (out, err) = console.into_captured();
        assert_eq!(out, "Checking agent health...\n");
        assert!(err.starts_with("Failed to check health: rpc error: code = Unavailable"));
        assert!(err.contains("\nAgent is unhealthy: unable to determine health\n"));
        assert!(
            err.contains("\nThere is no socket at /nonexistent: "),
            "{err}"
        );
    }
}
