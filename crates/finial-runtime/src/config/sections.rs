//! What the server's and the agent's configuration have in common.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::hcl::{HclError, Position, Table, UnknownKey, Value};
use super::{LoadError, PluginsError, UnknownKeysError, duration};
use crate::log::{Level, LogConfig};

/// Why a configuration cannot be used. The texts are those operators know from SPIRE.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A value has the wrong kind.
    #[error("unable to decode configuration")]
    Decode {
        /// Where and why.
        source: HclError,
    },
    /// What the environment says cannot be put over the file.
    #[error("unable to apply the environment")]
    Layers {
        /// Which key, and why.
        source: config::ConfigError,
    },
    /// The file has keys that nothing reads.
    #[error(transparent)]
    Unknown(#[from] UnknownKeysError),
    /// The `plugins` section is not valid.
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    /// The file asks for something finial does not do.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedError),
    /// A required setting is missing.
    #[error("{what} must be configured")]
    Missing {
        /// The setting or settings.
        what: &'static str,
    },
    /// A value cannot be parsed.
    #[error("{context}")]
    Value {
        /// What could not be done.
        context: String,
        /// The cause.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Settings contradict each other or a limit.
    #[error("{message}")]
    Rule {
        /// What is wrong.
        message: Cow<'static, str>,
    },
}

impl ConfigError {
    /// A broken rule.
    pub fn rule(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Rule {
            message: message.into(),
        }
    }

    /// A value that could not be parsed.
    pub fn value(
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Value {
            context: context.into(),
            source: source.into(),
        }
    }
}

/// Returns a setting unless it is absent or empty, which SPIRE does not tell apart.
pub fn given(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|value| !value.is_empty())
}

/// Refuses feature flags that SPIRE does not have.
pub fn check_feature_flags(flags: &[String]) -> Result<(), ConfigError> {
    let unknown: Vec<_> = flags
        .iter()
        .map(String::as_str)
        .filter(|flag| !["i_am_a_test_flag", WIT_SVID_FLAG].contains(flag))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(ConfigError::rule(format!(
        "error loading feature flags: unknown feature flag(s): [{}]",
        unknown.join(" ")
    )))
}

/// The feature flag for WIT-SVIDs.
pub const WIT_SVID_FLAG: &str = "wit-svid";

/// Parses a duration; `what` completes "could not parse …".
pub fn parse_duration(what: &str, text: &str) -> Result<Duration, ConfigError> {
    duration::parse(text)
        .map_err(|source| ConfigError::value(format!("could not parse {what}"), source))
}

/// Resolves the four log settings.
pub fn log_config(
    level: Option<&str>,
    format: Option<&str>,
    file: Option<&str>,
    source_location: bool,
) -> Result<LogConfig, ConfigError> {
    let logger_error = |source| ConfigError::value("could not start logger", source);
    Ok(LogConfig {
        level: level
            .filter(|level| !level.is_empty())
            .map_or(Ok(Level::Info), str::parse)
            .map_err(logger_error)?,
        format: format.unwrap_or_default().parse().map_err(logger_error)?,
        file: file.filter(|file| !file.is_empty()).map(Into::into),
        source_location,
    })
}

/// Settings that are known but not supported yet; said in one error with the lines to look at.
#[derive(Debug, Error)]
#[error("{}", settings.join("; "))]
pub struct UnsupportedError {
    /// One text per setting.
    pub settings: Vec<String>,
}

/// Collects settings that are not supported yet.
#[derive(Debug)]
pub struct Unsupported<'a> {
    file: &'a Table,
    settings: Vec<String>,
}

impl<'a> Unsupported<'a> {
    /// Starts collecting; `file` tells the lines.
    pub fn new(file: &'a Table) -> Self {
        Self {
            file,
            settings: Vec::new(),
        }
    }

    /// Notes the setting at `path`, which is separated by dots, when it is set.
    pub fn check(&mut self, is_set: bool, path: &str) {
        if is_set {
            let line = find(self.file, path)
                .map_or_else(String::new, |position| format!(" (line {})", position.line));
            self.settings
                .push(format!("{path}{line} is not supported yet"));
        }
    }

    /// Notes a setting in words of its own.
    pub fn note(&mut self, text: impl Into<String>) {
        self.settings.push(text.into());
    }

    /// Fails when anything was noted.
    pub fn finish(self) -> Result<(), UnsupportedError> {
        if self.settings.is_empty() {
            Ok(())
        } else {
            Err(UnsupportedError {
                settings: self.settings,
            })
        }
    }
}

fn find(table: &Table, path: &str) -> Option<Position> {
    let (key, rest) = path
        .split_once('.')
        .map_or((path, None), |(key, rest)| (key, Some(rest)));
    table.find_all(key).find_map(|item| match rest {
        None => Some(item.position),
        Some(rest) => match &item.node.value {
            Value::Table(table) => find(table, rest),
            _ => None,
        },
    })
}

