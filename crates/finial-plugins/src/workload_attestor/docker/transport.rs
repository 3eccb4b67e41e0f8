//! Connections to a container engine: a Unix socket, or TCP, in clear or with TLS.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use finial_plugin::PluginError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// A name or an IP address.
        host: String,
        port: u16,
        /// How to know the engine; `None` talks in clear.
        tls: Option<TlsFiles>,
    },
}

/// PEM files. They are read for each connection, so that they may be replaced at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// The authorities that the engine's certificate must come from.
    pub(super) ca: PathBuf,
    /// The certificate and the private key that the agent shows.
    pub(super) own: Option<(PathBuf, PathBuf)>,
}

/// Something to talk HTTP over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error("{}", cure(*unix, source.kind()))]
    Reach { unix: bool, source: io::Error },
    #[error("{path:?} holds nothing to use: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("the certificate and the private key do not make a TLS client")]
    Identity(#[source] rustls::Error),
    #[error("{}", cure_of_tls(source))]
    Tls { source: io::Error },
}

impl Address {
    /// Takes `unix:///path/to/socket`.
    pub(super) fn unix(key: &str, address: &str) -> Result<Self, PluginError> {
        match address.strip_prefix("unix://").map(Path::new) {
            Some(path) if path.is_absolute() => Ok(Self::Unix(path.to_owned())),
            Some(_) | None => Err(PluginError::misconfigured(format!(
                "{key} must be of the form unix:///path/to/socket, and is {address:?}"
            ))),
        }
    }

    /// Takes `unix:///path/to/socket`, or `tcp://host:port`, which `tls` is for.
    pub(super) fn parse(
        key: &str,
        address: &str,
        tls: Option<TlsFiles>,
    ) -> Result<Self, PluginError> {
        let Some(authority) = address.strip_prefix("tcp://") else {
            if tls.is_some() {
                return Err(PluginError::misconfigured(format!(
                    "TLS is for an engine on a TCP port: make {key} tcp://host:port, or remove the docker_tls_* keys"
                )));
            }
            return Self::unix(key, address);
        };
        let standard = if tls.is_some() { TLS_PORT } else { PORT };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, Some(standard)),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
            .to_owned();
        let (Some(port), Ok(_)) = (port, ServerName::try_from(host.as_str())) else {
            return Err(PluginError::misconfigured(format!(
                "{key} must be of the form tcp://host:port, and is {address:?}"
            )));
        };
        Ok(Self::Tcp { host, port, tls })
    }

    /// Tells whether whoever is on the way can answer in the engine's place.
    pub(super) fn is_exposed(&self) -> bool {
        match self {
            Self::Unix(_) | Self::Tcp { tls: Some(_), .. } => false,
            Self::Tcp { host, .. } => {
                host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    /// What an HTTP request names as its host.
    pub(super) fn http_host(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, ConnectError> {
        let reach = |source| ConnectError::Reach {
            unix: matches!(self, Self::Unix(_)),
            source,
        };
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(reach)?)),
            Self::Tcp { host, port, tls } => {
                let plain = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(reach)?;
                let Some(files) = tls else {
                    return Ok(Box::new(plain));
                };
                let failed = |source| ConnectError::Tls { source };
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                let connector = TlsConnector::from(Arc::new(files.config()?));
                Ok(Box::new(
                    connector.connect(name, plain).await.map_err(failed)?,
                ))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp { .. } => write!(f, "tcp://{}", self.http_host()),
        }
    }
}

impl TlsFiles {
    /// Takes the three keys: none of them, or the first, or all.
    pub(super) fn of(
        ca: Option<&str>,
        certificate: Option<&str>,
        key: Option<&str>,
    ) -> Result<Option<Self>, PluginError> {
        let own = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(PluginError::misconfigured(
                    "docker_tls_certificate_path and docker_tls_private_key_path belong together: set both or neither",
                ));
            }
        };
        match ca {
            Some(ca) => Ok(Some(Self { ca: ca.into(), own })),
            None if own.is_some() => Err(PluginError::misconfigured(
                "docker_tls_ca_path must name the authorities that the engine's certificate comes from",
            )),
            None => Ok(None),
        }
    }

    fn config(&self) -> Result<ClientConfig, ConnectError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots
                .add(certificate)
                .map_err(|error| bad_file(&self.ca, error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ConnectError::Identity)?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.own else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_file(key, error))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(ConnectError::Identity)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| bad_file(path, error))?;
    if certificates.is_empty() {
        return Err(bad_file(path, "no certificate is in it"));
    }
    Ok(certificates)
}

/// The problem is printed, and never what is in the file.
fn bad_file(path: &Path, problem: impl fmt::Display) -> ConnectError {
    ConnectError::File {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

/// What an operator does about an engine that cannot be reached.
fn cure(unix: bool, kind: io::ErrorKind) -> &'static str {
    match (kind, unix) {
        (io::ErrorKind::NotFound, true) => {
            "there is no such socket where the agent runs; mount the engine's socket into the agent's container, or name it in \
             docker_socket_path or podman_socket_path"
        }
        (io::ErrorKind::PermissionDenied, true) => {
            "the agent may not open the socket; run it as root, or with the socket's group (`group_add` in a compose file)"
        }
        (io::ErrorKind::ConnectionRefused, true) => {
            "nobody listens there; the engine is down, or it was restarted and the agent has its old socket mounted: mount the \
             socket's directory, or restart the agent"
        }
        (_, true) => "the agent must be able to reach this socket",
        (io::ErrorKind::ConnectionRefused, false) => {
            "nobody listens there; the engine is down, or does not listen on this port (`dockerd -H tcp://…`)"
        }
        (_, false) => "the agent must be able to reach this port",
    }
}

/// What an operator does about TLS that does not come up.
fn cure_of_tls(error: &io::Error) -> &'static str {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. },
        )) => {
            "the engine's certificate is not for this host; name the host in docker_socket_path as the certificate does"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the engine's certificate is not one that docker_tls_ca_path vouches for"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "what listens there does not speak TLS; remove the docker_tls_* keys, or name the engine's TLS port"
        }
        _ => "TLS with the engine failed",
    }
}

/// What Docker's own client takes for a port.
const PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

#[cfg(test)]
mod tests;
