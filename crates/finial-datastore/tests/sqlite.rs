//! The SQLite store passes the suite, and keeps its own promises about files.
#![expect(clippy::unwrap_used, reason = "test support")]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finial_datastore::sqlite::{self, SqliteOptions};
use finial_datastore::{DataStore, EntryFilter, JoinToken, Redemption, StoreError};
use spiffe_types::entry::NewEntry;
use spiffe_types::id::SpiffeId;
use tempfile::TempDir;

finial_datastore::conformance_tests!(fresh());

#[tokio::test]
async fn the_file_is_for_owner_and_group_and_its_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/server/datastore.sqlite3");

    let _store = open(path.to_str().unwrap()).await.unwrap();

    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[tokio::test]
async fn what_was_reported_survives_a_process_that_just_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(path.to_str().unwrap()).await.unwrap();
    store.create_entries(vec![web()], now()).await.unwrap();
    let token = JoinToken {
        value: "t".to_owned(),
        expires_at: now(),
    };
    store.create_join_token(token, None, now()).await.unwrap();
    let spent = store.spend_join_token("t", now()).await.unwrap();
    assert_eq!(spent, Redemption::Spent);
    let revision = store.latest_revision().await.unwrap();
    // What is on disk now is what a killed process leaves behind.
    let copy = folder.path().join("copy");
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", path.display());
        std::fs::copy(from, format!("{}{suffix}", copy.display())).unwrap();
    }

    let reopened = open(copy.to_str().unwrap()).await.unwrap();

    assert_eq!(reopened.latest_revision().await.unwrap(), revision);
    assert_eq!(
        reopened
            .count_entries(&EntryFilter::default())
            .await
            .unwrap(),
        1
    );
    let again = reopened.spend_join_token("t", now()).await.unwrap();
    assert_eq!(again, Redemption::Used(now()));
}

#[tokio::test]
async fn a_write_that_is_abandoned_leaves_no_trace_and_no_lock() {
    let (store, _keep) = fresh().await;
    for micros in (0..2_000).step_by(50) {
        let write = store.create_entries(vec![web()], now());
        drop(tokio::time::timeout(Duration::from_micros(micros), write).await);
    }

    let results = store.create_entries(vec![web()], now()).await.unwrap();

    assert_eq!(results.len(), 1);
    let count = store.count_entries(&EntryFilter::default()).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_database_that_spire_made_is_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("datastore.sqlite3");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("CREATE TABLE registered_entries (id INTEGER)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;

    let error = open(path.to_str().unwrap()).await.unwrap_err();

    assert!(matches!(error, StoreError::Misconfigured { .. }));
    assert!(error.to_string().contains("was made by SPIRE"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("datastore.sqlite3");
    std::fs::write(
        &path,
        "certainly not a database, but long enough to be looked at",
    )
    .unwrap();

    let error = open(path.to_str().unwrap()).await.unwrap_err();

    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test; run it in release mode"]
async fn entries_are_created_at_ten_thousand_a_second() {
    let (store, _keep) = fresh().await;
    let mut began = tokio::time::Instant::now();
    for batch in 0..60 {
        if batch == 40 {
            began = tokio::time::Instant::now();
        }
        let entries = (0..500).map(|n| numbered(batch * 500 + n)).collect();
        let results = store.create_entries(entries, now()).await.unwrap();
        assert!(results.iter().all(Result::is_ok));
    }
    let rate = 10_000.0 / began.elapsed().as_secs_f64();
    println!("{rate:.0} entries a second beyond 20,000");
    let began = tokio::time::Instant::now();
    let snapshot = store.snapshot().await.unwrap();
    println!(
        "snapshot of {} in {:?}",
        snapshot.entries.len(),
        began.elapsed()
    );
}

async fn fresh() -> (Arc<dyn DataStore>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    (open(path.to_str().unwrap()).await.unwrap(), folder)
}

async fn open(text: &str) -> Result<Arc<dyn DataStore>, StoreError> {
    sqlite::open(text, &SqliteOptions::default()).await
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn web() -> NewEntry {
    let selectors = ["unix:uid:1000".parse().unwrap()].into_iter().collect();
    NewEntry::new(id("/web"), id("/spire/agent/x509pop/node"), selectors)
}

fn numbered(n: usize) -> NewEntry {
    let selectors = [format!("unix:uid:{n}"), "unix:gid:1000".to_owned()]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let parent = id(&format!("/spire/agent/x509pop/node{}", n % 100));
    NewEntry::new(id(&format!("/workload/{n}")), parent, selectors)
}
