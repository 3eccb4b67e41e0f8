//! The order of a `dev` run: server, token and entry, agent, first SVID, then every rotation.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use finial_agent::agent::Agent;
use finial_agent::config::JoinToken;
use finial_client::connect;
use finial_client::workload::{self, WatchError};
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::server::agent::v1::{CreateJoinTokenRequest, ListAgentsRequest};
use finial_proto::pb::spire::api::server::bundle::v1::GetBundleRequest;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::server::entry::v1::BatchCreateEntryRequest;
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_proto::pb::spire::api::types;
use finial_runtime::clock::SystemClock;
use finial_runtime::log;
use finial_runtime::tasks::TaskGroup;
use finial_server::server::Server;
use spiffe_types::{TrustDomain, pem};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::folder::Folder;
use crate::screen;
use crate::{GRACE, Options};

/// How often the folder is looked at for the agent's socket, which appears once the agent is attested and synced.
const SOCKET_POLL: Duration = Duration::from_millis(1);
/// A token is spent milliseconds after it is made.
const TOKEN_TTL: i32 = 60;

pub(crate) async fn run(
    options: &Options,
    start: Instant,
    shutdown: CancellationToken,
) -> Result<()> {
    let domain = options.trust_domain.clone();
    let folder = Folder::open(options.dir.as_deref())?;
    let group = TaskGroup::under(&shutdown);

    let server = build_server(&folder, &domain).await?;
    let port = server.tcp_addr().port();
    let stop = group.token();
    group.spawn("server", async move { server.run(stop).await });

    let admin = connect::unix(folder.server_socket());
    let node = node(&folder, &admin, &domain).await?;
    register(options, &admin, &domain, &node.path).await?;
    let bundle = bundle(&admin).await?;

    let agent = build_agent(&folder, &domain, port, &bundle, node.token).await?;
    let stop = group.token();
    group.spawn("agent", async move { agent.run(stop).await });

    let socket = folder.agent_socket();
    let commands = commands(&folder, &domain, &node.path);
    let stop = group.token();
    screen::line(&format!(
        "Trust domain {domain} in {}",
        folder.path().display()
    ));
    group.spawn("screen", async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            shown = show(&socket, start, &commands) => shown,
        }
    });
    let ended = group.wait(GRACE).await;
    screen::line("Stopped.");
    ended
}

async fn build_server(folder: &Folder, domain: &TrustDomain) -> Result<Server> {
    // The server takes a port from its file, and port 0 means "the default" there: ask the kernel for a free one.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let path = folder.write_server_config(domain.as_str(), port)?;
    let config = finial_server::config::Config::load(&finial_server::config::Flags {
        config: Some(path),
        ..finial_server::config::Flags::default()
    })
    .context("failed to load the server's configuration")?;
    log::init(&config.log, SystemClock::shared()).context("failed to start the log")?;
    Server::build(config, finial_plugins::server())
        .await
        .context("failed to start the server")
}

async fn build_agent(
    folder: &Folder,
    domain: &TrustDomain,
    port: u16,
    bundle: &str,
    token: Option<String>,
) -> Result<Agent> {
    let path = folder.write_agent_config(domain.as_str(), port, bundle)?;
    let config = finial_agent::config::Config::load(&finial_agent::config::Flags {
        config: Some(path),
        join_token: token.map(JoinToken::new),
        ..finial_agent::config::Flags::default()
    })
    .context("failed to load the agent's configuration")?;
    Agent::build(config, finial_plugins::agent())
        .await
        .context("failed to start the agent")
}

/// The agent that identities are registered under.
#[derive(Debug)]
struct Node {
    path: String,
    /// What it joins with; nothing when it has joined before.
    token: Option<String>,
}

/// Finds the agent that this folder held before, or makes a token for a new one.
async fn node(folder: &Folder, admin: &Channel, domain: &TrustDomain) -> Result<Node> {
    let mut client = AgentClient::new(admin.clone());
    if folder.has_agent() {
        let agents = client
            .list_agents(ListAgentsRequest::default())
            .await
            .context("failed to list agents")?
            .into_inner();
        let known = agents
            .agents
            .into_iter()
            .filter(|agent| !agent.banned)
            .max_by_key(|agent| agent.x509svid_expires_at);
        if let Some(id) = known.and_then(|agent| agent.id) {
            return Ok(Node {
                path: id.path,
                token: None,
            });
        }
    }
    let token = client
        .create_join_token(CreateJoinTokenRequest {
            ttl: TOKEN_TTL,
            ..CreateJoinTokenRequest::default()
        })
        .await
        .with_context(|| format!("failed to create a join token in {domain}"))?
        .into_inner();
    Ok(Node {
        path: format!("/spire/agent/join_token/{}", token.value),
        token: Some(token.value),
    })
}

