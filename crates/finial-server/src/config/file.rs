//! The configuration file as it is written. Every key of SPIRE's is here, so that one that means nothing is a typo.

use finial_runtime::config::sections::{HealthSection, TelemetrySection};
use finial_runtime::config::whole_number;
use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) server: Option<ServerSection>,
    /// Read by [`finial_runtime::config::plugins`], which keeps the order.
    #[serde(rename = "plugins")]
    _plugins: Option<IgnoredAny>,
    pub(super) telemetry: TelemetrySection,
    pub(super) health_checks: HealthSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "these are the keys there are"
)]
pub(super) struct ServerSection {
    pub(super) admin_ids: Vec<String>,
    pub(super) agent_ttl: Option<String>,
    pub(super) audit_log_enabled: bool,
    pub(super) bind_address: Option<String>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) bind_port: Option<i64>,
    pub(super) ca_key_type: Option<String>,
    pub(super) ca_subject: Option<CaSubjectSection>,
    pub(super) ca_ttl: Option<String>,
    pub(super) data_dir: Option<String>,
    pub(super) default_x509_svid_ttl: Option<String>,
    pub(super) default_jwt_svid_ttl: Option<String>,
    /// JWT-SVIDs are not issued yet, so they are as good as disabled.
    #[serde(rename = "disable_jwt_svids")]
    _disable_jwt_svids: bool,
    pub(super) experimental: ExperimentalSection,
    pub(super) federation: Option<FederationSection>,
    pub(super) jwt_issuer: Option<String>,
    pub(super) jwt_key_type: Option<String>,
    pub(super) log_file: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_source_location: bool,
    pub(super) max_attested_node_info_staleness: Option<String>,
    pub(super) profiling_enabled: bool,
    #[serde(rename = "profiling_port", deserialize_with = "whole_number")]
    _profiling_port: Option<i64>,
    #[serde(rename = "profiling_freq", deserialize_with = "whole_number")]
    _profiling_freq: Option<i64>,
    #[serde(rename = "profiling_names")]
    _profiling_names: Vec<String>,
    pub(super) proxy_protocol_trusted_cidrs: Vec<String>,
    pub(super) prune_attested_nodes_expired_for: Option<String>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) prune_attested_nodes_batch_size: Option<i64>,
    pub(super) prune_tofu_nodes: bool,
    pub(super) ratelimit: RateLimitSection,
    pub(super) socket_path: Option<String>,
    pub(super) trust_domain: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CaSubjectSection {
    pub(super) country: Vec<String>,
    pub(super) organization: Vec<String>,
    pub(super) common_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RateLimitSection {
    pub(super) attestation: Option<bool>,
    pub(super) signing: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ExperimentalSection {
    pub(super) agent_spiffe_id_as_selector: bool,
    pub(super) auth_opa_policy_engine: Option<OpaSection>,
    pub(super) cache_reload_interval: Option<String>,
    pub(super) full_cache_reload_interval: Option<String>,
    pub(super) events_based_cache: bool,
    pub(super) prune_events_older_than: Option<String>,
    pub(super) event_timeout: Option<String>,
    pub(super) sql_transaction_timeout: Option<String>,
    pub(super) require_pq_kem: bool,
    pub(super) wit_key_type: Option<String>,
    pub(super) wit_issuer: Option<String>,
    pub(super) feature_flags: Vec<String>,
    pub(super) named_pipe_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OpaSection {
    #[serde(rename = "local")]
    _local: Option<LocalOpaSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LocalOpaSection {
    #[serde(rename = "rego_path")]
    _rego_path: Option<String>,
    #[serde(rename = "policy_data_path")]
    _policy_data_path: Option<String>,
}

/// Federation is not supported yet; its keys are known so that the answer is that and not "unknown".
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FederationSection {
    pub(super) bundle_endpoint: Option<IgnoredAny>,
    pub(super) federates_with: Option<IgnoredAny>,
}

/// The `plugin_data` of `DataStore "sql"`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SqlSection {
    pub(super) database_type: Option<DatabaseType>,
    pub(super) connection_string: Option<String>,
    /// SQLite has no replicas; SPIRE reads from the main file too.
    #[serde(rename = "ro_connection_string")]
    _ro_connection_string: Option<String>,
    pub(super) root_ca_path: Option<String>,
    pub(super) client_cert_path: Option<String>,
    pub(super) client_key_path: Option<String>,
    pub(super) max_open_conns: Option<u32>,
    /// The pool closes idle connections itself.
    #[serde(rename = "max_idle_conns")]
    _max_idle_conns: Option<u32>,
    pub(super) conn_max_lifetime: Option<String>,
    pub(super) disable_migration: bool,
    pub(super) log_sql: bool,
}

/// A name, or a block labelled with one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum DatabaseType {
    Name(String),
    #[expect(
        clippy::zero_sized_map_values,
        reason = "a set cannot be read from a block"
    )]
    Block(std::collections::BTreeMap<String, IgnoredAny>),
}
