//! Health over HTTP: whether the process should be restarted (live) and whether it can serve (ready).
//!
//! Named checks run every second until all are ready, then every minute. The answer is the same JSON object on both
//! paths, one field per check, and only its status differs: 200 or 500.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::HealthConfig;
use crate::go_json;
use crate::log::chain;

const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_mins(1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// What one check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Whether the process should be left running.
    pub live: bool,
    /// Whether it can serve.
    pub ready: bool,
    /// What is wrong; an empty object when nothing is.
    pub details: Value,
}

impl Health {
    /// All is well.
    pub fn good() -> Self {
        Self {
            live: true,
            ready: true,
            details: json!({}),
        }
    }

    /// Something is wrong, which `key` names and `reason` explains.
    pub fn bad(key: &str, reason: impl fmt::Display) -> Self {
        let mut details = Map::new();
        details.insert(key.to_owned(), Value::String(reason.to_string()));
        Self {
            live: false,
            ready: false,
            details: Value::Object(details),
        }
    }

    /// Not serving yet, and nothing is wrong with that.
    pub fn starting() -> Self {
        Self {
            live: true,
            ready: false,
            details: json!({}),
        }
    }
}

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Health> + Send>> + Send + Sync>;

/// The checks of a process.
#[derive(Clone, Default)]
pub struct HealthRegistry {
    checks: BTreeMap<&'static str, Check>,
}

impl HealthRegistry {
    /// Creates a registry without checks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check; `name` is its field in the answer. A later check of the same name replaces the earlier one.
    #[must_use]
    pub fn with_check<F, Fut>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Health> + Send + 'static,
    {
        self.checks
            .insert(name, Arc::new(move || Box::pin(check())));
        self
    }

    /// Checks until `shutdown`, and answers over HTTP where `config` says so.
    ///
    /// A process does not fail because its health cannot be asked for; that is logged.
    pub async fn run(self, config: &HealthConfig, shutdown: CancellationToken) {
        if !config.listener_enabled {
            watch(self, Arc::default(), shutdown).await;
            return;
        }
        let served = match self.bind(config).await {
            Ok(server) => server.run(shutdown).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(
                subsystem_name = "health",
                error = %chain(&error),
                "Error serving health checks"
            );
        }
    }

    /// Runs every check once.
    pub async fn check(&self) -> Report {
        let mut report = Report {
            live: true,
            ready: true,
            details: Map::new(),
        };
        for (name, check) in &self.checks {
            let health = tokio::time::timeout(CHECK_TIMEOUT, check())
                .await
                .unwrap_or_else(|_elapsed| Health::bad("check_err", "the check took too long"));
            if !health.ready {
                tracing::warn!(
                    subsystem_name = "health",
                    check = name,
                    details = %health.details,
                    "Health check failed"
                );
            }
            report.live &= health.live;
            report.ready &= health.ready;
            report.details.insert((*name).to_owned(), health.details);
        }
        report
    }

    /// Listens where `config` says.
    pub async fn bind(self, config: &HealthConfig) -> Result<HealthServer, HealthError> {
        let address = format!("{}:{}", config.bind_address, config.bind_port);
        let listener = TcpListener::bind((config.bind_address.as_str(), config.bind_port))
            .await
            .map_err(|source| HealthError::Bind { address, source })?;
        Ok(HealthServer {
            registry: self,
            listener,
            live_path: config.live_path.clone(),
            ready_path: config.ready_path.clone(),
        })
    }
}

impl fmt::Debug for HealthRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.checks.keys()).finish()
    }
}

/// What all checks found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Whether every check is live.
    pub live: bool,
    /// Whether every check is ready.
    pub ready: bool,
    /// The details by check.
    pub details: Map<String, Value>,
}

/// Why health is not served.
#[derive(Debug, Error)]
pub enum HealthError {
    /// The address cannot be bound.
    #[error(
        "failed to serve health checks on {address}; see health_checks.bind_address and bind_port"
    )]
    Bind {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// Connections can no longer be accepted.
    #[error("failed to serve health checks")]
    Serve {
        /// The cause.
        source: io::Error,
    },
}

/// The HTTP endpoint, bound and not yet serving.
#[derive(Debug)]
pub struct HealthServer {
    registry: HealthRegistry,
    listener: TcpListener,
    live_path: String,
    ready_path: String,
}

type Latest = Arc<RwLock<Report>>;

impl HealthServer {
    /// Returns the bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Checks and answers until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), HealthError> {
        let latest: Latest = Arc::new(RwLock::new(Report {
            live: true,
            ready: false,
            details: Map::new(),
        }));
        let live = any(async |State(latest): State<Latest>| answer(&latest, |report| report.live));
        let ready =
            any(async |State(latest): State<Latest>| answer(&latest, |report| report.ready));
        let routes = Router::new().route(&self.live_path, live);
        let routes = if self.live_path == self.ready_path {
            routes
        } else {
            routes.route(&self.ready_path, ready)
        };
        let served = axum::serve(self.listener, routes.with_state(Arc::clone(&latest)))
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        tokio::select! {
            served = served => served.map_err(|source| HealthError::Serve { source }),
            () = watch(self.registry, latest, shutdown) => Ok(()),
        }
    }
}

async fn watch(registry: HealthRegistry, latest: Latest, shutdown: CancellationToken) {
    let mut interval = FIRST_INTERVAL;
    loop {
        let report = registry.check().await;
        if report.ready {
            interval = INTERVAL;
        }
        *latest.write().unwrap_or_else(PoisonError::into_inner) = report;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

fn answer(latest: &Latest, is_good: impl Fn(&Report) -> bool) -> Response {
    let report = latest
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let status = if is_good(&report) {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let body = go_json::to_string(&Value::Object(report.details));
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let body = text.split("\r\n\r\n").nth(1).unwrap().to_owned();
        (status, body)
    }

    #[tokio::test]
    async fn both_paths_answer_what_the_checks_found() {
        let serving = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&serving);
        let registry = HealthRegistry::new().with_check("agent", move || {
            let serving = flag.load(Ordering::Relaxed);
            async move {
                if serving {
                    Health::good()
                } else {
                    Health::bad("make_new_x509_err", "workload api is unavailable")
                }
            }
        });
        let config = HealthConfig {
            listener_enabled: true,
            bind_address: "localhost".into(),
            bind_port: 0,
            live_path: "/live".into(),
            ready_path: "/ready".into(),
        };
        let server = registry.bind(&config).await.unwrap();
        let address = server.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let client = async move {
            let bad = r#"{"agent":{"make_new_x509_err":"workload api is unavailable"}}"#;
            while get(address, "/live").await != (500, bad.to_owned()) {
                tokio::task::yield_now().await;
            }
            serving.store(true, Ordering::Relaxed);
            while get(address, "/ready").await != (200, r#"{"agent":{}}"#.to_owned()) {
                tokio::task::yield_now().await;
            }
            assert_eq!(get(address, "/other").await.0, 404);
            stop.cancel();
        };
        let deadline = Duration::from_secs(10);
        let (served, ()) = tokio::time::timeout(deadline, async {
            tokio::join!(server.run(shutdown), client)
        })
        .await
        .unwrap();
        served.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_starts_is_live_but_not_ready() {
        let registry = HealthRegistry::new().with_check("agent", async || Health::starting());
        let report = registry.check().await;
        assert_eq!((report.live, report.ready), (true, false));
    }
}
