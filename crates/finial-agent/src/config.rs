//! The agent's configuration: the file, the environment and the flags over it, and every default resolved.
//!
//! Checks run in SPIRE's order and answer in SPIRE's words. What SPIRE has and finial does not is refused with the line
//! it stands on, unless its effect already holds; `docs/reference/config.md` lists every key.

mod bootstrap;
mod file;
#[cfg(test)]
mod tests;

use finial_runtime::fs::read_text;
use std::path::{Path, PathBuf};
use std::time::Duration;

use finial_pki::key::KeyKind;
pub use finial_plugin::JoinToken;
use finial_runtime::config::sections::{
    LENIENT_TELEMETRY, Unsupported, WIT_SVID_FLAG, check_feature_flags, given, log_config,
    parse_duration,
};
use finial_runtime::config::{
    self, ConfigError, ConfigFile, HealthConfig, Overrides, PluginConfig, PluginKinds, Settings,
    duration,
};
use finial_runtime::log::LogConfig;
use spiffe_types::id::TrustDomain;

use self::file::{AgentSection, ExperimentalSection, File};
use crate::attestation::bootstrap::Source;

/// Where `run` and `validate` look for the file.
pub const DEFAULT_CONFIG_PATH: &str = "conf/agent/agent.conf";
/// Where commands look for the admin socket; the agent has one only if it is configured.
pub const DEFAULT_ADMIN_SOCKET_PATH: &str = "/tmp/spire-agent/private/admin.sock";
/// Where workloads reach the agent.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";

const DEFAULT_DATA_DIR: &str = ".";
const DEFAULT_REBOOTSTRAP_DELAY: Duration = Duration::from_mins(10);
const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_SVID_CACHE_MAX_SIZE: usize = 1000;
const MIN_AVAILABILITY_TARGET: Duration = Duration::from_hours(24);
const JWT_CACHE_HIT_TIMEOUT: std::ops::Range<Duration> =
    Duration::from_secs(5)..Duration::from_secs(30);

const LENIENT: [&str; 3] = ["agent.sds", "agent.experimental", "plugins.*"];

/// Everything an agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The trust domain of the server.
    pub trust_domain: TrustDomain,
    /// The host of the server: a name or an IP address without brackets.
    pub server_address: String,
    /// The port of the server.
    pub server_port: u16,
    /// Where the agent keeps its files.
    pub data_dir: PathBuf,
    /// Where workloads reach the agent; absolute.
    pub socket_path: PathBuf,
    /// Where the operator reaches the agent; absolute.
    pub admin_socket_path: Option<PathBuf>,
    /// Whether the Workload API is served.
    pub workload_api: bool,
    /// Whom the agent trusts before it has a bundle of its own.
    pub bootstrap: Source,
    /// When the agent starts over with its first trust.
    pub rebootstrap_mode: RebootstrapMode,
    /// How long the server must have been distrusted before the agent starts over.
    pub rebootstrap_delay: Duration,
    /// The join token, when the agent attests with one.
    pub join_token: Option<JoinToken>,
    /// The kind of workload keys.
    pub workload_key_type: KeyKind,
    /// How often the agent asks the server when it is not told by itself.
    pub sync_interval: Duration,
    /// How many SVIDs of workloads that are not connected are kept.
    pub x509_svid_cache_max_size: usize,
    /// How many days of server outage SVIDs should survive; see `availability_target` in SPIRE.
    pub availability_target: Option<Duration>,
    /// Which selectors may appear in logs.
    pub log_selectors: Vec<String>,
    /// Whether a workload without an entry may fetch bundles.
    pub allow_unauthenticated_verifiers: bool,
    /// How the agent logs.
    pub log: LogConfig,
    /// The enabled plugins, in file order.
    pub plugins: Vec<PluginConfig>,
    /// Where health is served over HTTP.
    pub health_checks: HealthConfig,
    /// What an operator should know but need not act on; for the log.
    pub warnings: Vec<String>,
}

