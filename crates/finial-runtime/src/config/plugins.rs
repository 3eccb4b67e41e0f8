//! The `plugins` section: which plugins, in which order, with which settings.

use crate::fs::{OpenError, read_text};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use thiserror::Error;

use super::hcl::{self, HclError, Item, Position, Table, UnknownKey, Value};
use super::sections::{ConfigError, Unsupported};

/// One plugin as the file declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginConfig {
    /// The plugin type, such as `KeyManager`.
    pub kind: String,
    /// The plugin name, such as `disk`.
    pub name: String,
    /// The program of an external plugin.
    pub plugin_cmd: Option<String>,
    /// Arguments of that program.
    pub plugin_args: Vec<String>,
    /// The SHA-256 that the program must have.
    pub plugin_checksum: Option<String>,
    /// The settings of the plugin; empty when the file gives none.
    pub plugin_data: Table,
    /// Whether the plugin is used at all.
    pub enabled: bool,
    /// The line of the declaration.
    pub line: u32,
}

impl PluginConfig {
    /// Creates the configuration of a built-in plugin, as if it were declared without a file.
    pub fn built_in(kind: &str, name: &str, plugin_data: Table) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            plugin_cmd: None,
            plugin_args: Vec::new(),
            plugin_checksum: None,
            plugin_data,
            enabled: true,
            line: 0,
        }
    }

    /// Logs that the plugin is in use, in SPIRE's words.
    pub fn log_loaded(&self) {
        let subsystem_name = "catalog";
        tracing::info!(
            subsystem_name,
            external = false,
            plugin_name = self.name,
            plugin_type = self.kind,
            reconfigurable = false,
            "Configured plugin"
        );
        tracing::info!(
            subsystem_name,
            external = false,
            plugin_name = self.name,
            plugin_type = self.kind,
            "Plugin loaded"
        );
    }

    /// Reads the settings into `T`. Settings that `T` does not have are logged and ignored, as SPIRE ignores them.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, HclError> {
        let (settings, unknown) = self.decode_strict()?;
        for key in unknown {
            tracing::warn!(
                plugin_type = self.kind,
                plugin_name = self.name,
                line = key.position.line,
                key = key.key,
                nearest = key.nearest,
                "Unknown plugin setting is ignored"
            );
        }
        Ok(settings)
    }

    /// Reads the settings into `T` and returns the ones that `T` does not have.
    pub fn decode_strict<T: DeserializeOwned>(&self) -> Result<(T, Vec<UnknownKey>), HclError> {
        let section = format!("plugins.{} {:?}", self.kind, self.name);
        hcl::decode(&self.plugin_data, &section)
    }
}

/// The plugin types of a program.
#[derive(Clone, Copy, Debug)]
pub struct PluginKinds {
    /// Types of which there must be exactly one.
    pub one: &'static [&'static str],
    /// Types of which there may be any number.
    pub any: &'static [&'static str],
    /// Types that SPIRE has and finial does not support yet.
    pub later: &'static [&'static str],
}

impl PluginKinds {
    /// Checks types, sources and numbers of the enabled plugins.
    pub fn check(
        self,
        plugins: &[PluginConfig],
        unsupported: &mut Unsupported<'_>,
    ) -> Result<(), ConfigError> {
        for PluginConfig {
            kind,
            name,
            line,
            plugin_cmd,
            ..
        } in plugins
        {
            if self.later.contains(&kind.as_str()) {
                unsupported.note(format!(
                    "plugin {kind} {name:?} (line {line}) is not supported yet"
                ));
                continue;
            }
            if !self.one.contains(&kind.as_str()) && !self.any.contains(&kind.as_str()) {
                return Err(ConfigError::rule(format!(
                    "unsupported plugin type {kind:?} (line {line})"
                )));
            }
            if plugin_cmd.is_none() {
                continue;
            }
            if kind == "NodeAttestor" && name == "join_token" {
                return Err(ConfigError::rule(
                    "the built-in join_token node attestor cannot be overridden by an external plugin",
                ));
            }
            unsupported.note(format!(
                "plugin_cmd of plugin {kind} {name:?} (line {line}) is not supported yet"
            ));
        }
        for kind in self.one {
            let count = plugins.iter().filter(|plugin| plugin.kind == *kind).count();
            if count != 1 {
                return Err(ConfigError::rule(format!(
                    "plugin type {kind:?} constraint not satisfied: expected exactly 1 but got {count}"
                )));
            }
        }
        Ok(())
    }
}

