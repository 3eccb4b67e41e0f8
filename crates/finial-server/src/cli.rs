//! The command line of the server: SPIRE's commands, flags, output and exit codes.

mod agent;
mod agent_render;
mod bundle;
mod client;
mod entry;
mod entry_data;
mod entry_render;
mod entry_show;
mod health;
mod id;
mod run;
mod token;
mod x509;

use finial_runtime::cli::{App, Command};

/// Every command.
pub const APP: App = App {
    name: "finial-server",
    version: env!("CARGO_PKG_VERSION"),
    commands: &[
        Command {
            name: "agent ban",
            synopsis: "Bans an attested agent given its SPIFFE ID",
            flags: agent::ban_flags,
            run: agent::ban,
        },
        Command {
            name: "agent count",
            synopsis: "Counts attested agents",
            flags: agent::count_flags,
            run: agent::count,
        },
        Command {
            name: "agent evict",
            synopsis: "Evicts an attested agent given its SPIFFE ID",
            flags: agent::evict_flags,
            run: agent::evict,
        },
        Command {
            name: "agent list",
            synopsis: "Lists attested agents and their SPIFFE IDs",
            flags: agent::list_flags,
            run: agent::list,
        },
        Command {
            name: "agent purge",
            synopsis: "Forgets agents whose SVIDs expired long ago and that can attest again",
            flags: agent::purge_flags,
            run: agent::purge,
        },
        Command {
            name: "agent show",
            synopsis: "Shows the details of an attested agent given its SPIFFE ID",
            flags: agent::show_flags,
            run: agent::show,
        },
        Command {
            name: "bundle count",
            synopsis: "Counts bundles",
            flags: bundle::count_flags,
            run: bundle::count,
        },
        Command {
            name: "bundle delete",
            synopsis: "Deletes the bundle of a federated trust domain",
            flags: bundle::delete_flags,
            run: bundle::delete,
        },
        Command {
            name: "bundle list",
            synopsis: "Lists the bundles of federated trust domains",
            flags: bundle::list_flags,
            run: bundle::list,
        },
        Command {
            name: "bundle set",
            synopsis: "Creates or replaces the bundle of a federated trust domain",
            flags: bundle::set_flags,
            run: bundle::set,
        },
        Command {
            name: "bundle show",
            synopsis: "Prints the bundle of the server's trust domain",
            flags: bundle::show_flags,
            run: bundle::show,
        },
        Command {
            name: "entry count",
            synopsis: "Counts registration entries",
            flags: entry_show::count_flags,
            run: entry_show::count,
        },
        Command {
            name: "entry create",
            synopsis: "Creates registration entries",
            flags: entry::create_flags,
            run: entry::create,
        },
        Command {
            name: "entry delete",
            synopsis: "Deletes registration entries",
            flags: entry::delete_flags,
            run: entry::delete,
        },
        Command {
            name: "entry show",
            synopsis: "Displays configured registration entries",
            flags: entry_show::show_flags,
            run: entry_show::show,
        },
        Command {
            name: "entry update",
            synopsis: "Updates registration entries",
            flags: entry::update_flags,
            run: entry::update,
        },
        Command {
            name: "healthcheck",
            synopsis: "Determines server health status",
            flags: health::flags,
            run: health::run,
        },
        Command {
            name: "run",
            synopsis: "Runs the server",
            flags: run::run_flags,
            run: run::run,
        },
        Command {
            name: "token generate",
            synopsis: "Generates a join token",
            flags: token::flags,
            run: token::generate,
        },
        Command {
            name: "validate",
            synopsis: "Validates a SPIRE server configuration file",
            flags: run::validate_flags,
            run: run::validate,
        },
        Command {
            name: "x509 mint",
            synopsis: "Mints an X509-SVID",
            flags: x509::flags,
            run: x509::mint,
        },
    ],
};
