//! Whom the agent trusts before it has a bundle of its own.
//!
//! A cached bundle always wins over what is asked for here. The source is asked anew at each attempt, since a download may
//! work the next time; a file that is missing or makes no sense will not mend itself, and says so at once.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finial_client::endpoint::WorkloadEndpoint;
use finial_proto::pb;
use finial_proto::pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use spiffe_types::bundle::{X509Authority, jwks};
use spiffe_types::id::TrustDomain;
use spiffe_types::pem;
use spiffe_types::svid::x509::{CertificateError, parse_der_sequence};
use thiserror::Error;
use time::format_description::well_known::Rfc3339;

use super::storage::{BootstrapState, BootstrapUse};
use crate::rpc::RpcFailure;

/// Where the first trust comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file the operator put there.
    File {
        /// The file.
        path: PathBuf,
        /// What is in it.
        format: Format,
    },
    /// A download.
    Url {
        /// `https`, or `http` with a socket.
        url: String,
        /// What is there.
        format: Format,
        /// The Unix socket to ask through instead of the network.
        unix_socket: Option<PathBuf>,
    },
    /// Another SPIFFE Workload API.
    WorkloadApi(WorkloadEndpoint),
    /// Nothing: believe whoever answers. Only the ID the server presents is compared.
    Insecure,
}

/// The form of a bootstrap bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PEM certificates.
    Pem,
    /// A SPIFFE bundle document.
    Spiffe,
}

/// What the server is asked to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// That one of these authorities, in DER, vouches for it.
    Authorities(Vec<Bytes>),
    /// Nothing.
    Insecure,
}

/// Why there is no first trust.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("failed to read trust bundle {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a bundle.
    #[error("trust bundle {path} is unusable")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The server of the URL cannot be asked.
    #[error("unable to fetch trust bundle URL {url}")]
    Download {
        /// The URL.
        url: String,
        /// The cause.
        source: reqwest::Error,
    },
    /// The server of the URL answered something else.
    #[error("error downloading trust bundle: {status}")]
    Status {
        /// What it answered.
        status: reqwest::StatusCode,
    },
    /// The server of the URL goes on sending.
    #[error("trust bundle at {url} is larger than {BUNDLE_LIMIT_BYTES} bytes")]
    TooLarge {
        /// The URL.
        url: String,
    },
    /// What was downloaded is not a bundle.
    #[error("trust bundle downloaded from {url} is unusable")]
    Document {
        /// The URL.
        url: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The Workload API did not give its bundles.
    #[error("unable to fetch trust bundle from the SPIFFE Workload API at {address}")]
    WorkloadApi {
        /// Its address.
        address: String,
        /// What it answered.
        source: RpcFailure,
    },
    /// The Workload API gave no usable bundle of this trust domain.
    #[error("the SPIFFE Workload API at {address} has no usable bundle for {trust_domain}")]
    Foreign {
        /// Its address.
        address: String,
        /// The trust domain it does not know.
        trust_domain: TrustDomain,
    },
}

impl BootstrapError {
    /// Whether trying again may help without anybody doing something.
    pub fn can_heal(&self) -> bool {
        match self {
            Self::Read { .. } | Self::File { .. } => false,
            Self::Download { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. }
            | Self::Document { .. }
            | Self::WorkloadApi { .. }
            | Self::Foreign { .. } => true,
        }
    }
}

/// Why a text is not a bundle.
#[derive(Debug, Error)]
pub enum ParseError {
    /// It is not text.
    #[error("it is not text")]
    Text {
        /// The cause.
        source: std::str::Utf8Error,
    },
    /// It is not PEM.
    #[error("it is not PEM")]
    Pem {
        /// The cause.
        source: pem::PemError,
    },
    /// It is not a SPIFFE bundle.
    #[error("unable to parse SPIFFE trust bundle")]
    Spiffe {
        /// The cause.
        source: jwks::JwksError,
    },
    /// A certificate in it is malformed.
    #[error("it holds a malformed certificate")]
    Certificate {
        /// The cause.
        source: CertificateError,
    },
    /// There is nothing in it.
    #[error("no certificates found in trust bundle")]
    Empty,
}

/// Asks the configured source.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Where to ask.
    pub source: Source,
    /// Whose authorities are wanted.
    pub trust_domain: TrustDomain,
    /// Told to a source behind a Unix socket: the server's address.
    pub server_address: String,
    /// Told to a source behind a Unix socket: the server's port.
    pub server_port: u16,
}

impl Bootstrap {
    /// Asks once. `state` says how often that has happened already and what for.
    pub async fn load(&self, state: &BootstrapState) -> Result<Trust, BootstrapError> {
        let authorities = match &self.source {
            Source::Insecure => return Ok(Trust::Insecure),
            Source::File { path, format } => {
                let content =
                    tokio::fs::read(path)
                        .await
                        .map_err(|source| BootstrapError::Read {
                            path: path.clone(),
                            source,
                        })?;
                self.parse(&content, *format)
                    .map_err(|source| BootstrapError::File {
                        path: path.clone(),
                        source,
                    })?
            }
            Source::Url {
                url,
                format,
                unix_socket,
            } => {
                let failed = |source| BootstrapError::Download {
                    url: url.clone(),
                    source,
                };
                let content = self
                    .download(url, unix_socket.clone(), state)
                    .await
                    .map_err(failed)??;
                self.parse(&content, *format)
                    .map_err(|source| BootstrapError::Document {
                        url: url.clone(),
                        source,
                    })?
            }
            Source::WorkloadApi(endpoint) => self.ask_workload_api(endpoint).await?,
        };
        Ok(Trust::Authorities(authorities))
    }