/// When an agent that can no longer verify its server starts over with its first trust.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebootstrapMode {
    /// Never.
    #[default]
    Never,
    /// When the agent can attest again.
    Auto,
    /// Even when that spends what it cannot get again.
    Always,
}

/// The flags of `run` and `validate`. They win over the file and the environment; one that is empty, zero or false counts as not given.
#[expect(
    clippy::struct_excessive_bools,
    reason = "these are the flags there are"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Whether `$NAME` in the file is replaced from the environment.
    pub expand_env: bool,
    /// `agent.data_dir`
    pub data_dir: Option<String>,
    /// `agent.join_token`
    pub join_token: Option<JoinToken>,
    /// `agent.join_token_file`
    pub join_token_file: Option<String>,
    /// `agent.log_file`
    pub log_file: Option<String>,
    /// `agent.log_format`
    pub log_format: Option<String>,
    /// `agent.log_level`
    pub log_level: Option<String>,
    /// `agent.log_source_location`
    pub log_source_location: bool,
    /// `agent.server_address`
    pub server_address: Option<String>,
    /// `agent.server_port`
    pub server_port: Option<i64>,
    /// `agent.trust_domain`
    pub trust_domain: Option<String>,
    /// `agent.socket_path`
    pub socket_path: Option<String>,
    /// `agent.disable_workload_api`
    pub disable_workload_api: bool,
    /// `agent.trust_bundle_path`
    pub trust_bundle: Option<String>,
    /// `agent.trust_bundle_url`
    pub trust_bundle_url: Option<String>,
    /// `agent.trust_bundle_format`
    pub trust_bundle_format: Option<String>,
    /// `agent.allow_unauthenticated_verifiers`
    pub allow_unauthenticated_verifiers: bool,
    /// `agent.insecure_bootstrap`
    pub insecure_bootstrap: bool,
    /// `agent.rebootstrap_mode`
    pub rebootstrap_mode: Option<String>,
    /// `agent.rebootstrap_delay`
    pub rebootstrap_delay: Option<String>,
}

impl Config {
    /// Loads the file that the flags name, or the default one.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let path = flags
            .config
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new(DEFAULT_CONFIG_PATH));
        let file = config::load(path, flags.expand_env)?;
        Self::resolve(&file, &config::environment(), flags)
    }

    /// Resolves a file that was already read, with the variables and flags that stand over it.
    pub fn resolve(
        file: &ConfigFile,
        environment: &[(String, String)],
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        let overrides = overrides(environment, flags);
        let lenient = [LENIENT.as_slice(), &LENIENT_TELEMETRY].concat();
        let Settings {
            file:
                File {
                    agent: in_file,
                    telemetry,
                    health_checks,
                    ..
                },
            section: agent,
            plugins,
            mut warnings,
        } = config::read::<File, AgentSection>(file, &overrides, &lenient)?;
        let Some(plugins) = plugins else {
            return Err(ConfigError::Missing {
                what: "plugins section",
            });
        };
        if in_file.is_none() && overrides.is_empty() && *flags == Flags::default() {
            return Err(ConfigError::Missing {
                what: "agent section",
            });
        }
        check_feature_flags(&agent.experimental.feature_flags)?;
        check_required(&agent)?;
        let bootstrap = bootstrap::resolve(&agent)?;
        check_platform(&agent.experimental)?;

        let mut unsupported = Unsupported::new(file.table());
        check_supported(&agent, &mut unsupported);
        telemetry.check(&mut unsupported);
        let plugins = check_plugins(plugins, &mut unsupported)?;
        unsupported.finish()?;

        let config = resolve(
            &agent,
            bootstrap,
            plugins,
            health_checks.resolve()?,
            &mut warnings,
        )?;
        Ok(Self { warnings, ..config })
    }

    /// Returns the enabled plugins of one type, in file order.
    pub fn plugins_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a PluginConfig> {
        self.plugins
            .iter()
            .filter(move |plugin| plugin.kind == kind)
    }
}