/// Why the `plugins` section is not valid.
#[derive(Debug, Error)]
pub enum PluginsError {
    /// A declaration is not of the form `Type "name" { … }`.
    #[error("line {line}: plugins are declared as <Type> \"<name>\" {{ … }}; {key:?} is not")]
    Shape {
        /// Where.
        line: u32,
        /// The key that is out of place.
        key: String,
    },
    /// A type and name occur twice.
    #[error("plugin {kind:?}/{name:?} declared more than once")]
    Duplicate {
        /// The type.
        kind: String,
        /// The name.
        name: String,
    },
    /// Both ways of giving settings are used.
    #[error(
        "failed to configure plugin {name:?} of type {kind:?} at line {line}: only one of [plugin_data, plugin_data_file] can be used"
    )]
    DataTwice {
        /// The type.
        kind: String,
        /// The name.
        name: String,
        /// Where.
        line: u32,
    },
    /// The file with the settings could not be read.
    #[error(
        "failed to configure plugin {name:?} of type {kind:?}: failed to read plugin configuration"
    )]
    DataFile {
        /// The type.
        kind: String,
        /// The name.
        name: String,
        /// The cause, which names the file.
        source: OpenError,
    },
    /// A value is not what it should be.
    #[error("invalid configuration of plugin {name:?} of type {kind:?}")]
    Decode {
        /// The type.
        kind: String,
        /// The name.
        name: String,
        /// The cause.
        source: HclError,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Declaration {
    plugin_cmd: Option<String>,
    plugin_args: Vec<String>,
    plugin_checksum: Option<String>,
    plugin_data: Option<IgnoredAny>,
    plugin_data_file: Option<String>,
    enabled: Option<bool>,
}

/// Reads the plugins that `file` declares, in file order. `None` when there is no `plugins` section.
///
/// Settings given by `plugin_data_file` are read here, once. Unknown keys of the declarations are appended to `unknown`.
pub fn plugins(
    file: &Table,
    unknown: &mut Vec<UnknownKey>,
) -> Result<Option<Vec<PluginConfig>>, PluginsError> {
    let mut found = None;
    for section in file.find_all("plugins") {
        let plugins: &mut Vec<PluginConfig> = found.get_or_insert_default();
        for kind in &table(section)?.items {
            for declaration in &table(kind)?.items {
                let plugin = plugin(&kind.key, declaration, unknown)?;
                if plugins
                    .iter()
                    .any(|known| known.kind == plugin.kind && known.name == plugin.name)
                {
                    return Err(PluginsError::Duplicate {
                        kind: plugin.kind,
                        name: plugin.name,
                    });
                }
                plugins.push(plugin);
            }
        }
    }
    Ok(found)
}

fn table(item: &Item) -> Result<&Table, PluginsError> {
    match &item.node.value {
        Value::Table(table) => Ok(table),
        _ => Err(PluginsError::Shape {
            line: item.position.line,
            key: item.key.clone(),
        }),
    }
}

fn plugin(
    kind: &str,
    item: &Item,
    unknown: &mut Vec<UnknownKey>,
) -> Result<PluginConfig, PluginsError> {
    let name = item.key.clone();
    let decode_error = |source| PluginsError::Decode {
        kind: kind.to_owned(),
        name: name.clone(),
        source,
    };
    let body = table(item)?;
    let section = format!("plugins.{kind} {name:?}");
    let (declaration, keys): (Declaration, _) =
        hcl::decode(body, &section).map_err(decode_error)?;
    unknown.extend(keys);
    let plugin_data = match declaration.plugin_data_file.filter(|path| !path.is_empty()) {
        Some(_) if declaration.plugin_data.is_some() => {
            return Err(PluginsError::DataTwice {
                kind: kind.to_owned(),
                name,
                line: item.position.line,
            });
        }
        Some(path) => {
            let text = read_text(&path).map_err(|source| PluginsError::DataFile {
                kind: kind.to_owned(),
                name: name.clone(),
                source,
            })?;
            hcl::parse(&text).map_err(decode_error)?
        }
        None => {
            let mut data = Table::default();
            for given in body.find_all("plugin_data") {
                data.items.extend(table(given)?.items.iter().cloned());
            }
            data
        }
    };
    let Position { line, .. } = item.position;
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    Ok(PluginConfig {
        kind: kind.to_owned(),
        name,
        plugin_cmd: given(declaration.plugin_cmd),
        plugin_args: declaration.plugin_args,
        plugin_checksum: given(declaration.plugin_checksum),
        plugin_data,
        enabled: declaration.enabled.unwrap_or(true),
        line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PluginConfig>, PluginsError> {
        let mut unknown = Vec::new();
        let plugins = plugins(&hcl::parse(text).unwrap(), &mut unknown)?;
        assert_eq!(unknown, []);
        Ok(plugins.unwrap())
    }

    #[derive(Debug, Deserialize)]
    struct Disk {
        keys_path: String,
    }

    #[test]
    fn plugins_keep_their_order_in_both_forms() {
        let hcl = r#"plugins {
            WorkloadAttestor "unix" { plugin_data {} }
            KeyManager "disk" { plugin_data { keys_path = "k" } }
            WorkloadAttestor "docker" { enabled = false }
        }"#;
        let names = |plugins: &[PluginConfig]| -> Vec<String> {
            plugins
                .iter()
                .map(|plugin| format!("{} {} {}", plugin.kind, plugin.name, plugin.enabled))
                .collect()
        };
        let plugins = read(hcl).unwrap();
        assert_eq!(
            names(&plugins),
            [
                "WorkloadAttestor unix true",
                "KeyManager disk true",
                "WorkloadAttestor docker false"
            ]
        );
        assert_eq!(plugins[1].decode::<Disk>().unwrap().keys_path, "k");

        let json = r#"{"plugins": {"KeyManager": [{"disk": {"plugin_data": {"keys_path": "k"}}}],
            "WorkloadAttestor": [{"unix": {}}, {"docker": {"enabled": false}}]}}"#;
        assert_eq!(
            names(&read(json).unwrap()),
            [
                "KeyManager disk true",
                "WorkloadAttestor unix true",
                "WorkloadAttestor docker false"
            ]
        );
    }

    #[test]
    fn a_plugin_is_declared_once() {
        let error = read(r#"plugins { A "b" {} A "b" {} }"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"plugin "A"/"b" declared more than once"#
        );
    }

    #[test]
    fn a_bad_setting_says_where_it_is() {
        let text =
            "plugins {\n KeyManager \"disk\" {\n  plugin_data {\n   keys_path = true\n  }\n }\n}";
        let error = read(text).unwrap()[0].decode::<Disk>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "At 4:16: plugins.KeyManager \"disk\".keys_path: expected a string, found true without quotes"
        );
    }
}
