//! The server's configuration: the file, the environment and the flags over it, and every default resolved.
//!
//! Checks run in SPIRE's order and answer in SPIRE's words. What SPIRE has and finial does not is refused with the line
//! it stands on, unless its effect already holds; `docs/reference/config.md` lists every key.

mod catalog;
mod file;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use finial_pki::key::KeyKind;
use finial_pki::x509::SubjectName;
use finial_runtime::config::sections::{
    LENIENT_TELEMETRY, Unsupported, WIT_SVID_FLAG, check_feature_flags, given, log_config,
    parse_duration,
};
use finial_runtime::config::{
    self, ConfigError, ConfigFile, HealthConfig, Overrides, PluginConfig, Settings,
};
use finial_runtime::log::LogConfig;
use spiffe_types::id::{SpiffeId, TrustDomain};

use self::catalog::split_plugins;
use self::file::{File, ServerSection};

/// Where `run` and `validate` look for the file.
pub const DEFAULT_CONFIG_PATH: &str = "conf/server/server.conf";
/// Where the server listens for local callers.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-server/private/api.sock";

const DEFAULT_BIND_ADDRESS: &str = "0.0.0.0";
const DEFAULT_BIND_PORT: i64 = 8081;
const DEFAULT_CA_TTL: Duration = Duration::from_hours(24);
const DEFAULT_X509_SVID_TTL: Duration = Duration::from_hours(1);
const DEFAULT_JWT_SVID_TTL: Duration = Duration::from_mins(5);
const DEFAULT_PRUNE_BATCH: u32 = 1000;
/// An authority is replaced long before it ends, so an SVID can count on a sixth of its lifetime, and on a week at most.
const MAX_SVID_TTL: Duration = Duration::from_hours(7 * 24);
const CA_TTL_PER_SVID_TTL: u32 = 6;

const LENIENT: [&str; 5] = [
    "server.experimental",
    "server.experimental.*",
    "server.federation",
    "server.federation.*",
    "plugins.*",
];

/// Everything a server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The trust domain this server is the authority of.
    pub trust_domain: TrustDomain,
    /// Where agents reach the server.
    pub bind_address: SocketAddr,
    /// Where local callers reach the server; absolute.
    pub socket_path: PathBuf,
    /// Where the server keeps its files.
    pub data_dir: PathBuf,
    /// The kind of CA keys.
    pub ca_key_type: KeyKind,
    /// The subject of CA certificates.
    pub ca_subject: SubjectName,
    /// How long an authority lives.
    pub ca_ttl: Duration,
    /// How long an X.509-SVID lives when its entry does not say.
    pub default_x509_svid_ttl: Duration,
    /// How long a JWT-SVID lives when its entry does not say.
    pub default_jwt_svid_ttl: Duration,
    /// How long an agent's SVID lives; as `default_x509_svid_ttl` when absent.
    pub agent_ttl: Option<Duration>,
    /// Callers who may do everything; they may belong to foreign trust domains.
    pub admin_ids: Vec<SpiffeId>,
    /// How the server logs.
    pub log: LogConfig,
    /// Where the server keeps its data.
    pub datastore: DataStoreConfig,
    /// The enabled plugins other than the data store, in file order.
    pub plugins: Vec<PluginConfig>,
    /// Where health is served over HTTP.
    pub health_checks: HealthConfig,
    /// Which rate limits are in force.
    pub rate_limits: RateLimits,
    /// Whether calls are recorded in the audit log.
    pub audit_log_enabled: bool,
    /// Which expired agents are forgotten; none when absent.
    pub prune_agents: Option<PruneAgents>,
    /// What an operator should know but need not act on; for the log.
    pub warnings: Vec<String>,
}

/// The `sql` data store's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataStoreConfig {
    /// A path or `file:` URI.
    pub connection_string: String,
    /// At most this many connections; the store's own default when absent.
    pub max_open_conns: Option<u32>,
    /// Whether an older schema is refused rather than brought up to date.
    pub disable_migration: bool,
    /// Whether statements are logged.
    pub log_sql: bool,
}

/// Which rate limits are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Limits attestation per address.
    pub attestation: bool,
    /// Limits signing per address.
    pub signing: bool,
}

/// Which expired agents are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneAgents {
    /// How long an agent's SVID has been expired.
    pub expired_for: Duration,
    /// How many are deleted in one transaction.
    pub batch_size: u32,
    /// Whether agents that cannot attest again are forgotten too.
    pub include_tofu: bool,
}

