//! The few questions asked of a container engine, over its Unix socket.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

/// One engine. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    socket: Arc<Path>,
    /// What precedes each path: a version, or nothing for the engine's own.
    prefix: Arc<str>,
}

/// The answer to `GET /containers/{id}/json`, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InspectedContainer {
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) state: ContainerState,
    /// The id of the image the container was made from.
    #[serde(default)]
    pub(super) image: String,
    pub(super) config: ContainerConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ContainerState {
    /// The first process, as the engine counts; 0 when the container does not run.
    pub(super) pid: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ContainerConfig {
    /// The image as the user named it.
    pub(super) image: String,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) env: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedImage {
    #[serde(default)]
    id: String,
}

/// Why an engine did not answer.
#[derive(Debug, Error)]
pub(super) enum EngineError {
    #[error("failed to connect to container engine at {}: {}", socket.display(), cure(source.kind()))]
    Connect { socket: PathBuf, source: io::Error },
    #[error("failed to talk to container engine")]
    Exchange(#[source] hyper::Error),
    #[error("failed to read answer of container engine")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("failed to make request to container engine")]
    Request(#[source] http::Error),
    #[error("container engine answered {status}: {text}{}", cure_of(*status))]
    Status { status: StatusCode, text: String },
    #[error("failed to decode answer of container engine")]
    Decode(#[source] serde_json::Error),
    #[error("container engine did not answer within {} s", DEADLINE.as_secs())]
    TimedOut,
}

/// What an operator does about a socket that cannot be connected to.
fn cure(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => {
            "there is no such socket where the agent runs; mount the engine's socket into the agent's container, or name it in \
             docker_socket_path or podman_socket_path"
        }
        io::ErrorKind::PermissionDenied => {
            "the agent may not open the socket; run it as root, or with the socket's group (`group_add` in a compose file)"
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there; the engine is down, or it was restarted and the agent has its old socket mounted: mount the \
             socket's directory, or restart the agent"
        }
        _ => "the agent must be able to reach this socket",
    }
}

/// A socket proxy may stand in for the engine, and refuse.
fn cure_of(status: StatusCode) -> &'static str {
    if status == StatusCode::FORBIDDEN {
        "; a socket proxy must allow GET of /containers/{id}/json and /images/{name}/json"
    } else {
        ""
    }
}

impl Engine {
    pub(super) fn new(socket: PathBuf, version: &str) -> Self {
        let version = version.trim_start_matches('v');
        let prefix = if version.is_empty() {
            String::new()
        } else {
            format!("/v{version}")
        };
        Self {
            socket: socket.into(),
            prefix: prefix.into(),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks what a container is.
    pub(super) async fn container(&self, id: &str) -> Result<InspectedContainer, EngineError> {
        self.get(&format!("/containers/{}/json", escape_segment(id)))
            .await
    }

    /// Asks for the id of an image, which is the digest of its configuration. `None` when there is nothing to ask for.
    pub(super) async fn image_id(&self, image: &str) -> Result<Option<String>, EngineError> {
        if image.is_empty() {
            return Ok(None);
        }
        let image: InspectedImage = self.get(&format!("/images/{}/json", escape(image))).await?;
        Ok(Some(image.id).filter(|id| !id.is_empty()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let answered = tokio::time::timeout(DEADLINE, self.exchange(path)).await;
        let (status, body) = answered.map_err(|_elapsed| EngineError::TimedOut)??;
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&body)
                .chars()
                .take(ERROR_TEXT_LENGTH)
                .collect::<String>();
            return Err(EngineError::Status {
                status,
                text: text.trim().to_owned(),
            });
        }
        serde_json::from_slice(&body).map_err(EngineError::Decode)
    }

    async fn exchange(&self, path: &str) -> Result<(StatusCode, Bytes), EngineError> {
        let socket =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| EngineError::Connect {
                    socket: self.socket.to_path_buf(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(EngineError::Exchange)?;
        let request = Request::get(format!("{}{path}", self.prefix))
            .header(header::HOST, "localhost")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(EngineError::Request)?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(EngineError::Exchange)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), BODY_LIMIT_BYTES)
                .collect()
                .await;
            Ok((status, body.map_err(EngineError::Body)?.to_bytes()))
        };
        // How the connection ends shows in the exchange, which it must not overtake.
        let drive = async {
            drop(connection.await);
            pending::<Infallible>().await
        };
        tokio::select! {
            answer = exchange => answer,
            never = drive => match never {},
        }
    }
}

/// Escapes a name for one segment of a path.
fn escape_segment(name: &str) -> String {
    escape(name).replace('/', "%2F")
}

/// Escapes an image name for a path. Slashes and colons belong to names and stay.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b':'
            | b'@' => {
                out.push(char::from(byte));
            }
            other => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                let digit = |half: u8| DIGITS.get(usize::from(half)).copied().map(char::from);
                out.push('%');
                out.extend(digit(other >> 4));
                out.extend(digit(other & 0xf));
            }
        }
    }
    out
}

/// More than any engine needs that is going to answer.
const DEADLINE: Duration = Duration::from_secs(10);
const BODY_LIMIT_BYTES: usize = 4 * 1024 * 1024;
const ERROR_TEXT_LENGTH: usize = 300;