    fn parse(&self, content: &[u8], format: Format) -> Result<Vec<Bytes>, ParseError> {
        let text = std::str::from_utf8(content).map_err(|source| ParseError::Text { source })?;
        let authorities = match format {
            Format::Pem => pem::decode_all(text, pem::CERTIFICATE)
                .map_err(|source| ParseError::Pem { source })?,
            Format::Spiffe => jwks::from_json_strict(&self.trust_domain, text)
                .map_err(|source| ParseError::Spiffe { source })?
                .x509_authorities
                .iter()
                .map(|authority| authority.der().clone())
                .collect(),
        };
        check(authorities)
    }

    async fn download(
        &self,
        url: &str,
        unix_socket: Option<PathBuf>,
        state: &BootstrapState,
    ) -> Result<Result<Bytes, BootstrapError>, reqwest::Error> {
        let mut client = reqwest::Client::builder()
            .timeout(DOWNLOAD_TIMEOUT)
            .no_proxy();
        let mut query = Vec::new();
        // A redirect must not lead out of what makes the download trustworthy either.
        client = client.https_only(unix_socket.is_none());
        if let Some(path) = unix_socket {
            client = client.unix_socket(path);
            query = self.query(state);
        }
        let mut response = with_roots(client)?
            .get(with_query(url, &query))
            .send()
            .await?;
        if response.status() != reqwest::StatusCode::OK {
            return Ok(Err(BootstrapError::Status {
                status: response.status(),
            }));
        }
        let mut content = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if content.len() + chunk.len() > BUNDLE_LIMIT_BYTES {
                return Ok(Err(BootstrapError::TooLarge {
                    url: url.to_owned(),
                }));
            }
            content.extend_from_slice(&chunk);
        }
        Ok(Ok(content.freeze()))
    }

    /// What SPIRE tells a bundle source behind a Unix socket.
    fn query(&self, state: &BootstrapState) -> Vec<(&'static str, String)> {
        let mode = match state.purpose {
            BootstrapUse::Unspecified | BootstrapUse::Bootstrap => "bootstrap",
            BootstrapUse::Rebootstrap => "rebootstrap",
        };
        let started_at = state.started_at.and_then(|time| time.format(&Rfc3339).ok());
        vec![
            ("spiffe-trust-domain", self.trust_domain.to_string()),
            ("spire-attest-mode", mode.to_owned()),
            ("spire-attest-start-time", started_at.unwrap_or_default()),
            ("spire-connection-attempts", state.attempts.to_string()),
            ("spire-server-address", self.server_address.clone()),
            ("spire-server-port", self.server_port.to_string()),
        ]
    }

    async fn ask_workload_api(
        &self,
        endpoint: &WorkloadEndpoint,
    ) -> Result<Vec<Bytes>, BootstrapError> {
        let failed = |status| BootstrapError::WorkloadApi {
            address: endpoint.to_string(),
            source: RpcFailure::from(status),
        };
        let mut request = tonic::Request::new(pb::X509BundlesRequest {});
        request.set_timeout(WORKLOAD_API_TIMEOUT);
        request.metadata_mut().insert(
            "workload.spiffe.io",
            tonic::metadata::MetadataValue::from_static("true"),
        );
        let mut client = SpiffeWorkloadApiClient::new(endpoint.channel());
        let first = async {
            let mut stream = client.fetch_x509_bundles(request).await?.into_inner();
            stream.message().await
        };
        let answer = tokio::time::timeout(WORKLOAD_API_TIMEOUT, first)
            .await
            .map_err(|elapsed| failed(tonic::Status::deadline_exceeded(elapsed.to_string())))?
            .map_err(failed)?
            .unwrap_or_default();
        let ours = self.trust_domain.id();
        answer
            .bundles
            .into_iter()
            .find(|(name, _)| name.trim_end_matches('/') == ours.as_str())
            .and_then(|(_, der)| parse_der_sequence(&der).ok())
            .and_then(|authorities| check(authorities).ok())
            .ok_or_else(|| BootstrapError::Foreign {
                address: endpoint.to_string(),
                trust_domain: self.trust_domain.clone(),
            })
    }
}

/// The roots of the system; where it has none, as in a bare image, Mozilla's.
fn with_roots(client: reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    let provider = rustls::crypto::CryptoProvider::get_default().cloned();
    if webpki_roots::TLS_SERVER_ROOTS.is_empty() || has_system_roots() {
        return client.build();
    }
    let roots: rustls::RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    let provider = provider.unwrap_or_else(|| rustls::crypto::aws_lc_rs::default_provider().into());
    match rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
    {
        Ok(config) => client
            .tls_backend_preconfigured(config.with_root_certificates(roots).with_no_client_auth())
            .build(),
        Err(_) => client.build(),
    }
}

