//! `run`, `validate`.

use finial_plugin::context::PluginContext;
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK};
use finial_runtime::clock::SystemClock;
use finial_runtime::log::{self, chain};
use finial_runtime::process;

use crate::config::{self, Config};
use crate::server::Server;

fn flags(name: &'static str) -> FlagSet {
    FlagSet::new(name)
        .string("bindAddress", "", "IP address or DNS name of the server")
        .int("serverPort", 0, "Port of the server")
        .string("config", "", "Path to the configuration file")
        .string("dataDir", "", "Directory for the server's files")
        .bool(
            "expandEnv",
            "Replaces environment variables in the configuration file",
        )
        .string("logFile", "", "File to write logs to")
        .string("logFormat", "", "'text' or 'json'")
        .string("logLevel", "", "'debug', 'info', 'warn', or 'error'")
        .bool(
            "logSourceLocation",
            "Log lines name their function, file and line",
        )
        .string(
            "trustDomain",
            "",
            "The trust domain that this server belongs to",
        )
        .string("socketPath", "", "Path to bind the server's API socket to")
}

/// Flags of `run`.
pub(super) fn run_flags() -> FlagSet {
    flags("run")
}

/// Flags of `validate`.
pub(super) fn validate_flags() -> FlagSet {
    flags("validate")
}

fn config_flags(flags: &Flags) -> config::Flags {
    let text = |name: &str| flags.non_empty(name).map(str::to_owned);
    config::Flags {
        config: flags.non_empty("config").map(Into::into),
        expand_env: flags.bool("expandEnv"),
        bind_address: text("bindAddress"),
        server_port: Some(flags.int("serverPort")).filter(|port| *port != 0),
        data_dir: text("dataDir"),
        log_file: text("logFile"),
        log_format: text("logFormat"),
        log_level: text("logLevel"),
        log_source_location: flags.bool("logSourceLocation"),
        trust_domain: text("trustDomain"),
        socket_path: text("socketPath"),
    }
}

/// `run`
pub(super) fn run(flags: &Flags, console: &mut Console) -> Code {
    let config = match Config::load(&config_flags(flags)) {
        Ok(config) => config,
        Err(error) => {
            console.errln(chain(&error));
            return FAILED;
        }
    };
    let log = config.log.clone();
    let exit_code = |_: &anyhow::Error| FAILED;
    process::serve(
        &log,
        console,
        "Server crashed",
        exit_code,
        async move |shutdown| {
            Server::build(config, finial_plugins::server())
                .await?
                .run(shutdown)
                .await
        },
    )
}

/// `validate`
pub(super) fn validate(flags: &Flags, console: &mut Console) -> Code {
    let config = Config::load(&config_flags(flags)).and_then(|config| {
        log::check(&config.log).map_err(|source| {
            finial_runtime::config::ConfigError::value("could not start logger", source)
        })?;
        Ok(config)
    });
    match config {
        Err(error) => {
            console.errln(format_args!(
                "SPIRE server configuration file is invalid: {}",
                chain(&error)
            ));
            FAILED
        }
        Ok(config) => report(&plugin_notes(&config), console),
    }
}

/// What each plugin has to say against its settings.
fn plugin_notes(config: &Config) -> Vec<(String, String)> {
    let registry = finial_plugins::server();
    let context = PluginContext::new(config.trust_domain.clone(), SystemClock::shared());
    config
        .plugins
        .iter()
        .filter_map(|plugin| {
            let result = match plugin.kind.as_str() {
                // The server itself knows join tokens.
                "NodeAttestor" if plugin.name == "join_token" => return None,
                "NodeAttestor" => registry.node_attestor(&context, plugin).map(drop),
                _ => registry.key_manager(&context, plugin).map(drop),
            };
            let title = format!("{} {:?}", plugin.kind, plugin.name);
            result.err().map(|error| (title, chain(&error).to_string()))
        })
        .collect()
}

fn report(notes: &[(String, String)], console: &mut Console) -> Code {
    if notes.is_empty() {
        console.outln("SPIRE server configuration file is valid.");
        return OK;
    }
    console.errln("SPIRE server configuration file is invalid.\nValidation errors:");
    for (plugin, note) in notes {
        console.errln(format_args!("\t{plugin}:\n\t\t{note}"));
    }
    FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_listed_below_their_plugin() {
        let mut console = Console::captured();
        let notes = [("KeyManager \"disk\"".to_owned(), "no path".to_owned())];
        assert_eq!(report(&notes, &mut console), FAILED);
        assert_eq!(
            console.into_captured().1,
            "SPIRE server configuration file is invalid.\nValidation errors:\n\tKeyManager \"disk\":\n\t\tno path\n"
        );
        let mut console = Console::captured();
        assert_eq!(report(&[], &mut console), OK);
        assert_eq!(
            console.into_captured().0,
            "SPIRE server configuration file is valid.\n"
        );
    }
}