/// What stands over the `agent` section of the file.
fn overrides(environment: &[(String, String)], flags: &Flags) -> Overrides {
    let token = flags.join_token.as_ref().map(JoinToken::reveal);
    Overrides::new("agent", environment)
        .text("data_dir", flags.data_dir.as_deref())
        .text("join_token", token)
        .text("join_token_file", flags.join_token_file.as_deref())
        .text("log_file", flags.log_file.as_deref())
        .text("log_format", flags.log_format.as_deref())
        .text("log_level", flags.log_level.as_deref())
        .switch("log_source_location", flags.log_source_location)
        .text("server_address", flags.server_address.as_deref())
        .number("server_port", flags.server_port)
        .text("trust_domain", flags.trust_domain.as_deref())
        .text("socket_path", flags.socket_path.as_deref())
        .switch("disable_workload_api", flags.disable_workload_api)
        .text("trust_bundle_path", flags.trust_bundle.as_deref())
        .text("trust_bundle_url", flags.trust_bundle_url.as_deref())
        .text("trust_bundle_format", flags.trust_bundle_format.as_deref())
        .switch(
            "allow_unauthenticated_verifiers",
            flags.allow_unauthenticated_verifiers,
        )
        .switch("insecure_bootstrap", flags.insecure_bootstrap)
        .text("rebootstrap_mode", flags.rebootstrap_mode.as_deref())
        .text("rebootstrap_delay", flags.rebootstrap_delay.as_deref())
}

fn check_required(agent: &AgentSection) -> Result<(), ConfigError> {
    let missing = |what| Err(ConfigError::Missing { what });
    if given(agent.join_token.as_ref()).is_some() && given(agent.join_token_file.as_ref()).is_some()
    {
        return Err(ConfigError::rule(
            "only one of join_token or join_token_file can be specified, not both",
        ));
    }
    if given(agent.server_address.as_ref()).is_none() {
        return missing("server_address");
    }
    if agent.server_port.is_none_or(|port| port == 0) {
        return missing("server_port");
    }
    if given(agent.trust_domain.as_ref()).is_none() {
        return missing("trust_domain");
    }
    Ok(())
}

fn check_platform(experimental: &ExperimentalSection) -> Result<(), ConfigError> {
    for (value, name, instead) in [
        (
            &experimental.named_pipe_name,
            "named_pipe_name",
            "socket_path",
        ),
        (
            &experimental.admin_named_pipe_name,
            "admin_named_pipe_name",
            "admin_socket_path",
        ),
    ] {
        if given(value.as_ref()).is_some() {
            return Err(ConfigError::rule(format!(
                "invalid configuration: {name} is not supported in this platform; please use {instead} instead"
            )));
        }
    }
    Ok(())
}

fn check_supported(agent: &AgentSection, unsupported: &mut Unsupported<'_>) {
    let experimental = &agent.experimental;
    let limits = &experimental.ratelimit;
    let set = |value: &Option<String>| given(value.as_ref()).is_some();
    for (is_set, path) in [
        (
            !agent.authorized_delegates.is_empty(),
            "agent.authorized_delegates",
        ),
        (
            !agent.allowed_foreign_jwt_claims.is_empty(),
            "agent.allowed_foreign_jwt_claims",
        ),
        (agent.profiling_enabled, "agent.profiling_enabled"),
        (
            set(&agent.sds.default_svid_name)
                || set(&agent.sds.default_bundle_name)
                || set(&agent.sds.default_all_bundles_name)
                || agent.sds.disable_spiffe_cert_validation,
            "agent.sds",
        ),
        (
            experimental.require_pq_kem,
            "agent.experimental.require_pq_kem",
        ),
        (
            experimental
                .feature_flags
                .iter()
                .any(|flag| flag == WIT_SVID_FLAG),
            "agent.experimental.feature_flags",
        ),
        (
            [
                limits.fetch_x509_svid,
                limits.fetch_jwt_svid,
                limits.fetch_x509_bundles,
                limits.fetch_jwt_bundles,
                limits.stream_secrets,
                limits.fetch_secrets,
            ]
            .iter()
            .any(|limit| limit.is_some_and(|limit| limit > 0)),
            "agent.experimental.ratelimit",
        ),
        (experimental.broker.is_some(), "agent.experimental.broker"),
    ] {
        unsupported.check(is_set, path);
    }
}

