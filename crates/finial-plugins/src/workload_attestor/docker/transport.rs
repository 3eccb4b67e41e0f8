//! Connections to a container engine: a Unix socket, or TCP, in clear or with TLS.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use finial_plugin::PluginError;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket of this machine.
    Unix {
        path: PathBuf,
        /// The user that must listen there; `None` if the path is one that only root can change.
        owner: Option<u32>,
    },
    /// A TCP port.
    Tcp {
        /// A name or an IP address.
        host: String,
        port: u16,
        /// What precedes the path of each request: nothing, or `/path` of a proxy.
        base: String,
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
    #[error("user {found} listens there, where only user {owner} may")]
    Owner { owner: u32, found: u32 },
    #[error("failed to read {path:?}")]
    Read { path: PathBuf, source: io::Error },
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
            Some(path) if path.is_absolute() => Ok(Self::Unix {
                path: path.to_owned(),
                owner: None,
            }),
            Some(_) | None => Err(PluginError::misconfigured(format!(
                "{key} must be of the form unix:///path/to/socket, and is {address:?}"
            ))),
        }
    }

    /// Takes `unix:///path/to/socket`, or `tcp://host:port`, which `tls` is for. Docker's client sends to `http://` and, having no
    /// certificates from SPIRE, even to `https://` in clear.
    pub(super) fn parse(
        key: &str,
        address: &str,
        tls: Option<TlsFiles>,
    ) -> Result<Self, PluginError> {
        let misconfigured = |text: String| Err(PluginError::misconfigured(text));
        let rest = match address.split_once("://") {
            Some(("tcp" | "http", rest)) => rest,
            Some(("https", rest)) => {
                return misconfigured(format!(
                    "{key} with TLS is tcp://{rest}, and docker_tls_ca_path names whom to trust"
                ));
            }
            Some(("unix", _)) if tls.is_some() => {
                return misconfigured(format!(
                    "TLS is for an engine on a TCP port: make {key} tcp://host:port, or remove the docker_tls_* keys"
                ));
            }
            Some(("unix", _)) => return Self::unix(key, address),
            Some(_) | None => {
                return misconfigured(format!(
                    "{key} must be of the form unix:///path/to/socket or tcp://host:port, and is {address:?}"
                ));
            }
        };
        let (authority, base) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
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
            return misconfigured(format!(
                "{key} must be of the form tcp://host:port, and is {address:?}"
            ));
        };
        if !base.bytes().all(|byte| byte.is_ascii_graphic()) || base.contains(['?', '#']) {
            return misconfigured(format!("the path in {key} must be one, and is {base:?}"));
        }
        Ok(Self::Tcp {
            host,
            port,
            base: base.trim_end_matches('/').to_owned(),
            tls,
        })
    }

    /// Tells whether whoever is on the way can answer in the engine's place.
    pub(super) fn is_exposed(&self) -> bool {
        match self {
            Self::Unix { .. } | Self::Tcp { tls: Some(_), .. } => false,
            Self::Tcp { host, .. } => {
                host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    /// What an HTTP request names as its host.
    pub(super) fn http_host(&self) -> String {
        match self {
            Self::Unix { .. } => "localhost".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// What precedes the path of a request.
    pub(super) fn base(&self) -> &str {
        match self {
            Self::Unix { .. } => "",
            Self::Tcp { base, .. } => base,
        }
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, ConnectError> {
        let reach = |source| ConnectError::Reach {
            unix: matches!(self, Self::Unix { .. }),
            source,
        };
        match self {
            Self::Unix { path, owner } => {
                let stream = UnixStream::connect(path).await.map_err(reach)?;
                if let Some(owner) = *owner {
                    // The kernel tells who listens: a path below a user's folder may lead anywhere, also to another's engine.
                    let found = stream.peer_cred().map_err(reach)?.uid();
                    if found != owner {
                        return Err(ConnectError::Owner { owner, found });
                    }
                }
                Ok(Box::new(stream))
            }
            Self::Tcp {
                host, port, tls, ..
            } => {
                let plain = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(reach)?;
                let Some(files) = tls else {
                    return Ok(Box::new(plain));
                };
                let failed = |source| ConnectError::Tls { source };
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                let connector = TlsConnector::from(Arc::new(files.config().await?));
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
            Self::Unix { path, .. } => path.display().fmt(f),
            Self::Tcp { base, .. } => write!(f, "tcp://{}{base}", self.http_host()),
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
        if [ca, certificate, key].contains(&Some("")) {
            return Err(PluginError::misconfigured(
                "docker_tls_ca_path, docker_tls_certificate_path and docker_tls_private_key_path must name files, or be left out",
            ));
        }
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

    async fn config(&self) -> Result<ClientConfig, ConnectError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca).await? {
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
        let chain = certificates(certificate).await?;
        let key = private_key(key).await?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(ConnectError::Identity)
    }
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let content = read(path).await?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(bad_file(path, "no certificate is in it")),
        Err(_unprintable) => Err(bad_file(path, BROKEN_PEM)),
    }
}

async fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ConnectError> {
    let content = read(path).await?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|error| {
        // Other errors quote the file, and so perhaps the key.
        let problem = match error {
            pem::Error::NoItemsFound => "no private key is in it",
            _ => BROKEN_PEM,
        };
        bad_file(path, problem)
    })
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConnectError> {
    let failed = |source| ConnectError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).await.map_err(failed)?;
    let mut content = Zeroizing::new(Vec::with_capacity(16 * 1024));
    file.take(FILE_LIMIT_BYTES)
        .read_to_end(&mut content)
        .await
        .map_err(failed)?;
    Ok(content)
}

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
             docker_socket_path, podman_socket_path or podman_socket_path_template"
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
    use rustls::{CertificateError as Certificate, Error};
    match tls_error(error) {
        Some(Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        )) => {
            "the engine's certificate is not for this host; name the host in docker_socket_path as the certificate does"
        }
        Some(Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        )) => {
            "the engine's certificate is not valid at this time; renew it, or set the clock right"
        }
        Some(Error::InvalidCertificate(_)) => {
            "the engine's certificate is not one that docker_tls_ca_path vouches for"
        }
        Some(Error::InvalidMessage(_)) => {
            "what listens there does not speak TLS; remove the docker_tls_* keys, or name the engine's TLS port"
        }
        Some(Error::AlertReceived(alert)) => cure_of_alert(*alert),
        _ => "TLS with the engine failed",
    }
}

/// What an operator does about an exchange that fails since the engine refuses the agent's certificate, which shows only then.
pub(super) fn cure_of_exchange(error: &(dyn StdError + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            match tls_error(error) {
                Some(rustls::Error::AlertReceived(alert)) => return cure_of_alert(*alert),
                // Without TLS it is no error of the connection.
                None if error.kind() == io::ErrorKind::UnexpectedEof => return WANTS_CERTIFICATE,
                Some(_) | None => {}
            }
        }
        cause = error.source();
    }
    ""
}

fn cure_of_alert(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::UnknownCA
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::CertificateRevoked
        | Alert::UnsupportedCertificate
        | Alert::AccessDenied => WANTS_CERTIFICATE,
        _ => "the engine refuses TLS with the agent",
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What Docker's client, as SPIRE uses it, makes of an address without a port: it is one of HTTP.
const PORT: u16 = 80;
/// The port registered for Docker with TLS.
const TLS_PORT: u16 = 2376;
/// All authorities of a system take up to 1 MB.
const FILE_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
const WANTS_CERTIFICATE: &str = "the engine seems to want a certificate that it trusts; set docker_tls_certificate_path and docker_tls_private_key_path \
     to one from the authority of its --tlscacert";
const BROKEN_PEM: &str = "it is not PEM";

#[cfg(test)]
mod tests;