fn has_system_roots() -> bool {
    SYSTEM_ROOTS
        .iter()
        .any(|path| std::path::Path::new(path).exists())
        || std::env::var_os("SSL_CERT_FILE").is_some()
        || std::env::var_os("SSL_CERT_DIR").is_some()
}

fn with_query(url: &str, query: &[(&'static str, String)]) -> String {
    let mut url = url.to_owned();
    for (name, value) in query {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(name);
        url.push('=');
        url.extend(value.bytes().flat_map(escape));
    }
    url
}

/// One byte of a query value: as it is, or as `%XX`.
fn escape(byte: u8) -> impl Iterator<Item = char> {
    let digit =
        |value: u8| char::from_digit(value.into(), 16).map(|digit| digit.to_ascii_uppercase());
    let is_plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let escaped = if is_plain {
        [Some(char::from(byte)), None, None]
    } else {
        [Some('%'), digit(byte >> 4), digit(byte & 0xF)]
    };
    escaped.into_iter().flatten()
}

fn check(authorities: Vec<Bytes>) -> Result<Vec<Bytes>, ParseError> {
    if authorities.is_empty() {
        return Err(ParseError::Empty);
    }
    for der in &authorities {
        X509Authority::parse(der.clone(), false)
            .map_err(|source| ParseError::Certificate { source })?;
    }
    Ok(authorities)
}

/// Far more than the largest trust domain has.
const BUNDLE_LIMIT_BYTES: usize = 4 * 1024 * 1024;
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30);
const WORKLOAD_API_TIMEOUT: Duration = Duration::from_mins(1);
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn bootstrap(source: Source) -> Bootstrap {
        finial_pki::tls::install_provider();
        Bootstrap {
            source,
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            server_address: "server".to_owned(),
            server_port: 8081,
        }
    }

    #[tokio::test]
    async fn a_download_without_end_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("source.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            connection.read_exact(&mut [0; 16]).await.unwrap(); // a request has begun
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            connection.write_all(head).await.unwrap();
            let chunk = vec![b' '; 64 * 1024];
            let mut sent = 0_usize;
            while connection.write_all(&chunk).await.is_ok() && sent < 4 * BUNDLE_LIMIT_BYTES {
                sent += chunk.len();
            }
        });
        let source = Source::Url {
            url: "http://localhost/bundle".to_owned(),
            format: Format::Pem,
            unix_socket: Some(socket),
        };

        let error = bootstrap(source)
            .load(&BootstrapState::default())
            .await
            .unwrap_err();

        assert_eq!(
            error.to_string(),
            "trust bundle at http://localhost/bundle is larger than 4194304 bytes"
        );
        assert!(error.can_heal());
    }

    #[tokio::test]
    async fn nothing_is_downloaded_in_the_clear() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Source::Url {
            url: format!("http://{}/bundle", listener.local_addr().unwrap()),
            format: Format::Pem,
            unix_socket: None,
        };
        let bootstrap = bootstrap(source);
        let state = BootstrapState::default();
        let error = tokio::select! {
            loaded = bootstrap.load(&state) => loaded.unwrap_err(),
            _ = listener.accept() => panic!("it connects"),
        };

        let reason = finial_runtime::log::chain(&error).to_string();
        assert!(reason.contains("URL scheme is not allowed"), "{reason}");
    }

    #[tokio::test]
    async fn a_missing_file_is_named_and_will_not_heal() {
        let error = bootstrap(Source::File {
            path: "/nonexistent/bundle.pem".into(),
            format: Format::Pem,
        })
        .load(&BootstrapState::default())
        .await
        .unwrap_err();

        assert_eq!(
            error.to_string(),
            "failed to read trust bundle /nonexistent/bundle.pem"
        );
        assert!(!error.can_heal());
    }

    #[tokio::test]
    async fn a_file_without_certificates_will_not_heal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        std::fs::write(&path, "garbage").unwrap();
        for format in [Format::Pem, Format::Spiffe] {
            let source = Source::File {
                path: path.clone(),
                format,
            };
            let error = bootstrap(source)
                .load(&BootstrapState::default())
                .await
                .unwrap_err();
            assert!(matches!(error, BootstrapError::File { .. }), "{error:?}");
            assert!(!error.can_heal());
        }
    }

    #[test]
    fn a_source_behind_a_socket_is_told_who_asks() {
        let state = BootstrapState {
            attempts: 2,
            ..BootstrapState::default()
        };
        let query = bootstrap(Source::Insecure).query(&state);

        assert_eq!(
            with_query("http://localhost/bundle?a=b", &query),
            "http://localhost/bundle?a=b&spiffe-trust-domain=example.org&spire-attest-mode=bootstrap\
             &spire-attest-start-time=&spire-connection-attempts=2&spire-server-address=server&spire-server-port=8081"
        );
    }
}
