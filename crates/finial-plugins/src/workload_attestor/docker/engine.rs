//! The few questions asked of a container engine.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_plugin::PluginError;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::transport::{Address, ConnectError, cure_of_exchange};

/// One engine. Clones are cheap, and share what was agreed with it.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    address: Arc<Address>,
    version: Version,
}

/// Which version of the API requests name.
#[derive(Debug, Clone)]
pub(super) enum Version {
    /// What precedes each path: `/v1.41`, or nothing for the engine's newest.
    Fixed(Arc<str>),
    /// The same, agreed with the engine when it is asked for the first time; `None` before.
    Negotiated(Arc<Mutex<Option<Arc<str>>>>),
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
    /// When it was started, as RFC 3339 has it.
    pub(super) started_at: String,
}

impl ContainerState {
    pub(super) fn started_at(&self) -> Option<SystemTime> {
        let started = OffsetDateTime::parse(&self.started_at, &Rfc3339);
        started.ok().map(SystemTime::from)
    }
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
    #[error("failed to connect to container engine at {engine}")]
    Connect {
        engine: String,
        source: ConnectError,
    },
    #[error(
        "failed to talk to container engine at {engine}{}",
        after_semicolon(cure_of_exchange(source))
    )]
    Exchange {
        engine: String,
        source: hyper::Error,
    },
    #[error("failed to read answer of container engine")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("failed to make request to container engine")]
    Request(#[source] http::Error),
    #[error("container engine answered {status}: {text}{}", after_semicolon(cure_of(*status, text)))]
    Status { status: StatusCode, text: String },
    #[error("failed to decode answer of container engine")]
    Decode(#[source] serde_json::Error),
    #[error("container engine at {engine} did not answer within {} s", DEADLINE.as_secs())]
    TimedOut { engine: String },
}

impl EngineError {
    /// Tells whether the engine answered that it has no such container.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// What an operator does about an answer.
fn cure_of(status: StatusCode, text: &str) -> &'static str {
    match status {
        // A proxy may stand in for the engine, and refuse.
        StatusCode::FORBIDDEN => {
            "a socket proxy must allow GET of /containers/{id}/json and /images/{name}/json"
        }
        // What Go's server says.
        StatusCode::BAD_REQUEST if text.contains("HTTP request to an HTTPS server") => {
            "set docker_tls_ca_path"
        }
        StatusCode::BAD_REQUEST if text.contains(VERSION_REFUSED) => {
            "correct docker_version, or leave it out"
        }
        _ => "",
    }
}

fn after_semicolon(cure: &str) -> String {
    if cure.is_empty() {
        String::new()
    } else {
        format!("; {cure}")
    }
}

impl Version {
    /// The engine's own newest.
    pub(super) fn newest() -> Self {
        Self::Fixed(Arc::from(""))
    }

    /// The one configured, `1.41` or `v1.41`; negotiated if that is empty.
    pub(super) fn configured(version: &str) -> Result<Self, PluginError> {
        let version = version.trim();
        let number = version.strip_prefix('v').unwrap_or(version);
        if number.is_empty() {
            return Ok(Self::Negotiated(Arc::default()));
        }
        match parse_version(number) {
            Some((major, minor)) => Ok(Self::Fixed(format!("/v{major}.{minor}").into())),
            None => Err(PluginError::misconfigured(format!(
                "docker_version must be of the form 1.41, and is {version:?}; leave it out to agree with the engine on one"
            ))),
        }
    }
}

impl Engine {
    pub(super) fn new(address: Address, version: Version) -> Self {
        Self {
            address: Arc::new(address),
            version,
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
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
        let answered = tokio::time::timeout(DEADLINE, self.ask(path)).await;
        let answer = answered.map_err(|_elapsed| EngineError::TimedOut {
            engine: self.address.to_string(),
        })??;
        if answer.status != StatusCode::OK {
            return Err(EngineError::Status {
                status: answer.status,
                text: answer.text(),
            });
        }
        serde_json::from_slice(&answer.body).map_err(EngineError::Decode)
    }

    /// Asks in the version agreed on. It is agreed on anew with an engine that was out of reach or refuses it: behind one
    /// address may be another engine than before.
    async fn ask(&self, path: &str) -> Result<Answer, EngineError> {
        let agreed = match &self.version {
            Version::Fixed(prefix) => return self.exchange(&format!("{prefix}{path}")).await,
            Version::Negotiated(agreed) => agreed,
        };
        let set = |prefix: Option<&Arc<str>>| {
            *agreed.lock().unwrap_or_else(PoisonError::into_inner) = prefix.cloned();
        };
        let known = agreed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let prefix = match known {
            Some(prefix) => prefix,
            None => match self.negotiate().await? {
                Some(prefix) => {
                    set(Some(&prefix));
                    prefix
                }
                None => Arc::from(""),
            },
        };
        let answer = self.exchange(&format!("{prefix}{path}")).await;
        match &answer {
            Err(EngineError::Connect { .. }) => set(None),
            Ok(refusal) if !prefix.is_empty() && refusal.is_about_version() => {
                // An engine may have done with all that are named here, and still name an old one.
                let other = self.negotiate().await?.filter(|other| *other != prefix);
                let other = other.unwrap_or_else(|| Arc::from(""));
                set(Some(&other));
                return self.exchange(&format!("{other}{path}")).await;
            }
            _ => {}
        }
        answer
    }

    /// Finds the newest version of the API that both sides know: what precedes a path that names it, which is nothing for an engine
    /// or a proxy that does not tell. `None` if it is in no state to tell.
    async fn negotiate(&self) -> Result<Option<Arc<str>>, EngineError> {
        let answer = self.exchange("/_ping").await?;
        let version = answer.headers.get("api-version");
        let version = version.and_then(|version| parse_version(version.to_str().ok()?));
        // An engine that is not well, and answers so, tells nevertheless.
        let Some(theirs) = version else {
            return Ok((!answer.status.is_server_error()).then(|| Arc::from("")));
        };
        let (major, minor) = theirs.min(NEWEST_VERSION);
        tracing::debug!(
            engine = %self.address,
            version = format!("{major}.{minor}"),
            "Container engine API version negotiated"
        );
        Ok(Some(format!("/v{major}.{minor}").into()))
    }

    async fn exchange(&self, path: &str) -> Result<Answer, EngineError> {
        let stream = self
            .address
            .connect()
            .await
            .map_err(|source| EngineError::Connect {
                engine: self.address.to_string(),
                source,
            })?;
        let failed = |source| EngineError::Exchange {
            engine: self.address.to_string(),
            source,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = Request::get(format!("{}{path}", self.address.base()))
            .header(header::HOST, self.address.http_host())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(EngineError::Request)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, BODY_LIMIT_BYTES).collect().await;
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.map_err(EngineError::Body)?.to_bytes(),
            })
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

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// As much of the body as an error quotes.
    fn text(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(ERROR_TEXT_LENGTH)
            .collect();
        text.trim().to_owned()
    }

    /// "client version 1.47 is too new. Maximum supported API version is 1.41", or too old.
    fn is_about_version(&self) -> bool {
        self.status == StatusCode::BAD_REQUEST && self.text().contains(VERSION_REFUSED)
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
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

/// The newest version of the API whose answers are known here: Docker 27's.
const NEWEST_VERSION: (u32, u32) = (1, 47);
/// How every engine begins to say that it is too old or too new.
const VERSION_REFUSED: &str = "client version";
/// Less than the agent gives all attestors together, so that an engine that hangs is named.
const DEADLINE: Duration = Duration::from_secs(4);
const BODY_LIMIT_BYTES: usize = 4 * 1024 * 1024;
const ERROR_TEXT_LENGTH: usize = 300;
