use finial_runtime::log::chain;

use super::*;
use crate::attestation::bootstrap::Format;

const LAB: &str = r#"
agent {
    data_dir = "./.data"
    log_level = "DEBUG"
    server_address = "127.0.0.1"
    server_port = "8081"
    socket_path ="/tmp/spire-agent/public/api.sock"
    trust_bundle_path = "./conf/agent/dummy_root_ca.crt"
    trust_domain = "example.org"
}

plugins {
    NodeAttestor "join_token" {
        plugin_data {
        }
    }
    KeyManager "disk" {
        plugin_data {
            directory = "./.data"
        }
    }
    WorkloadAttestor "unix" {
        plugin_data {
        }
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
    let file = ConfigFile::parse("agent.conf".as_ref(), text).unwrap();
    Config::resolve(&file, environment, flags)
}

fn error(text: &str) -> String {
    chain(&load(text).unwrap_err()).to_string()
}

/// The lab's file with lines added to its `agent` section.
fn lab_with(lines: &str) -> String {
    LAB.replacen("agent {", &format!("agent {{\n{lines}"), 1)
}

#[test]
fn a_file_written_for_spire_loads_unchanged() {
    let config = load(LAB).unwrap();
    assert_eq!(config.trust_domain.as_str(), "example.org");
    assert_eq!(config.server_address, "127.0.0.1");
    assert_eq!(config.server_port, 8081);
    assert_eq!(config.sync_interval, Duration::from_secs(5));
    assert_eq!(
        config.bootstrap,
        Source::File {
            path: "./conf/agent/dummy_root_ca.crt".into(),
            format: Format::Pem
        }
    );
    assert_eq!(config.x509_svid_cache_max_size, 1000);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn a_token_given_as_a_flag_wins_and_is_never_printed() {
    let flags = Flags {
        join_token: Some(JoinToken::new("secret")),
        ..Flags::default()
    };
    let environment = [("FINIAL_AGENT_JOIN_TOKEN".into(), "older".into())];
    let config = load_with(&lab_with("join_token = \"old\""), &environment, &flags).unwrap();
    assert_eq!(config.join_token.as_ref().unwrap().reveal(), "secret");
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn variables_of_the_environment_win_over_the_file() {
    let environment = [
        ("FINIAL_AGENT_SERVER_PORT".into(), "8443".into()),
        ("FINIAL_AGENT_SERVER_ADDRESS".into(), "spire.example".into()),
    ];
    let config = load_with(LAB, &environment, &Flags::default()).unwrap();
    assert_eq!(config.server_address, "spire.example");
    assert_eq!(config.server_port, 8443);
}

#[test]
fn a_misspelt_required_key_is_named_rather_than_missed() {
    assert_eq!(
        error(&LAB.replace("trust_domain", "trust_domian")),
        "unknown configuration detected: line 9: unknown key \"trust_domian\" in agent; did you mean \"trust_domain\"?"
    );
}

#[test]
fn settings_that_exclude_each_other_are_refused_in_spires_words() {
    for (line, message) in [
        (
            "insecure_bootstrap = true",
            "only one of insecure_bootstrap or trust_bundle_path can be specified, not both",
        ),
        (
            "trust_bundle_url = \"https://x\"",
            "only one of trust_bundle_url or trust_bundle_path can be specified, not both",
        ),
        (
            "join_token = \"a\"\njoin_token_file = \"b\"",
            "only one of join_token or join_token_file can be specified, not both",
        ),
        (
            "trust_bundle_format = \"der\"",
            "invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\"",
        ),
        (
            "trust_bundle_unix_socket = \"/s\"",
            "if trust_bundle_unix_socket is specified, so must be trust_bundle_url",
        ),
        (
            "rebootstrap_mode = \"often\"",
            "unknown rebootstrap mode specified: often",
        ),
        (
            "availability_target = \"1h\"",
            "availability_target must be at least 24h0m0s",
        ),
        (
            "workload_x509_svid_key_type = \"rsa-4096\"",
            "key type \"rsa-4096\" is unknown; must be one of [rsa-2048, ec-p256, ec-p384]",
        ),
        (
            "x509_svid_cache_max_size = -1",
            "x509_svid_cache_max_size should not be negative",
        ),
        (
            "experimental { named_pipe_name = \"p\" }",
            "invalid configuration: named_pipe_name is not supported in this platform; please use socket_path instead",
        ),
    ] {
        assert_eq!(error(&lab_with(line)), message);
    }
}

#[test]
fn an_agent_needs_somewhere_to_take_its_first_trust_from() {
    let text = LAB.replace("trust_bundle_path", "# ");
    assert_eq!(
        error(&text),
        "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless insecure_bootstrap is set"
    );
}

#[test]
fn missing_plugins_are_found_before_anything_runs() {
    let text = LAB.replace(
        "WorkloadAttestor \"unix\" {",
        "WorkloadAttestor \"unix\" { enabled = false",
    );
    assert_eq!(
        error(&text),
        "plugin type \"WorkloadAttestor\" constraint not satisfied: expected at least 1 but got 0"
    );
}

#[test]
fn what_is_not_built_yet_is_said_at_once_and_with_its_line() {
    let text = lab_with("profiling_enabled = true\nexperimental {\n broker {}\n}");
    assert_eq!(
        error(&text),
        "agent.profiling_enabled (line 3) is not supported yet; \
         agent.experimental.broker (line 5) is not supported yet"
    );
}

#[test]
fn an_empty_token_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let text = lab_with(&format!("join_token_file = \"{}\"", path.display()));
    assert!(error(&text).starts_with("unable to read join token file"));
    std::fs::write(&path, " \n").unwrap();
    assert_eq!(error(&text), "join token file is empty");
    std::fs::write(&path, " t\n").unwrap();
    assert_eq!(load(&text).unwrap().join_token, Some(JoinToken::new("t")));
}

#[test]
fn the_admin_socket_lies_outside_of_the_public_directory() {
    let refused = "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API socket";
    let with =
        |path: &str, lines: &str| lab_with(&format!("admin_socket_path = \"{path}\"\n{lines}"));
    for path in [
        "/tmp/spire-agent/public/admin.sock",
        "/tmp/spire-agent/public/private/admin.sock",
    ] {
        assert_eq!(error(&with(path, "")), refused);
        assert!(load(&with(path, "disable_workload_api = true")).is_ok());
    }
    let path = "/tmp/spire-agent/publicity/admin.sock";
    let config = load(&with(path, "")).unwrap();
    assert_eq!(config.admin_socket_path.as_deref(), Some(Path::new(path)));
    assert_eq!(load(&with("", "")).unwrap().admin_socket_path, None);
}
