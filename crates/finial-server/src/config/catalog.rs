//! The `plugins` section of a server: one data store, one key manager, node attestors.

use finial_runtime::config::sections::{Unsupported, given, parse_duration};
use finial_runtime::config::{ConfigError, PluginConfig, PluginKinds};

use super::DataStoreConfig;
use super::file::{DatabaseType, SqlSection};

const KINDS: PluginKinds = PluginKinds {
    one: &["KeyManager"],
    any: &["NodeAttestor"],
    later: &[
        "UpstreamAuthority",
        "BundlePublisher",
        "Notifier",
        "CredentialComposer",
    ],
};

/// Takes the data store out of the plugins and checks how many of each type there are.
pub(super) fn split_plugins(
    plugins: Vec<PluginConfig>,
    unsupported: &mut Unsupported<'_>,
) -> Result<(DataStoreConfig, Vec<PluginConfig>), ConfigError> {
    let mut rest: Vec<_> = plugins
        .into_iter()
        .filter(|plugin| plugin.enabled)
        .collect();
    let stores: Vec<_> = rest
        .extract_if(.., |plugin| plugin.kind == "DataStore")
        .collect();
    let store = match stores.as_slice() {
        [store] => store,
        [] => return Err(ConfigError::rule("expecting a DataStore plugin")),
        _ => return Err(ConfigError::rule("only one DataStore plugin is allowed")),
    };
    if store.name != "sql" || store.plugin_cmd.is_some() {
        return Err(ConfigError::rule(
            "pluggability for the DataStore is deprecated; only the built-in \"sql\" plugin is supported",
        ));
    }
    KINDS.check(&rest, unsupported)?;
    Ok((resolve_store(store, unsupported)?, rest))
}

fn resolve_store(
    store: &PluginConfig,
    unsupported: &mut Unsupported<'_>,
) -> Result<DataStoreConfig, ConfigError> {
    let sql: SqlSection = store
        .decode()
        .map_err(|source| ConfigError::Decode { source })?;
    let database_type = match &sql.database_type {
        Some(DatabaseType::Name(name)) => name.as_str(),
        Some(DatabaseType::Block(names)) => names.keys().next().map_or("", String::as_str),
        None => "",
    };
    match database_type {
        "" => return Err(ConfigError::rule("datastore-sql: database_type must be set")),
        "sqlite3" => {}
        "postgres" | "mysql" | "aws_postgres" | "aws_mysql" => unsupported.note(format!(
            "database_type {database_type:?} of plugin DataStore \"sql\" (line {}) is not supported yet; use \"sqlite3\"",
            store.line
        )),
        _ => {
            return Err(ConfigError::rule(format!(
                "datastore-sql: unsupported database_type: {database_type}"
            )));
        }
    }
    if let Some(lifetime) = given(sql.conn_max_lifetime.as_ref()) {
        parse_duration("conn_max_lifetime", lifetime)?;
    }
    // SQLite reads from the file it writes, and has no TLS.
    for (value, key) in [
        (&sql.root_ca_path, "root_ca_path"),
        (&sql.client_cert_path, "client_cert_path"),
        (&sql.client_key_path, "client_key_path"),
    ] {
        if given(value.as_ref()).is_some() && database_type == "sqlite3" {
            return Err(ConfigError::rule(format!(
                "datastore-sql: {key} has no meaning for database_type \"sqlite3\""
            )));
        }
    }
    let connection_string = given(sql.connection_string.as_ref())
        .ok_or_else(|| ConfigError::rule("datastore-sql: connection_string must be set"))?;
    Ok(DataStoreConfig {
        connection_string: connection_string.to_owned(),
        max_open_conns: sql.max_open_conns.filter(|count| *count > 0),
        disable_migration: sql.disable_migration,
        log_sql: sql.log_sql,
    })
}