/// The flags of `run` and `validate`. They win over the file and the environment; one that is empty, zero or false counts as not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Whether `$NAME` in the file is replaced from the environment.
    pub expand_env: bool,
    /// `server.bind_address`
    pub bind_address: Option<String>,
    /// `server.bind_port`
    pub server_port: Option<i64>,
    /// `server.data_dir`
    pub data_dir: Option<String>,
    /// `server.log_file`
    pub log_file: Option<String>,
    /// `server.log_format`
    pub log_format: Option<String>,
    /// `server.log_level`
    pub log_level: Option<String>,
    /// `server.log_source_location`
    pub log_source_location: bool,
    /// `server.trust_domain`
    pub trust_domain: Option<String>,
    /// `server.socket_path`
    pub socket_path: Option<String>,
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
                    server: in_file,
                    telemetry,
                    health_checks,
                    ..
                },
            section: server,
            plugins,
            mut warnings,
        } = config::read::<File, ServerSection>(file, &overrides, &lenient)?;
        if in_file.is_none() && overrides.is_empty() && *flags == Flags::default() {
            return Err(ConfigError::Missing {
                what: "server section",
            });
        }
        check_required(&server, plugins.is_some())?;

        let mut unsupported = Unsupported::new(file.table());
        check_supported(&server, &mut unsupported);
        telemetry.check(&mut unsupported);
        let (datastore, plugins) = split_plugins(plugins.unwrap_or_default(), &mut unsupported)?;
        unsupported.finish()?;

        let config = resolve(
            &server,
            datastore,
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

/// What stands over the `server` section of the file.
fn overrides(environment: &[(String, String)], flags: &Flags) -> Overrides {
    Overrides::new("server", environment)
        .text("bind_address", flags.bind_address.as_deref())
        .number("bind_port", flags.server_port)
        .text("data_dir", flags.data_dir.as_deref())
        .text("log_file", flags.log_file.as_deref())
        .text("log_format", flags.log_format.as_deref())
        .text("log_level", flags.log_level.as_deref())
        .switch("log_source_location", flags.log_source_location)
        .text("trust_domain", flags.trust_domain.as_deref())
        .text("socket_path", flags.socket_path.as_deref())
}

fn check_required(server: &ServerSection, has_plugins: bool) -> Result<(), ConfigError> {
    let missing = |what| Err(ConfigError::Missing { what });
    if given(server.trust_domain.as_ref()).is_none() {
        return missing("trust_domain");
    }
    if given(server.data_dir.as_ref()).is_none() {
        return missing("data_dir");
    }
    if !has_plugins {
        return missing("plugins section");
    }
    if given(server.experimental.sql_transaction_timeout.as_ref()).is_some()
        && given(server.experimental.event_timeout.as_ref()).is_some()
    {
        return Err(ConfigError::rule(
            "both experimental sql_transaction_timeout and event_timeout set, only set event_timeout",
        ));
    }
    if given(server.experimental.named_pipe_name.as_ref()).is_some() {
        return Err(ConfigError::rule(
            "invalid configuration: named_pipe_name is not supported in this platform; please use socket_path instead",
        ));
    }
    Ok(())
}

fn check_supported(server: &ServerSection, unsupported: &mut Unsupported<'_>) {
    let experimental = &server.experimental;
    let set = |value: &Option<String>| given(value.as_ref()).is_some();
    if let Some(federation) = &server.federation {
        unsupported.check(
            federation.bundle_endpoint.is_some(),
            "server.federation.bundle_endpoint",
        );
        unsupported.check(
            federation.federates_with.is_some(),
            "server.federation.federates_with",
        );
    }
    for (is_set, path) in [
        (set(&server.jwt_issuer), "server.jwt_issuer"),
        (set(&server.jwt_key_type), "server.jwt_key_type"),
        (server.profiling_enabled, "server.profiling_enabled"),
        (
            !server.proxy_protocol_trusted_cidrs.is_empty(),
            "server.proxy_protocol_trusted_cidrs",
        ),
        (
            experimental.agent_spiffe_id_as_selector,
            "server.experimental.agent_spiffe_id_as_selector",
        ),
        (
            experimental.auth_opa_policy_engine.is_some(),
            "server.experimental.auth_opa_policy_engine",
        ),
        (
            experimental.require_pq_kem,
            "server.experimental.require_pq_kem",
        ),
        (
            set(&experimental.wit_key_type),
            "server.experimental.wit_key_type",
        ),
        (
            set(&experimental.wit_issuer),
            "server.experimental.wit_issuer",
        ),
        (
            experimental
                .feature_flags
                .iter()
                .any(|flag| flag == WIT_SVID_FLAG),
            "server.experimental.feature_flags",
        ),
    ] {
        unsupported.check(is_set, path);
    }
}

fn resolve(
    server: &ServerSection,
    datastore: DataStoreConfig,
    plugins: Vec<PluginConfig>,
    health_checks: HealthConfig,
    warnings: &mut Vec<String>,
) -> Result<Config, ConfigError> {
    let log = log_config(
        given(server.log_level.as_ref()),
        given(server.log_format.as_ref()),
        given(server.log_file.as_ref()),
        server.log_source_location,
    )?;
    let bind_address = resolve_bind_address(server)?;
    let trust_domain = parse_trust_domain(server, warnings)?;
    let admin_ids = server
        .admin_ids
        .iter()
        .map(|id| {
            SpiffeId::parse(id).map_err(|source| {
                ConfigError::value(format!("could not parse admin ID {id:?}"), source)
            })
        })
        .collect::<Result<_, _>>()?;
    let ttl = |what: &str, value: &Option<String>| {
        given(value.as_ref())
            .map(|text| parse_duration(&format!("{what} {text:?}"), text))
            .transpose()
            .map(|ttl| ttl.filter(|ttl| !ttl.is_zero()))
    };
    if let Some(staleness) = given(server.max_attested_node_info_staleness.as_ref()) {
        parse_duration(
            &format!("max attested node staleness {staleness:?}"),
            staleness,
        )?;
    }
    let agent_ttl = ttl("agent ttl", &server.agent_ttl)?;
    let x509_ttl = ttl("default X509 SVID ttl", &server.default_x509_svid_ttl)?;
    let jwt_ttl = ttl("default JWT SVID ttl", &server.default_jwt_svid_ttl)?;
    let ca_ttl = ttl("default CA ttl", &server.ca_ttl)?.unwrap_or(DEFAULT_CA_TTL);
    for (name, ttl) in [
        ("default_x509_svid_ttl", x509_ttl),
        ("default_jwt_svid_ttl", jwt_ttl),
        ("agent_ttl", agent_ttl),
    ] {
        warnings.extend(ttl.and_then(|ttl| ttl_warning(name, ttl, ca_ttl)));
    }
    let ca_key_type = match given(server.ca_key_type.as_ref()) {
        Some(name) => parse_key_type(name)
            .map_err(|source| ConfigError::value("error parsing ca_key_type", source))?,
        None => KeyKind::EcP256,
    };
    let prune_agents = given(server.prune_attested_nodes_expired_for.as_ref())
        .map(|text| parse_duration("prune_attested_nodes_expired_for", text))
        .transpose()?
        .filter(|expired_for| !expired_for.is_zero())
        .map(|expired_for| PruneAgents {
            expired_for,
            batch_size: server
                .prune_attested_nodes_batch_size
                .and_then(|size| u32::try_from(size).ok())
                .filter(|size| *size > 0)
                .unwrap_or(DEFAULT_PRUNE_BATCH),
            include_tofu: server.prune_tofu_nodes,
        });
    check_experimental(server, warnings)?;
    let socket_path = given(server.socket_path.as_ref()).unwrap_or(DEFAULT_SOCKET_PATH);
    Ok(Config {
        trust_domain,
        bind_address,
        socket_path: std::path::absolute(socket_path).map_err(|source| {
            ConfigError::value(
                format!("failed to resolve socket_path {socket_path:?}"),
                source,
            )
        })?,
        data_dir: given(server.data_dir.as_ref()).unwrap_or_default().into(),
        ca_key_type,
        ca_subject: ca_subject(server, warnings),
        ca_ttl,
        default_x509_svid_ttl: x509_ttl.unwrap_or(DEFAULT_X509_SVID_TTL),
        default_jwt_svid_ttl: jwt_ttl.unwrap_or(DEFAULT_JWT_SVID_TTL),
        agent_ttl,
        admin_ids,
        log,
        datastore,
        plugins,
        health_checks,
        rate_limits: RateLimits {
            attestation: server.ratelimit.attestation.unwrap_or(true),
            signing: server.ratelimit.signing.unwrap_or(true),
        },
        audit_log_enabled: server.audit_log_enabled,
        prune_agents,
        warnings: Vec::new(),
    })
}

fn parse_key_type(name: &str) -> Result<KeyKind, finial_pki::key::UnknownKeyKind> {
    name.to_ascii_lowercase().parse()
}

fn resolve_bind_address(server: &ServerSection) -> Result<SocketAddr, ConfigError> {
    let host = given(server.bind_address.as_ref()).unwrap_or(DEFAULT_BIND_ADDRESS);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = server
        .bind_port
        .filter(|port| *port != 0)
        .unwrap_or(DEFAULT_BIND_PORT);
    let context = format!("could not resolve bind address \"{host}:{port}\"");
    let port = u16::try_from(port).map_err(|source| ConfigError::value(&*context, source))?;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    (host, port)
        .to_socket_addrs()
        .map_err(|source| ConfigError::value(&*context, source))?
        .next()
        .ok_or_else(|| ConfigError::value(&*context, "the name has no address"))
}

fn parse_trust_domain(
    server: &ServerSection,
    warnings: &mut Vec<String>,
) -> Result<TrustDomain, ConfigError> {
    let name = given(server.trust_domain.as_ref()).unwrap_or_default();
    let trust_domain = TrustDomain::parse(name).map_err(|source| {
        ConfigError::value(format!("could not parse trust_domain {name:?}"), source)
    })?;
    if trust_domain.as_str().len() > 255 {
        warnings.push(format!(
            "Configured trust domain name {:?} should be less than 255 characters to be SPIFFE compliant; a longer trust domain name may impact interoperability",
            trust_domain.as_str()
        ));
    }
    Ok(trust_domain)
}

fn ca_subject(server: &ServerSection, warnings: &mut Vec<String>) -> SubjectName {
    let Some(section) = &server.ca_subject else {
        return SubjectName::ca_default();
    };
    let subject = SubjectName {
        country: section.country.clone(),
        organization: section.organization.clone(),
        common_name: section.common_name.clone(),
        ..SubjectName::default()
    };
    if subject.is_empty() {
        warnings.push("ca_subject configurable is set but empty; the default will be used".into());
        return SubjectName::ca_default();
    }
    subject
}

/// Says when SVIDs cannot live as long as configured, because their authority ends sooner.
fn ttl_warning(name: &str, ttl: Duration, ca_ttl: Duration) -> Option<String> {
    use finial_runtime::config::duration::format;
    let limit = (ca_ttl / CA_TTL_PER_SVID_TTL).min(MAX_SVID_TTL);
    if ttl <= limit {
        return None;
    }
    let advice = if ttl < MAX_SVID_TTL {
        format!(
            "lower {name} to at most {} or raise ca_ttl to at least {}",
            format(limit),
            format(ttl * CA_TTL_PER_SVID_TTL)
        )
    } else if ca_ttl < MAX_SVID_TTL * CA_TTL_PER_SVID_TTL {
        format!(
            "lower {name} to at most {} and raise ca_ttl to at least {}",
            format(MAX_SVID_TTL),
            format(MAX_SVID_TTL * CA_TTL_PER_SVID_TTL)
        )
    } else {
        format!("lower {name} to at most {}", format(MAX_SVID_TTL))
    };
    Some(format!(
        "{name} of {} is too high for the configured ca_ttl of {}: SVIDs may end sooner than expected; {advice}",
        format(ttl),
        format(ca_ttl)
    ))
}

/// Checks settings of caches that finial does not need: its view is always current. They have no further effect.
fn check_experimental(
    server: &ServerSection,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let experimental = &server.experimental;
    let duration = |what: &str, value: &Option<String>| {
        given(value.as_ref())
            .map(|text| parse_duration(what, text))
            .transpose()
    };
    let reload = duration("cache reload interval", &experimental.cache_reload_interval)?;
    let full_reload = duration(
        "full cache reload interval",
        &experimental.full_cache_reload_interval,
    )?;
    let prune = duration(
        "prune events interval",
        &experimental.prune_events_older_than,
    )?;
    let sql_timeout = duration(
        "SQL transaction timeout interval",
        &experimental.sql_transaction_timeout,
    )?;
    let timeout = duration("event timeout interval", &experimental.event_timeout)?;
    if let (Some(full_reload), Some(reload)) = (full_reload, reload)
        && full_reload <= reload
    {
        return Err(ConfigError::rule(
            "full cache reload interval must be greater than cache reload interval",
        ));
    }
    check_feature_flags(&experimental.feature_flags)?;
    if experimental.events_based_cache
        || [reload, full_reload, prune, sql_timeout, timeout]
            .iter()
            .any(Option::is_some)
    {
        warnings.push(
            "The experimental cache settings have no effect: entries and agents are always served from a current view"
                .into(),
        );
    }
    Ok(())
}
