//! The command line of the agent: SPIRE's commands, flags, output and exit codes.

mod client;
mod fetch;
mod health;
mod run;
mod svids;
mod watch;

use finial_runtime::cli::{App, Command};

/// Every command.
pub const APP: App = App {
    name: "finial-agent",
    version: env!("CARGO_PKG_VERSION"),
    commands: &[
        Command {
            name: "api fetch",
            synopsis: "Fetches X509 SVIDs from the Workload API",
            flags: fetch::flags,
            run: fetch::x509,
        },
        Command {
            name: "api fetch jwt",
            synopsis: "Fetches a JWT SVID from the Workload API (not supported yet)",
            flags: fetch::jwt_flags,
            run: fetch::jwt,
        },
        Command {
            name: "api fetch x509",
            synopsis: "Fetches X509 SVIDs from the Workload API",
            flags: fetch::flags,
            run: fetch::x509,
        },
        Command {
            name: "api watch",
            synopsis: "Attaches to the Workload API and prints updates as they're received",
            flags: watch::flags,
            run: watch::run,
        },
        Command {
            name: "healthcheck",
            synopsis: "Determines agent health status",
            flags: health::flags,
            run: health::run,
        },
        Command {
            name: "run",
            synopsis: "Runs the agent",
            flags: run::run_flags,
            run: run::run,
        },
        Command {
            name: "validate",
            synopsis: "Validates a SPIRE agent configuration file",
            flags: run::validate_flags,
            run: run::validate,
        },
    ],
};
