//! `run`, `validate`.

use anyhow::Context as _;
use finial_plugin::context::PluginContext;
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK};
use finial_runtime::clock::SystemClock;
use finial_runtime::log::{self, chain};
use finial_runtime::process;

use crate::agent::{Agent, AgentError};
use crate::attestation::bootstrap::Source;
use crate::config::{self, Config, JoinToken};

fn flags(name: &'static str) -> FlagSet {
    FlagSet::new(name)
        .string("config", "", "Path to the configuration file")
        .string("dataDir", "", "Directory for the agent's files")
        .string("joinToken", "", "A join token to attest with")
        .string(
            "joinTokenFile",
            "",
            "A file with a join token to attest with",
        )
        .string("logFile", "", "File to write logs to")
        .string("logFormat", "", "'text' or 'json'")
        .string("logLevel", "", "'debug', 'info', 'warn', or 'error'")
        .bool(
            "logSourceLocation",
            "Log lines name their function, file and line",
        )
        .string("serverAddress", "", "IP address or DNS name of the server")
        .int("serverPort", 0, "Port of the server")
        .string(
            "trustDomain",
            "",
            "The trust domain that this agent belongs to",
        )
        .bool("disableWorkloadAPI", "Does not serve the Workload API")
        .bool("disableSDSAPI", "Does not serve the SDS API")
        .string("trustBundle", "", "Path to the server's bundle")
        .string("trustBundleUrl", "", "URL of the server's bundle")
        .string(
            "trustBundleFormat",
            "",
            "Format of the bundle: \"pem\" or \"spiffe\"",
        )
        .bool(
            "allowUnauthenticatedVerifiers",
            "Workloads without an identity may fetch bundles",
        )
        .bool(
            "insecureBootstrap",
            "Does not verify the server at the first contact",
        )
        .string(
            "rebootstrapMode",
            "",
            "When to start over with the first trust: \"never\", \"auto\" or \"always\"",
        )
        .string(
            "rebootstrapDelay",
            "",
            "How long the server is distrusted before starting over",
        )
        .bool(
            "expandEnv",
            "Replaces environment variables in the configuration file",
        )
        .string("socketPath", "", "Path to bind the agent's API socket to")
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
        data_dir: text("dataDir"),
        join_token: flags.non_empty("joinToken").map(JoinToken::new),
        join_token_file: text("joinTokenFile"),
        log_file: text("logFile"),
        log_format: text("logFormat"),
        log_level: text("logLevel"),
        log_source_location: flags.bool("logSourceLocation"),
        server_address: text("serverAddress"),
        server_port: Some(flags.int("serverPort")).filter(|port| *port != 0),
        trust_domain: text("trustDomain"),
        socket_path: text("socketPath"),
        disable_workload_api: flags.bool("disableWorkloadAPI"),
        trust_bundle: text("trustBundle"),
        trust_bundle_url: text("trustBundleUrl"),
        trust_bundle_format: text("trustBundleFormat"),
        allow_unauthenticated_verifiers: flags.bool("allowUnauthenticatedVerifiers"),
        insecure_bootstrap: flags.bool("insecureBootstrap"),
        rebootstrap_mode: text("rebootstrapMode"),
        rebootstrap_delay: text("rebootstrapDelay"),
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
    let exit_code = |failure: &anyhow::Error| {
        failure
            .downcast_ref::<AgentError>()
            .map_or(FAILED, AgentError::exit_code)
    };
    process::serve(
        &log,
        console,
        "Agent crashed",
        exit_code,
        async move |shutdown| {
            Agent::build(config, finial_plugins::agent())
                .await?
                .run(shutdown)
                .await
        },
    )
}

/// `validate`
pub(super) fn validate(flags: &Flags, console: &mut Console) -> Code {
    match check(&config_flags(flags)) {
        Ok(()) => {
            console.outln("SPIRE agent configuration file is valid.");
            OK
        }
        Err(error) => {
            console.errln(format_args!(
                "SPIRE agent configuration file is invalid: {error:#}"
            ));
            FAILED
        }
    }
}

/// Checks what can be checked without starting: the settings, the log file, the first trust and the plugins.
fn check(flags: &config::Flags) -> anyhow::Result<()> {
    let config = Config::load(flags)?;
    log::check(&config.log).context("could not start logger")?;
    if let Source::File { path, .. } = &config.bootstrap {
        std::fs::metadata(path)
            .with_context(|| format!("failed to read trust bundle {}", path.display()))?;
    }
    let registry = finial_plugins::agent();
    let context = PluginContext::new(config.trust_domain.clone(), SystemClock::shared())
        .with_join_token(config.join_token.clone());
    for plugin in &config.plugins {
        match plugin.kind.as_str() {
            "NodeAttestor" => registry.node_attestor(&context, plugin).map(drop),
            "WorkloadAttestor" => registry.workload_attestor(&context, plugin).map(drop),
            _ => registry.key_manager(&context, plugin).map(drop),
        }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate_text(text: &str) -> (Code, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.conf");
        std::fs::write(&path, text).unwrap();
        let words = ["-config".to_owned(), path.display().to_string()];
        let mut console = Console::captured();
        let code = validate(&validate_flags().parse(&words).unwrap(), &mut console);
        let (out, err) = console.into_captured();
        (code, out, err)
    }

    const CONFIG: &str = r#"
        agent {
            server_address = "localhost"
            server_port = 8081
            trust_domain = "example.org"
            insecure_bootstrap = true
        }
        plugins {
            NodeAttestor "join_token" {}
            KeyManager "memory" {}
            WorkloadAttestor "unix" {}
        }"#;

    #[test]
    fn a_valid_file_is_said_to_be_valid() {
        assert_eq!(
            validate_text(CONFIG),
            (
                OK,
                "SPIRE agent configuration file is valid.\n".into(),
                String::new()
            )
        );
    }

    #[test]
    fn a_plugin_nobody_knows_makes_the_file_invalid() {
        let (code, _, err) = validate_text(&CONFIG.replace("\"unix\"", "\"unx\""));
        assert_eq!(code, FAILED);
        assert!(
            err.starts_with(
                "SPIRE agent configuration file is invalid: no built-in plugin \"unx\" for type \"WorkloadAttestor\""
            ),
            "{err}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let words = ["-config=/nonexistent/agent.conf".to_owned()];
        let mut console = Console::captured();
        assert_eq!(
            validate(&validate_flags().parse(&words).unwrap(), &mut console),
            FAILED
        );
        assert_eq!(
            console.into_captured().1,
            "SPIRE agent configuration file is invalid: could not find config file /nonexistent/agent.conf: please use the -config flag\n"
        );
    }
}
