//! Starting, stopping, starting again.

use std::time::Duration;

use finial_proto::pb::spire::api::server::entry::v1 as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Settings, TestServer, entry};

#[tokio::test(flavor = "multi_thread")]
async fn agents_entries_and_authorities_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || Settings {
        dir: Some(dir.path()),
        ..Settings::default()
    };
    let server = TestServer::start_with(settings()).await;
    let agent = server.agent().await;
    let created = server.create(vec![entry(&agent.id, "/web")]).await;
    let (bundle, key, svid) = (server.bundle().await, agent.key.clone(), agent.svid.clone());
    server.stop().await.unwrap();

    let server = TestServer::start_with(settings()).await;
    assert_eq!(server.bundle().await, bundle);
    let request = pb::GetAuthorizedEntriesRequest::default();
    let channel = server.identified(&svid, &key).await;
    let entries = pb::entry_client::EntryClient::new(channel)
        .get_authorized_entries(request)
        .await
        .unwrap();
    assert_eq!(entries.into_inner().entries, created);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_of_another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = |trust_domain| Settings {
        dir: Some(dir.path()),
        trust_domain,
        ..Settings::default()
    };
    let server = TestServer::start_with(settings(None)).await;
    let agent = server.agent().await;
    server.create(vec![entry(&agent.id, "/web")]).await;
    server.stop().await.unwrap();

    let refused = TestServer::try_start(settings(Some("other.org")))
        .await
        .err()
        .unwrap();
    assert_eq!(
        refused.to_string(),
        "a registration entry with trust domain 'example.org' has been detected, which does not match the configured trust domain of 'other.org'. If you want to change the trust domain, please delete all existing registration entries"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_over_http() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let sections = format!(
        "health_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" bind_port = \"{port}\" }}"
    );
    let server = TestServer::start_with(Settings {
        sections: &sections,
        ..Settings::default()
    })
    .await;
    let asking = async {
        loop {
            if let Some(answer) = get(port, "/ready").await
                && answer.starts_with("HTTP/1.1 200 OK")
                && answer.contains("catalog.datastore")
            {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), asking)
        .await
        .expect("the server becomes ready");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        body.trim_end(),
        "{\"catalog.datastore\":{},\"server\":{},\"server.ca\":{},\"server.ca.rotator\":{}}"
    );
    server.stop().await.unwrap();
}

async fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
