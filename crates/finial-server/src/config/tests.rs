use finial_runtime::log::{Level, chain};

use super::*;

const LAB: &str = r#"
server {
    bind_address = "127.0.0.1"
    bind_port = "8081"
    socket_path = "/tmp/spire-server/private/api.sock"
    trust_domain = "example.org"
    data_dir = "./.data"
    log_level = "DEBUG"
}

plugins {
    DataStore "sql" {
        plugin_data {
            database_type = "sqlite3"
            connection_string = "./.data/datastore.sqlite3"
        }
    }

    NodeAttestor "join_token" {
        plugin_data {
        }
    }

    KeyManager "memory" {
        plugin_data = {}
    }
}
"#;

fn load(text: &str) -> Result<Config, ConfigError> {
    load_with(text, &[], &Flags::default())
}

fn load_with(
    text: &str,
    environment: &[(String, String)],
    flags: &Flags,
) -> Result<Config, ConfigError> {
    let file = ConfigFile::parse("server.conf".as_ref(), text).unwrap();
    Config::resolve(&file, environment, flags)
}

fn error(text: &str) -> String {
    chain(&load(text).unwrap_err()).to_string()
}

/// The lab's file with lines added to its `server` section.
fn lab_with(lines: &str) -> String {
    LAB.replacen("server {", &format!("server {{\n{lines}"), 1)
}

#[test]
fn a_file_written_for_spire_loads_unchanged() {
    let config = load(LAB).unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!(config.bind_address.to_string(), "127.0.0.1:8081");
    assert_eq!(config.log.level, Level::Debug);
    assert_eq!(config.ca_ttl, Duration::from_hours(24));
    assert_eq!(config.default_x509_svid_ttl, Duration::from_hours(1));
    assert_eq!(config.ca_key_type, KeyKind::EcP256);
    assert_eq!(config.agent_ttl, None);
    assert_eq!(
        config.datastore.connection_string,
        "./.data/datastore.sqlite3"
    );
    let plugins: Vec<_> = config
        .plugins
        .iter()
        .map(|plugin| format!("{} {}", plugin.kind, plugin.name))
        .collect();
    assert_eq!(plugins, ["NodeAttestor join_token", "KeyManager memory"]);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn flags_win_over_the_environment_and_the_file_unless_they_are_empty() {
    let environment = [
        ("FINIAL_SERVER_TRUST_DOMAIN".into(), "env.org".into()),
        ("FINIAL_SERVER_DATA_DIR".into(), "/env".into()),
    ];
    let flags = Flags {
        trust_domain: Some("other.org".into()),
        server_port: Some(0),
        log_level: Some(String::new()),
        ..Flags::default()
    };
    let config = load_with(LAB, &environment, &flags).unwrap();
    assert_eq!(config.trust_domain.as_str(), "other.org");
    assert_eq!(config.data_dir, Path::new("/env"));
    assert_eq!(config.bind_address.port(), 8081);
    assert_eq!(config.log.level, Level::Debug);
}

#[test]
fn required_settings_are_missed_in_spires_order() {
    for (text, message) in [
        ("", "server section must be configured"),
        ("server {}", "trust_domain must be configured"),
        (
            "server { trust_domain = \"a\" }",
            "data_dir must be configured",
        ),
        (
            "server { trust_domain = \"a\" data_dir = \"d\" }",
            "plugins section must be configured",
        ),
        (
            "server { trust_domain = \"a\" data_dir = \"d\" } plugins {}",
            "expecting a DataStore plugin",
        ),
    ] {
        assert_eq!(error(text), message);
    }
}

#[test]
fn bad_values_are_refused_in_spires_words() {
    for (line, message) in [
        (
            "agent_ttl = \"1d\"",
            r#"could not parse agent ttl "1d": time: unknown unit "d" in duration "1d""#,
        ),
        (
            "ca_key_type = \"rsa-1024\"",
            r#"error parsing ca_key_type: key type "rsa-1024" is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]"#,
        ),
        (
            "log_format = \"xml\"",
            r#"could not start logger: unknown logger format: "xml""#,
        ),
        (
            "bind_port = \"x\"",
            "unable to decode configuration: At 3:13: server.bind_port: expected a whole number, found the string \"x\"",
        ),
    ] {
        let text = lab_with(line).replace("bind_port = \"8081\"", "");
        assert_eq!(error(&text), message);
    }
}

#[test]
fn every_unknown_key_is_named_with_its_line() {
    let text = lab_with("  trustdomain = \"x\"\n  ca_tll = \"1h\"");
    assert_eq!(
        error(&text),
        "unknown configuration detected\n  \
         line 3: unknown key \"trustdomain\" in server; did you mean \"trust_domain\"?\n  \
         line 4: unknown key \"ca_tll\" in server; did you mean \"ca_ttl\"?"
    );
}

#[test]
fn a_misspelt_required_key_is_named_rather_than_missed() {
    assert_eq!(
        error(&LAB.replace("trust_domain", "trust_domian")),
        "unknown configuration detected: line 6: unknown key \"trust_domian\" in server; did you mean \"trust_domain\"?"
    );
    assert_eq!(
        error(&LAB.replace("plugins {", "plugns {")),
        "unknown configuration detected: line 11: unknown key \"plugns\" at the top of the file; did you mean \"plugins\"?"
    );
}

#[test]
fn an_unknown_experimental_key_is_only_a_warning_as_in_spire() {
    let config = load(&lab_with("experimental { gone = 1 }")).unwrap();
    assert_eq!(
        config.warnings,
        ["Unknown configuration ignored: line 3: unknown key \"gone\" in server.experimental"]
    );
}

#[test]
fn what_is_not_built_yet_is_said_at_once_and_with_its_line() {
    let text = lab_with("jwt_issuer = \"i\"\nfederation {\n bundle_endpoint { port = 1 }\n}")
        + "telemetry { Prometheus { port = 9988 } }";
    assert_eq!(
        error(&text),
        "server.federation.bundle_endpoint (line 5) is not supported yet; \
         server.jwt_issuer (line 3) is not supported yet; \
         telemetry.Prometheus (line 32) is not supported yet"
    );
}

#[test]
fn a_lifetime_its_authority_cannot_cover_is_warned_about() {
    let config = load(&lab_with("default_x509_svid_ttl = \"12h\"")).unwrap();
    assert_eq!(
        config.warnings,
        [
            "default_x509_svid_ttl of 12h0m0s is too high for the configured ca_ttl of 24h0m0s: SVIDs may end \
             sooner than expected; lower default_x509_svid_ttl to at most 4h0m0s or raise ca_ttl to at least 72h0m0s"
        ]
    );
}

#[test]
fn other_databases_and_plugins_are_refused_before_anything_runs() {
    let text = LAB.replace("sqlite3\"\n", "postgres\"\n");
    assert!(error(&text).contains("database_type \"postgres\""));
    let text = LAB.replace("KeyManager \"memory\"", "KeyManager2 \"memory\"");
    assert!(error(&text).starts_with("unsupported plugin type \"KeyManager2\""));
    let text = LAB.replace(
        "KeyManager \"memory\" {",
        "KeyManager \"memory\" {\n enabled = false",
    );
    assert_eq!(
        error(&text),
        "plugin type \"KeyManager\" constraint not satisfied: expected exactly 1 but got 0"
    );
}
