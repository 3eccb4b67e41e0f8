//! The schema and its history.
//!
//! SQLite keeps two numbers in a file's header: `application_id` says that the file is ours, `user_version` how many of
//! the migrations it has seen. Each migration and its number are one transaction.

use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection};

use super::location::Location;
use super::row::db;
use crate::error::StoreError;

/// Brings the file's schema up to date.
pub(super) async fn migrate(
    pool: &SqlitePool,
    location: &Location,
    disabled: bool,
) -> Result<(), StoreError> {
    let mut transaction = pool
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(db("begin migration"))?;
    let application = pragma(&mut transaction, "PRAGMA application_id").await?;
    let version = pragma(&mut transaction, "PRAGMA user_version").await?;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
            .fetch_all(&mut *transaction)
            .await
            .map_err(db("read schema"))?;
    if application != APPLICATION_ID && !tables.is_empty() {
        return Err(foreign(location, &tables));
    }
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if version > known {
        return Err(misconfigured(format!(
            "database {location} has schema version {version}, newer than this program's {known}: \
             run the program that wrote it, or a later one"
        )));
    }
    if version < known && version > 0 && disabled {
        return Err(misconfigured(format!(
            "database {location} has schema version {version}, older than this program's {known}: \
             auto-migration must be enabled for current DB"
        )));
    }
    for (number, migration) in (1..)
        .zip(MIGRATIONS)
        .skip_while(|(number, _)| *number <= version)
    {
        transaction
            .execute(sqlx::raw_sql(*migration))
            .await
            .map_err(db("migrate schema"))?;
        let mark =
            format!("PRAGMA user_version = {number}; PRAGMA application_id = {APPLICATION_ID}");
        transaction
            .execute(sqlx::raw_sql(AssertSqlSafe(mark)))
            .await
            .map_err(db("migrate schema"))?;
    }
    transaction.commit().await.map_err(db("migrate schema"))
}

async fn pragma(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64, StoreError> {
    sqlx::query_scalar(sql)
        .fetch_one(connection)
        .await
        .map_err(db("read schema"))
}

fn foreign(location: &Location, tables: &[String]) -> StoreError {
    if tables.iter().any(|table| table == "registered_entries") {
        return misconfigured(format!(
            "database {location} was made by SPIRE and is left untouched: finial keeps its own schema; set \
             connection_string to a new file and import what this one holds"
        ));
    }
    misconfigured(format!(
        "database {location} holds another program's tables and is left untouched: set connection_string to a new file"
    ))
}

fn misconfigured(message: String) -> StoreError {
    StoreError::Misconfigured {
        message,
        source: None,
    }
}

/// "FINL".
const APPLICATION_ID: i64 = 0x4649_4e4c;

const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../migrations/sqlite/0002_used_join_tokens.sql"),
];
