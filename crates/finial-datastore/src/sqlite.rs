//! The store in one SQLite file.
//!
//! One connection writes, several read: SQLite has one writer at a time anyway, and a queue for one connection is fair
//! where its own lock is not. Write-ahead logging lets readers see a consistent state meanwhile. Commits are synced to disk
//! before they are reported: a join token must not be spent twice, nor a signed SVID's serial number or a CA's journal
//! be forgotten, because the power went away.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{Sqlite, SqliteConnection, Transaction};
use tokio::sync::watch;

use crate::DataStore;
use crate::changes::Revision;
use crate::error::StoreError;
use location::Location;
use row::db;

mod agents;
mod bundles;
mod changes;
mod entries;
mod filter;
mod join_tokens;
mod journal;
mod location;
mod row;
mod schema;

/// How the file is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// At most this many reading connections.
    pub max_open_conns: u32,
    /// Refuses a file whose schema is older than this program's, instead of bringing it up to date.
    pub disable_migration: bool,
    /// Writes every statement to the log, at debug level.
    pub log_sql: bool,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_open_conns: 4,
            disable_migration: false,
            log_sql: false,
        }
    }
}

/// The store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    changed: watch::Sender<Revision>,
}

/// Opens a store, creating file and folder where missing, and brings its schema up to date.
///
/// `connection_string` is a path or a `file:` URI, as SPIRE's `connection_string` for `sqlite3`; URI parameters that tell
/// SPIRE's driver what this store does anyway are ignored. `:memory:` is a store that vanishes.
pub async fn open(
    connection_string: &str,
    options: &SqliteOptions,
) -> Result<Arc<dyn DataStore>, StoreError> {
    Ok(Arc::new(
        SqliteStore::open(connection_string, options).await?,
    ))
}

impl SqliteStore {
    /// Opens a store; see [`open`].
    pub async fn open(
        connection_string: &str,
        options: &SqliteOptions,
    ) -> Result<Self, StoreError> {
        let location = Location::parse(connection_string)?;
        location.create_file()?;
        let connect = location.connect_options(options);
        let pool = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .acquire_timeout(ACQUIRE_TIMEOUT);
        let writer = pool
            .clone()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(connect.clone())
            .await
            .map_err(|error| location.open_error(error))?;
        schema::migrate(&writer, &location, options.disable_migration).await?;
        let readers = if location.is_memory() {
            writer.clone() // another connection would see another database
        } else {
            pool.max_connections(options.max_open_conns.max(1))
                .idle_timeout(IDLE_TIMEOUT)
                .connect_with(connect)
                .await
                .map_err(|error| location.open_error(error))?
        };
        let mut connection = writer.acquire().await.map_err(db("open database"))?;
        let revision = changes::latest(&mut connection).await?;
        drop(connection);
        Ok(Self {
            writer,
            readers,
            changed: watch::Sender::new(revision),
        })
    }

    /// Begins a transaction that may write, from the start: one that reads first and then wants to write fails when
    /// another came between.
    async fn write(&self) -> Result<Write, StoreError> {
        let transaction = self
            .writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(db("begin transaction"))?;
        Ok(Write {
            transaction,
            changed: self.changed.clone(),
            changes: Vec::new(),
        })
    }

    /// Begins a transaction that sees one state throughout.
    async fn read(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.readers.begin().await.map_err(db("begin transaction"))
    }
}

/// A transaction and what it has changed so far. Dropped without [`commit`](Self::commit), it never happened.
#[derive(Debug)]
struct Write {
    transaction: Transaction<'static, Sqlite>,
    changed: watch::Sender<Revision>,
    changes: Vec<(ChangeKind, String)>,
}

/// What kind of thing a change record names; the numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChangeKind {
    Entry = 1,
    Agent = 2,
    Bundle = 3,
}

impl Write {
    fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }

    fn record(&mut self, kind: ChangeKind, subject: impl Into<String>) {
        self.changes.push((kind, subject.into()));
    }

    /// Appends what was recorded under the next revision, commits, and wakes those who wait. Without a change, the revision
    /// stays.
    async fn commit(mut self) -> Result<Revision, StoreError> {
        let revision = if self.changes.is_empty() {
            changes::latest(&mut self.transaction).await?
        } else {
            let changes = std::mem::take(&mut self.changes);
            changes::append(&mut self.transaction, &changes).await?
        };
        self.transaction
            .commit()
            .await
            .map_err(db("commit transaction"))?;
        self.changed.send_if_modified(|known| {
            let newer = *known < revision;
            *known = revision.max(*known);
            newer
        });
        Ok(revision)
    }
}

/// How long an operation waits for a connection: a database that is this busy is not available.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a reading connection is kept without use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many rows go into one statement: the widest has 22 columns, and SQLite takes 32,766 values.
const ROWS_PER_STATEMENT: usize = 500;
