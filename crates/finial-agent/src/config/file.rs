//! The configuration file as it is written. Every key of SPIRE's is here, so that one that means nothing is a typo.

use finial_runtime::config::sections::{HealthSection, TelemetrySection};
use finial_runtime::config::whole_number;
use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) agent: Option<AgentSection>,
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
pub(super) struct AgentSection {
    pub(super) data_dir: Option<String>,
    pub(super) trust_domain: Option<String>,
    pub(super) server_address: Option<String>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) server_port: Option<i64>,
    pub(super) socket_path: Option<String>,
    pub(super) admin_socket_path: Option<String>,
    pub(super) disable_workload_api: bool,
    /// The SDS API is not served yet, so it is as good as disabled.
    #[serde(rename = "disable_sds_api")]
    _disable_sds_api: bool,
    pub(super) insecure_bootstrap: bool,
    pub(super) trust_bundle_path: Option<String>,
    pub(super) trust_bundle_url: Option<String>,
    pub(super) trust_bundle_unix_socket: Option<String>,
    pub(super) trust_bundle_spiffe_workload_api: Option<String>,
    pub(super) trust_bundle_format: Option<String>,
    pub(super) rebootstrap_mode: Option<String>,
    pub(super) rebootstrap_delay: Option<String>,
    pub(super) join_token: Option<String>,
    pub(super) join_token_file: Option<String>,
    pub(super) log_file: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) log_selectors: Vec<String>,
    pub(super) log_source_location: bool,
    pub(super) workload_x509_svid_key_type: Option<String>,
    pub(super) allow_unauthenticated_verifiers: bool,
    pub(super) allowed_foreign_jwt_claims: Vec<String>,
    pub(super) availability_target: Option<String>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) x509_svid_cache_max_size: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) jwt_svid_cache_max_size: Option<i64>,
    pub(super) authorized_delegates: Vec<String>,
    pub(super) profiling_enabled: bool,
    #[serde(rename = "profiling_port", deserialize_with = "whole_number")]
    _profiling_port: Option<i64>,
    #[serde(rename = "profiling_freq", deserialize_with = "whole_number")]
    _profiling_freq: Option<i64>,
    #[serde(rename = "profiling_names")]
    _profiling_names: Vec<String>,
    pub(super) sds: SdsSection,
    pub(super) experimental: ExperimentalSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SdsSection {
    pub(super) default_svid_name: Option<String>,
    pub(super) default_bundle_name: Option<String>,
    pub(super) default_all_bundles_name: Option<String>,
    pub(super) disable_spiffe_cert_validation: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ExperimentalSection {
    pub(super) sync_interval: Option<String>,
    pub(super) jwt_svid_cache_hit_timeout: Option<String>,
    pub(super) named_pipe_name: Option<String>,
    pub(super) admin_named_pipe_name: Option<String>,
    pub(super) use_sync_authorized_entries: Option<bool>,
    pub(super) require_pq_kem: bool,
    pub(super) feature_flags: Vec<String>,
    pub(super) ratelimit: RateLimitSection,
    pub(super) broker: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RateLimitSection {
    #[serde(deserialize_with = "whole_number")]
    pub(super) fetch_x509_svid: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) fetch_jwt_svid: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) fetch_x509_bundles: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) fetch_jwt_bundles: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) stream_secrets: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub(super) fetch_secrets: Option<i64>,
}
