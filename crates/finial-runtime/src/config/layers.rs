//! Files, then the environment, then flags: what is given later wins.

use std::fmt;

use config::{Config, Format as _, Map, Source, Value, ValueKind};
use serde::de::DeserializeOwned;

use super::hcl::{self, Item, Node, Position, Table, UnknownKey};
use super::sections::split_unknown;
use super::{ConfigError, ConfigFile, Hcl, PluginConfig, plugins, refuse_unknown};

/// The variables of this process that may stand for settings.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with("FINIAL_")
                .then(|| (name, value.to_string_lossy().into_owned()))
        })
        .collect()
}

/// What stands over one section of the file: variables `FINIAL_<SECTION>_<KEY>`, and flags over those.
///
/// Only scalar keys of the section itself can be given so. What is empty, zero or false counts as not given.
#[derive(Clone)]
pub struct Overrides {
    section: &'static str,
    /// Variables and their values.
    environment: Vec<(String, String)>,
    /// Keys and their values.
    flags: Vec<(&'static str, ValueKind)>,
}

impl fmt::Debug for Overrides {
    /// Shows the names only, as a value may be a join token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables = self.environment.iter().map(|(name, _)| name.as_str());
        let flags = self.flags.iter().map(|(key, _)| *key);
        f.debug_list().entries(variables.chain(flags)).finish()
    }
}

impl Overrides {
    /// Picks the variables of the section.
    pub fn new(section: &'static str, environment: &[(String, String)]) -> Self {
        let prefix = prefix(section);
        Self {
            section,
            environment: environment
                .iter()
                .filter(|(name, value)| name.starts_with(&prefix) && !value.is_empty())
                .cloned()
                .collect(),
            flags: Vec::new(),
        }
    }

    /// Adds a flag with a text.
    #[must_use]
    pub fn text(mut self, key: &'static str, value: Option<&str>) -> Self {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.flags.push((key, value.into()));
        }
        self
    }

    /// Adds a flag with a number.
    #[must_use]
    pub fn number(mut self, key: &'static str, value: Option<i64>) -> Self {
        if let Some(value) = value.filter(|value| *value != 0) {
            self.flags.push((key, value.into()));
        }
        self
    }

    /// Adds a flag without a value.
    #[must_use]
    pub fn switch(mut self, key: &'static str, value: bool) -> Self {
        if value {
            self.flags.push((key, value.into()));
        }
        self
    }

    /// Returns whether nothing stands over the file.
    pub fn is_empty(&self) -> bool {
        self.environment.is_empty() && self.flags.is_empty()
    }

    /// Reads the section with all layers. Also returns warnings about variables that are probably misspelt.
    fn apply<S: DeserializeOwned>(
        &self,
        file: &ConfigFile,
    ) -> Result<(S, Vec<String>), ConfigError> {
        let prefix = prefix(self.section);
        let unknown = hcl::unknown_keys::<S>(&self.environment_table(), self.section);
        let environment = self.environment.iter().filter_map(|(name, value)| {
            let key = key(name, &prefix);
            let known = !unknown.iter().any(|unknown| unknown.key == key);
            known.then(|| (key, name.clone(), value.as_str().into()))
        });
        let flags = self
            .flags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), "a flag".to_owned(), value.clone()));
        let section = Config::builder()
            .add_source(file.clone())
            .add_source(Layer::new(self.section, environment))
            .add_source(Layer::new(self.section, flags))
            .build()
            .and_then(|config| config.get_table(self.section))
            .and_then(|section| Value::from(section).try_deserialize())
            .map_err(|source| ConfigError::Layers { source })?;
        Ok((section, misspelt(&prefix, &unknown)))
    }

    fn environment_table(&self) -> Table {
        let prefix = prefix(self.section);
        let position = Position::default();
        let item = |(name, value): &(String, String)| Item {
            key: key(name, &prefix),
            position,
            node: Node {
                position,
                value: hcl::Value::String(value.clone()),
            },
        };
        Table {
            items: self.environment.iter().map(item).collect(),
        }
    }
}

/// `FINIAL_SERVER_`
fn prefix(section: &str) -> String {
    format!("FINIAL_{}_", section.to_uppercase())
}

/// The key that a variable stands for.
fn key(variable: &str, prefix: &str) -> String {
    variable
        .strip_prefix(prefix)
        .unwrap_or_default()
        .to_lowercase()
}

/// Variables that are far from any key are let pass: Kubernetes sets `FINIAL_SERVER_SERVICE_HOST` and its like in every
/// container beside a service of that name.
fn misspelt(prefix: &str, unknown: &[UnknownKey]) -> Vec<String> {
    unknown
        .iter()
        .filter_map(|unknown| {
            let nearest = unknown.nearest.as_ref()?.to_uppercase();
            let key = unknown.key.to_uppercase();
            Some(format!(
                "Environment variable ignored: there is no setting for {prefix}{key}; did you mean {prefix}{nearest}?"
            ))
        })
        .collect()
}

/// Values for the keys of one section.
#[derive(Clone, Debug)]
struct Layer {
    section: &'static str,
    values: Map<String, Value>,
}

impl Layer {
    /// Takes key, origin and value of each.
    fn new(
        section: &'static str,
        values: impl Iterator<Item = (String, String, ValueKind)>,
    ) -> Self {
        Self {
            section,
            values: values
                .map(|(key, origin, kind)| (key, Value::new(Some(&origin), kind)))
                .collect(),
        }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let section = Value::from(self.values.clone());
        Ok(Map::from_iter([(self.section.to_owned(), section)]))
    }
}