/// Separates unknown keys that stop the process from those SPIRE lets pass, which become warnings.
///
/// `lenient` lists the sections where SPIRE ignores unknown keys; one that ends in `.*` stands for all below it.
pub fn split_unknown(keys: Vec<UnknownKey>, lenient: &[&str]) -> (Vec<UnknownKey>, Vec<String>) {
    let (ignored, fatal): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| {
        lenient
            .iter()
            .any(|section| match section.strip_suffix(".*") {
                Some(above) => key
                    .section
                    .strip_prefix(above)
                    .is_some_and(|rest| rest.starts_with('.')),
                None => key.section == *section,
            })
    });
    let warnings = ignored
        .iter()
        .map(|key| format!("Unknown configuration ignored: {key}"))
        .collect();
    (fatal, warnings)
}

/// The `health_checks` section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HealthSection {
    listener_enabled: bool,
    bind_address: Option<String>,
    bind_port: Option<String>,
    live_path: Option<String>,
    ready_path: Option<String>,
}

/// Where health is served over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Whether it is served at all.
    pub listener_enabled: bool,
    /// The host to bind, without brackets.
    pub bind_address: String,
    /// The port to bind.
    pub bind_port: u16,
    /// The path that says whether the process should be restarted.
    pub live_path: String,
    /// The path that says whether the process can serve.
    pub ready_path: String,
}

impl HealthSection {
    /// Applies the defaults.
    pub fn resolve(self) -> Result<HealthConfig, ConfigError> {
        let or = |value: Option<String>, default: &str| {
            value
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| default.to_owned())
        };
        let path = |value, default| {
            let path = or(value, default);
            if path.starts_with('/') {
                path
            } else {
                format!("/{path}")
            }
        };
        let bind_port = or(self.bind_port, "80");
        let bind_address = or(self.bind_address, "localhost");
        Ok(HealthConfig {
            listener_enabled: self.listener_enabled,
            bind_address: bind_address
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            bind_port: bind_port.parse().map_err(|source| {
                let context = format!("could not parse health_checks.bind_port {bind_port:?}");
                let source: std::num::ParseIntError = source;
                ConfigError::value(context, source)
            })?,
            live_path: path(self.live_path, "/live"),
            ready_path: path(self.ready_path, "/ready"),
        })
    }
}

/// The `telemetry` section. No sink is served yet; what only shapes the names of metrics is accepted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TelemetrySection {
    prometheus: Option<PrometheusSection>,
    dog_statsd: Option<Vec<SinkSection>>,
    statsd: Option<Vec<SinkSection>>,
    m3: Option<Vec<SinkSection>>,
    in_mem: Option<InMemSection>,
    #[serde(rename = "MetricPrefix")]
    _metric_prefix: Option<String>,
    #[serde(rename = "EnableTrustDomainLabel")]
    _enable_trust_domain_label: Option<bool>,
    #[serde(rename = "EnableHostnameLabel")]
    _enable_hostname_label: Option<bool>,
    #[serde(rename = "AllowedPrefixes")]
    _allowed_prefixes: Vec<String>,
    #[serde(rename = "BlockedPrefixes")]
    _blocked_prefixes: Vec<String>,
    #[serde(rename = "AllowedLabels")]
    _allowed_labels: Vec<String>,
    #[serde(rename = "BlockedLabels")]
    _blocked_labels: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PrometheusSection {
    #[serde(rename = "host")]
    _host: Option<String>,
    #[serde(rename = "port")]
    _port: Option<u16>,
    #[serde(rename = "tls")]
    _tls: Option<PrometheusTlsSection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PrometheusTlsSection {
    #[serde(rename = "cert_file")]
    _cert_file: Option<String>,
    #[serde(rename = "key_file")]
    _key_file: Option<String>,
    #[serde(rename = "client_ca_file")]
    _client_ca_file: Option<String>,
    #[serde(rename = "use_spire_svid")]
    _use_spire_svid: Option<bool>,
    #[serde(rename = "authorized_spiffe_ids")]
    _authorized_spiffe_ids: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SinkSection {
    #[serde(rename = "address")]
    _address: Option<String>,
    #[serde(rename = "env")]
    _env: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct InMemSection {}

impl TelemetrySection {
    /// Notes the sinks that are configured.
    pub fn check(&self, unsupported: &mut Unsupported<'_>) {
        let listed = |sinks: &Option<Vec<_>>| sinks.as_ref().is_some_and(|list| !list.is_empty());
        unsupported.check(self.prometheus.is_some(), "telemetry.Prometheus");
        unsupported.check(listed(&self.dog_statsd), "telemetry.DogStatsd");
        unsupported.check(listed(&self.statsd), "telemetry.Statsd");
        unsupported.check(listed(&self.m3), "telemetry.M3");
        unsupported.check(self.in_mem.is_some(), "telemetry.InMem");
    }
}

/// The sections, below `telemetry`, where SPIRE ignores unknown keys.
pub const LENIENT_TELEMETRY: [&str; 2] = ["telemetry", "telemetry.Prometheus.tls"];
