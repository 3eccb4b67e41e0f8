//! Whom the agent trusts at first: which settings go together.

use finial_client::endpoint::WorkloadEndpoint;
use finial_runtime::config::ConfigError;
use finial_runtime::config::sections::given;

use super::RebootstrapMode;
use super::file::AgentSection;
use crate::attestation::bootstrap::{Format, Source};

pub(super) fn resolve(agent: &AgentSection) -> Result<Source, ConfigError> {
    let path = given(agent.trust_bundle_path.as_ref());
    let url = given(agent.trust_bundle_url.as_ref());
    let api = given(agent.trust_bundle_spiffe_workload_api.as_ref());
    let unix_socket = given(agent.trust_bundle_unix_socket.as_ref());
    let broken = |message: &'static str| Err(ConfigError::rule(message));

    let mut endpoint = None;
    if let Some(api) = api {
        if agent.insecure_bootstrap {
            return broken(
                "only one of insecure_bootstrap or trust_bundle_spiffe_workload_api can be specified, not both",
            );
        }
        if url.is_some() {
            return broken(
                "only one of trust_bundle_url or trust_bundle_spiffe_workload_api can be specified, not both",
            );
        }
        if path.is_some() {
            return broken(
                "only one of trust_bundle_path or trust_bundle_spiffe_workload_api can be specified, not both",
            );
        }
        if unix_socket.is_some() {
            return broken(
                "trust_bundle_unix_socket can not be used with trust_bundle_spiffe_workload_api",
            );
        }
        endpoint = Some(WorkloadEndpoint::parse(api).map_err(|source| {
            let context = "trust_bundle_spiffe_workload_api is not a valid SPIFFE Workload API endpoint address";
            ConfigError::value(context, source)
        })?);
    }
    match (agent.insecure_bootstrap, url, path, api) {
        (true, Some(_), Some(_), _) => {
            return broken(
                "only one of insecure_bootstrap, trust_bundle_url, or trust_bundle_path can be specified, not the three options",
            );
        }
        (true, Some(_), None, _) => {
            return broken(
                "only one of insecure_bootstrap or trust_bundle_url can be specified, not both",
            );
        }
        (true, None, Some(_), _) => {
            return broken(
                "only one of insecure_bootstrap or trust_bundle_path can be specified, not both",
            );
        }
        (false, None, None, None) => {
            return broken(
                "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless insecure_bootstrap is set",
            );
        }
        (false, Some(_), Some(_), _) => {
            return broken(
                "only one of trust_bundle_url or trust_bundle_path can be specified, not both",
            );
        }
        _ => {}
    }
    let format = match given(agent.trust_bundle_format.as_ref()) {
        None | Some("pem") => Format::Pem,
        Some("spiffe") => Format::Spiffe,
        Some(_) => {
            return broken("invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\"");
        }
    };
    if unix_socket.is_some() && url.is_none() {
        return broken("if trust_bundle_unix_socket is specified, so must be trust_bundle_url");
    }
    if let Some(url) = url {
        check_url(url, unix_socket.is_some())?;
        return Ok(Source::Url {
            url: url.to_owned(),
            format,
            unix_socket: unix_socket.map(Into::into),
        });
    }
    Ok(match (path, endpoint) {
        (Some(path), _) => Source::File {
            path: path.into(),
            format,
        },
        (None, Some(endpoint)) => Source::WorkloadApi(endpoint),
        (None, None) => Source::Insecure,
    })
}

fn check_url(url: &str, through_socket: bool) -> Result<(), ConfigError> {
    let lower = url.to_ascii_lowercase();
    if !through_socket {
        return if lower.starts_with("https://") {
            Ok(())
        } else {
            Err(ConfigError::rule(
                "trust bundle URL must start with https://",
            ))
        };
    }
    if !lower.starts_with("http://") {
        return Err(ConfigError::rule(
            "trust bundle URL must start with http:// when used with trust bundle unix socket",
        ));
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    for prefix in ["spiffe-", "spire-"] {
        if query.split('&').any(|param| param.starts_with(prefix)) {
            return Err(ConfigError::rule(format!(
                "trust_bundle_url query params can not start with {prefix}"
            )));
        }
    }
    Ok(())
}

pub(super) fn rebootstrap_mode(agent: &AgentSection) -> Result<RebootstrapMode, ConfigError> {
    let mode = match given(agent.rebootstrap_mode.as_ref()) {
        None | Some("never") => RebootstrapMode::Never,
        Some("auto") => RebootstrapMode::Auto,
        Some("always") => RebootstrapMode::Always,
        Some(mode) => {
            return Err(ConfigError::rule(format!(
                "unknown rebootstrap mode specified: {mode}"
            )));
        }
    };
    if mode != RebootstrapMode::Never && agent.insecure_bootstrap {
        return Err(ConfigError::rule(
            "insecure_bootstrap option can not be used with rebootstrapping",
        ));
    }
    Ok(mode)
}