impl Source for ConfigFile {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let uri = self.path.display().to_string();
        Hcl.parse(Some(&uri), &self.text)
            .map_err(config::ConfigError::Foreign)
    }
}

/// A configuration as it was given, before its meaning is checked.
#[derive(Debug)]
pub struct Settings<F, S> {
    /// The file alone.
    pub file: F,
    /// The section that variables and flags stand over.
    pub section: S,
    /// The plugins of the file; `None` when it has no such section.
    pub plugins: Option<Vec<PluginConfig>>,
    /// Unknown keys that SPIRE lets pass, and variables that are probably misspelt.
    pub warnings: Vec<String>,
}

/// Reads a file and what stands over it.
///
/// The file is read by Go's strict rules first, and refused for keys nobody knows, so that what the layers make of it
/// can only fail for what the environment says. `lenient` is described at [`split_unknown`].
pub fn read<F: DeserializeOwned, S: DeserializeOwned>(
    file: &ConfigFile,
    overrides: &Overrides,
    lenient: &[&str],
) -> Result<Settings<F, S>, ConfigError> {
    let (decoded, mut unknown) =
        hcl::decode(&file.table, "").map_err(|source| ConfigError::Decode { source })?;
    let plugins = plugins(&file.table, &mut unknown)?;
    let (unknown, mut warnings) = split_unknown(unknown, lenient);
    refuse_unknown(unknown)?;
    let (section, misspelt) = overrides.apply(file)?;
    warnings.extend(misspelt);
    Ok(Settings {
        file: decoded,
        section,
        plugins,
        warnings,
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::whole_number;
    use crate::log::chain;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct File {
        server: Option<Server>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Server {
        data_dir: Option<String>,
        #[serde(deserialize_with = "whole_number")]
        bind_port: Option<i64>,
        audit_log_enabled: bool,
        ids: Vec<String>,
    }

    fn read_with(
        text: &str,
        environment: &[(&str, &str)],
        flags: impl Fn(Overrides) -> Overrides,
    ) -> Result<Settings<File, Server>, ConfigError> {
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let file = ConfigFile::parse("server.conf".as_ref(), text).unwrap();
        read(&file, &flags(Overrides::new("server", &environment)), &[])
    }

    const FILE: &str = "Server {\n Data_Dir = \"file\"\n bind_port = \"010\"\n ids = [\"a\"]\n}";

    #[test]
    fn flags_stand_over_the_environment_and_that_over_the_file() {
        let environment = [
            ("FINIAL_SERVER_DATA_DIR", "007"),
            ("FINIAL_SERVER_BIND_PORT", "9"),
            ("FINIAL_SERVER_AUDIT_LOG_ENABLED", "true"),
        ];
        let settings = read_with(FILE, &environment, |overrides| {
            overrides
                .number("bind_port", Some(10))
                .text("data_dir", Some(""))
        })
        .unwrap();
        let expected = Server {
            data_dir: Some("007".into()),
            bind_port: Some(10),
            audit_log_enabled: true,
            ids: vec!["a".into()],
        };
        assert_eq!(settings.section, expected);
    }

    #[test]
    fn a_file_alone_means_what_gos_decoder_makes_of_it() {
        let file = FILE.replace("\"file\"", "0x10");
        let settings = read_with(&file, &[("FINIAL_SERVER_DATA_DIR", "")], |none| none).unwrap();
        assert_eq!(settings.section.bind_port, Some(8));
        assert_eq!(settings.section.data_dir.as_deref(), Some("0x10"));
        assert_eq!(settings.file.server, Some(settings.section));
    }

    #[test]
    fn an_empty_file_is_an_empty_section() {
        let settings = read_with("", &[], |none| none).unwrap();
        assert_eq!(settings.section, Server::default());
    }

    #[test]
    fn a_bad_value_of_the_environment_is_told_with_its_key() {
        let error = |name, value| {
            let error = read_with(FILE, &[(name, value)], |none| none).unwrap_err();
            chain(&error).to_string()
        };
        assert_eq!(
            error("FINIAL_SERVER_AUDIT_LOG_ENABLED", "maybe"),
            "unable to apply the environment: invalid type: string \"maybe\", expected a boolean for key \
             `audit_log_enabled` in FINIAL_SERVER_AUDIT_LOG_ENABLED"
        );
        assert_eq!(
            error("FINIAL_SERVER_BIND_PORT", "x"),
            "unable to apply the environment: expected a whole number, found the string \"x\" for key `bind_port`"
        );
    }

    #[test]
    fn a_misspelt_variable_is_named_and_those_of_kubernetes_are_not() {
        let environment = [
            ("FINIAL_SERVER_DATADIR", "x"),
            ("FINIAL_SERVER_SERVICE_HOST", "10.0.0.1"),
            ("FINIAL_SERVER_PORT_8081_TCP", "tcp://10.0.0.1:8081"),
        ];
        let settings = read_with(FILE, &environment, |none| none).unwrap();
        assert_eq!(
            settings.warnings,
            [
                "Environment variable ignored: there is no setting for FINIAL_SERVER_DATADIR; did you mean FINIAL_SERVER_DATA_DIR?"
            ]
        );
        assert_eq!(settings.section.data_dir.as_deref(), Some("file"));
    }

    #[test]
    fn values_are_not_shown() {
        let overrides = Overrides::new(
            "agent",
            &[("FINIAL_AGENT_JOIN_TOKEN".into(), "secret".into())],
        );
        assert!(!format!("{overrides:?}").contains("secret"));
    }
}
