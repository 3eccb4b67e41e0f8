//! Addresses of the Workload API (SPIFFE Workload Endpoint §4).
#![expect(clippy::unwrap_used, reason = "test support")]

use finial_client::endpoint::{EndpointError, WorkloadEndpoint};

fn refusal(text: &str) -> EndpointError {
    WorkloadEndpoint::parse(text).unwrap_err()
}

// EP-6
#[test]
fn a_unix_address_is_an_absolute_path_and_nothing_else() {
    for text in ["unix:/run/agent.sock", "unix:///run/agent.sock"] {
        assert_eq!(
            WorkloadEndpoint::parse(text).unwrap(),
            WorkloadEndpoint::Unix("/run/agent.sock".into())
        );
    }
    assert_eq!(
        refusal("unix://host/run/agent.sock"),
        EndpointError::UnixAuthority
    );
    for text in ["unix:", "unix:agent.sock", "unix:/"] {
        assert_eq!(refusal(text), EndpointError::UnixPath, "{text}");
    }
    assert_eq!(
        refusal("unix:/run/agent.sock?x"),
        EndpointError::QueryOrFragment
    );
    assert_eq!(
        refusal("unix:/run/agent.sock#x"),
        EndpointError::QueryOrFragment
    );
}

// EP-6
#[test]
fn a_tcp_address_is_an_ip_address_and_a_port_and_nothing_else() {
    for text in ["tcp://127.0.0.1:8000", "tcp://[::1]:8000"] {
        assert_eq!(WorkloadEndpoint::parse(text).unwrap().to_string(), text);
    }
    for text in [
        "tcp://localhost:8000",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:8000/",
        "tcp://u@127.0.0.1:8000",
        "tcp://",
    ] {
        assert_eq!(refusal(text), EndpointError::TcpAddress, "{text}");
    }
    assert_eq!(
        refusal("tcp://127.0.0.1:8000?x"),
        EndpointError::QueryOrFragment
    );
}

#[test]
fn other_schemes_are_refused() {
    for text in [
        "",
        "/run/agent.sock",
        "http://127.0.0.1:1",
        "tcp:127.0.0.1:1",
        "unix",
    ] {
        assert_eq!(refusal(text), EndpointError::Scheme, "{text}");
    }
}
