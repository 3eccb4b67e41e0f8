//! A text is refused with its place, or it reads the same by the strict decoder and through the layers.
#![no_main]

use std::path::Path;

use finial_runtime::config::{ConfigFile, Overrides, Settings, duration, expand_env, read, whole_number};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    server: Option<Server>,
    #[serde(rename = "plugins")]
    _plugins: Option<IgnoredAny>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Server {
    trust_domain: Option<String>,
    #[serde(deserialize_with = "whole_number")]
    bind_port: Option<i64>,
    audit_log_enabled: bool,
    signing: Option<bool>,
    admin_ids: Vec<String>,
    ca_subject: Option<Subject>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Subject {
    country: Vec<String>,
    common_name: String,
}

fuzz_target!(|text: &str| {
    drop(expand_env(text, |name| Some(name.to_owned())));
    if let Ok(duration) = duration::parse(text) {
        assert_eq!(duration::parse(&duration::format(duration)), Ok(duration));
    }
    let Ok(file) = ConfigFile::parse(Path::new("server.conf"), text) else {
        return;
    };
    let layers = Overrides::new("server", &[]);
    if let Ok(Settings { file, section, .. }) = read::<File, Server>(&file, &layers, &["server"]) {
        assert_eq!(section, file.server.unwrap_or_default());
    }
});