/// Registers the calling user; done before, it is done.
async fn register(
    options: &Options,
    admin: &Channel,
    domain: &TrustDomain,
    parent: &str,
) -> Result<()> {
    let id = |path: String| {
        Some(types::Spiffeid {
            trust_domain: domain.as_str().to_owned(),
            path,
        })
    };
    let entry = types::Entry {
        spiffe_id: id(format!("/user/{}", user())),
        parent_id: id(parent.to_owned()),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{}", nix::unistd::getuid()),
        }],
        x509_svid_ttl: options.x509_svid_ttl,
        ..types::Entry::default()
    };
    let answer = EntryClient::new(admin.clone())
        .batch_create_entry(BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        })
        .await
        .context("failed to create the entry")?
        .into_inner();
    for status in answer
        .results
        .into_iter()
        .filter_map(|result| result.status)
    {
        if status.code != Code::Ok as i32 && status.code != Code::AlreadyExists as i32 {
            bail!("failed to create the entry: {}", status.message);
        }
    }
    Ok(())
}

/// The calling user as a segment of a SPIFFE ID: the name if it can be one, else the number.
fn user() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map(|user| user.name)
        .filter(|name| {
            name.chars()
                .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_'))
                && !matches!(name.as_str(), "" | "." | "..")
        })
        .unwrap_or_else(|| uid.to_string())
}

async fn bundle(admin: &Channel) -> Result<String> {
    let bundle = BundleClient::new(admin.clone())
        .get_bundle(GetBundleRequest::default())
        .await
        .context("failed to get the bundle")?
        .into_inner();
    Ok(bundle
        .x509_authorities
        .iter()
        .map(|authority| pem::encode("CERTIFICATE", &authority.asn1))
        .collect())
}

/// Shows the first SVID and each one after it.
async fn show(socket: &Path, start: Instant, commands: &[String]) -> Result<()> {
    while !socket.exists() {
        tokio::time::sleep(SOCKET_POLL).await;
    }
    let mut watch = workload::watch_x509(connect::unix(socket));
    let mut shown = None;
    loop {
        let context = match watch.next().await {
            Ok(context) => context,
            // The entry may have been deleted by the user, who is free to make another.
            Err(error @ WatchError::NotEntitled { .. }) => {
                screen::line(&format!("No identity: {error}"));
                continue;
            }
            Err(error) => return Err(error).context("failed to follow the identity"),
        };
        let Some(identity) = context.identities.first() else {
            continue;
        };
        let serial = identity.svid.serial().clone();
        if shown.is_none() {
            screen::first(identity, start.elapsed());
            screen::line("\nTry next, in another terminal:");
            for command in commands {
                screen::line(&format!("  {command}"));
            }
            screen::line("\nEach rotation is shown here. Ctrl-C stops everything.");
        } else if shown.as_ref() != Some(&serial) {
            screen::rotated(identity);
        }
        shown = Some(serial);
    }
}

/// Three commands to go on with, as the reader would have to type them here.
fn commands(folder: &Folder, domain: &TrustDomain, parent: &str) -> Vec<String> {
    let program = |name: &str| {
        if std::env::var_os("CARGO").is_some() {
            format!("cargo run -q --release -p {name} --")
        } else {
            name.to_owned()
        }
    };
    let server = folder.server_socket();
    let server = server.display();
    vec![
        format!(
            "{} api fetch x509 -socketPath {}",
            program("finial-agent"),
            folder.agent_socket().display()
        ),
        format!(
            "{} entry show -socketPath {server}",
            program("finial-server")
        ),
        format!(
            "{} entry create -socketPath {server} -parentID {domain_id}{parent} -spiffeID {domain_id}/web -selector unix:user:{user}",
            program("finial-server"),
            domain_id = domain.id(),
            user = user(),
        ),
    ]
}
