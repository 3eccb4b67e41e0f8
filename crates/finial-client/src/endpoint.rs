//! Where the Workload API is: the address form of SPIFFE Workload Endpoint §4.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tonic::transport::Channel;

use crate::connect;

/// The variable that names the endpoint to workloads that are not configured otherwise.
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The address of a Workload API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadEndpoint {
    /// A Unix socket at an absolute path.
    Unix(PathBuf),
    /// A TCP port at an IP address.
    Tcp(SocketAddr),
}

impl WorkloadEndpoint {
    /// Reads an address such as `unix:///run/agent.sock` or `tcp://127.0.0.1:8000`.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if text.contains(['?', '#']) {
            return Err(EndpointError::QueryOrFragment);
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = match rest.strip_prefix("//") {
                Some(path) if path.starts_with('/') => path,
                Some(_) => return Err(EndpointError::UnixAuthority),
                None => rest,
            };
            if !Path::new(path).is_absolute() || path.len() < 2 {
                return Err(EndpointError::UnixPath);
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let address = text.strip_prefix("tcp://").ok_or(EndpointError::Scheme)?;
        address
            .parse()
            .map(Self::Tcp)
            .map_err(|_not_an_address| EndpointError::TcpAddress)
    }

    /// Reads the address that [`ENDPOINT_VARIABLE`] holds.
    pub fn from_env() -> Result<Self, EndpointError> {
        match std::env::var(ENDPOINT_VARIABLE) {
            Ok(text) if !text.is_empty() => Self::parse(&text),
            Ok(_) | Err(_) => Err(EndpointError::NotConfigured),
        }
    }

    /// A channel to the endpoint, dialled at the first call.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Unix(path) => connect::unix(path),
            Self::Tcp(address) => connect::tcp(&address.to_string()),
        }
    }
}

impl fmt::Display for WorkloadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl FromStr for WorkloadEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text)
    }
}

/// Why a text is no address of a Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The environment names no endpoint.
    #[error("workload endpoint socket address is not configured; set SPIFFE_ENDPOINT_SOCKET")]
    NotConfigured,
    /// The address begins with something else than `unix:` or `tcp://`.
    #[error("workload endpoint socket URI must have a \"tcp\" or \"unix\" scheme")]
    Scheme,
    /// The address has parts that mean nothing here.
    #[error("workload endpoint socket URI must not have a query or a fragment")]
    QueryOrFragment,
    /// A Unix address names a host.
    #[error("workload endpoint unix socket URI must not include an authority")]
    UnixAuthority,
    /// A Unix address has no absolute path.
    #[error("workload endpoint unix socket URI must include an absolute path")]
    UnixPath,
    /// A TCP address is not an IP address and a port, or is more than that.
    #[error("workload endpoint tcp socket URI must be an IP address and a port, and nothing else")]
    TcpAddress,
}