const KINDS: PluginKinds = PluginKinds {
    one: &["KeyManager", "NodeAttestor"],
    any: &["WorkloadAttestor"],
    later: &["SVIDStore"],
};

/// Checks how many plugins of each type there are; returns the enabled ones.
fn check_plugins(
    plugins: Vec<PluginConfig>,
    unsupported: &mut Unsupported<'_>,
) -> Result<Vec<PluginConfig>, ConfigError> {
    let plugins: Vec<_> = plugins
        .into_iter()
        .filter(|plugin| plugin.enabled)
        .collect();
    KINDS.check(&plugins, unsupported)?;
    if !plugins
        .iter()
        .any(|plugin| plugin.kind == "WorkloadAttestor")
    {
        return Err(ConfigError::rule(
            "plugin type \"WorkloadAttestor\" constraint not satisfied: expected at least 1 but got 0",
        ));
    }
    Ok(plugins)
}

fn resolve(
    agent: &AgentSection,
    bootstrap: Source,
    plugins: Vec<PluginConfig>,
    health_checks: HealthConfig,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    let rebootstrap_mode = bootstrap::rebootstrap_mode(agent)?;
    let rebootstrap_delay = match given(agent.rebootstrap_delay.as_ref()) {
        Some(text) => duration::parse(text).map_err(|source| {
            ConfigError::value("error parsing rebootstrap delay duration", source)
        })?,
        None => DEFAULT_REBOOTSTRAP_DELAY,
    };
    let sync_interval = given(agent.experimental.sync_interval.as_ref())
        .map(|text| parse_duration("synchronization interval", text))
        .transpose()?
        .filter(|interval| !interval.is_zero())
        .unwrap_or(DEFAULT_SYNC_INTERVAL);
    let log = log_config(
        given(agent.log_level.as_ref()),
        given(agent.log_format.as_ref()),
        given(agent.log_file.as_ref()),
        agent.log_source_location,
    )?;
    check_jwt_cache_hit_timeout(&agent.experimental)?;
    if agent.experimental.use_sync_authorized_entries.is_some() {
        warnings.push(
            "The 'use_sync_authorized_entries' configuration has no effect; the agent chooses how to synchronize by itself"
                .into(),
        );
    }
    let x509_svid_cache_max_size =
        cache_size("x509_svid_cache_max_size", agent.x509_svid_cache_max_size)?;
    cache_size("jwt_svid_cache_max_size", agent.jwt_svid_cache_max_size)?;
    let name = given(agent.trust_domain.as_ref()).unwrap_or_default();
    let trust_domain = TrustDomain::parse(name).map_err(|source| {
        ConfigError::value(format!("could not parse trust_domain {name:?}"), source)
    })?;
    let socket_path = given(agent.socket_path.as_ref()).unwrap_or(DEFAULT_SOCKET_PATH);
    let socket_path = absolute("socket_path", socket_path)?;
    let admin_socket_path = admin_socket_path(agent, &socket_path)?;
    let host = given(agent.server_address.as_ref()).unwrap_or_default();
    let server_port = u16::try_from(agent.server_port.unwrap_or_default())
        .map_err(|source| ConfigError::value("could not parse server_port", source))?;
    Ok(Config {
        trust_domain,
        server_address: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        server_port,
        data_dir: given(agent.data_dir.as_ref())
            .unwrap_or(DEFAULT_DATA_DIR)
            .into(),
        socket_path,
        admin_socket_path,
        workload_api: !agent.disable_workload_api,
        bootstrap,
        rebootstrap_mode,
        rebootstrap_delay,
        join_token: join_token(agent)?,
        workload_key_type: workload_key_type(agent)?,
        sync_interval,
        x509_svid_cache_max_size,
        availability_target: availability_target(agent)?,
        log_selectors: agent.log_selectors.clone(),
        allow_unauthenticated_verifiers: agent.allow_unauthenticated_verifiers,
        log,
        plugins,
        health_checks,
        warnings: Vec::new(),
    })
}

fn absolute(key: &str, path: &str) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path)
        .map_err(|source| ConfigError::value(format!("failed to resolve {key} {path:?}"), source))
}

/// Everybody may enter the directory of the public socket, so the admin socket has no place there.
fn admin_socket_path(
    agent: &AgentSection,
    socket_path: &Path,
) -> Result<Option<PathBuf>, ConfigError> {
    let Some(path) = given(agent.admin_socket_path.as_ref()) else {
        return Ok(None);
    };
    let path = absolute("admin_socket_path", path)?;
    let public = socket_path.parent().unwrap_or_else(|| Path::new("/"));
    if !agent.disable_workload_api && path.starts_with(public) {
        return Err(ConfigError::rule(
            "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API socket",
        ));
    }
    Ok(Some(path))
}

fn check_jwt_cache_hit_timeout(experimental: &ExperimentalSection) -> Result<(), ConfigError> {
    let Some(text) = given(experimental.jwt_svid_cache_hit_timeout.as_ref()) else {
        return Ok(());
    };
    let timeout = parse_duration("jwt_svid_cache_hit_timeout", text)?;
    let (bound, limit) = if timeout < JWT_CACHE_HIT_TIMEOUT.start {
        ("greater", JWT_CACHE_HIT_TIMEOUT.start)
    } else if timeout >= JWT_CACHE_HIT_TIMEOUT.end {
        ("less", JWT_CACHE_HIT_TIMEOUT.end)
    } else {
        return Ok(());
    };
    Err(ConfigError::rule(format!(
        "jwt_svid_cache_hit_timeout ({}) must be {bound} than {}",
        duration::format(timeout),
        duration::format(limit)
    )))
}

fn cache_size(key: &str, size: Option<i64>) -> Result<usize, ConfigError> {
    match usize::try_from(size.unwrap_or(0)) {
        Ok(0) => Ok(DEFAULT_SVID_CACHE_MAX_SIZE),
        Ok(size) => Ok(size),
        Err(_) => Err(ConfigError::rule(format!("{key} should not be negative"))),
    }
}

fn join_token(agent: &AgentSection) -> Result<Option<JoinToken>, ConfigError> {
    let Some(path) = given(agent.join_token_file.as_ref()) else {
        return Ok(given(agent.join_token.as_ref()).map(JoinToken::new));
    };
    let token = read_text(path).map_err(|source| {
        ConfigError::value(format!("unable to read join token file {path:?}"), source)
    })?;
    match token.trim() {
        "" => Err(ConfigError::rule("join token file is empty")),
        token => Ok(Some(JoinToken::new(token))),
    }
}

fn workload_key_type(agent: &AgentSection) -> Result<KeyKind, ConfigError> {
    let Some(name) = given(agent.workload_x509_svid_key_type.as_ref()) else {
        return Ok(KeyKind::EcP256);
    };
    match name.to_ascii_lowercase().as_str() {
        "rsa-2048" => Ok(KeyKind::Rsa2048),
        "ec-p256" => Ok(KeyKind::EcP256),
        "ec-p384" => Ok(KeyKind::EcP384),
        _ => Err(ConfigError::rule(format!(
            "key type {name:?} is unknown; must be one of [rsa-2048, ec-p256, ec-p384]"
        ))),
    }
}

fn availability_target(agent: &AgentSection) -> Result<Option<Duration>, ConfigError> {
    let Some(text) = given(agent.availability_target.as_ref()) else {
        return Ok(None);
    };
    let target = duration::parse(text)
        .map_err(|source| ConfigError::value("unable to parse availability_target", source))?;
    if target < MIN_AVAILABILITY_TARGET {
        return Err(ConfigError::rule(format!(
            "availability_target must be at least {}",
            duration::format(MIN_AVAILABILITY_TARGET)
        )));
    }
    Ok(Some(target))
}
