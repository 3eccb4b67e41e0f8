use std::os::unix::net::UnixStream;

use async_trait::async_trait;
use finial_plugin::workload::Peer;

use super::*;

#[derive(Debug)]
enum Fake {
    Finds(&'static str),
    FindsNothing,
    Fails,
    Hangs,
}

#[async_trait]
impl WorkloadAttestor for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn attest(&self, _: &Workload) -> Result<Vec<Selector>, AttestError> {
        match self {
            Self::Finds(value) => Ok(vec![Selector::new("fake", value).unwrap()]),
            Self::FindsNothing => Ok(Vec::new()),
            Self::Fails => Err(AttestError::unavailable("engine is down")),
            Self::Hangs => std::future::pending().await,
        }
    }
}

fn attestors(fakes: Vec<Fake>) -> Attestors {
    Attestors::new(fakes.into_iter().map(|fake| Arc::new(fake) as _).collect())
}

fn myself() -> Caller {
    let (socket, _other) = UnixStream::pair().unwrap();
    Caller::new(Peer::capture(&socket))
}

#[tokio::test]
async fn selectors_of_all_attestors_are_put_together() {
    let outcome = attestors(vec![Fake::Finds("b"), Fake::FindsNothing, Fake::Finds("a")])
        .attest_caller(&myself())
        .await
        .unwrap();

    assert_eq!(outcome.selectors.to_string(), "fake:a,fake:b");
    assert!(outcome.failures.is_empty());
}

#[tokio::test]
async fn one_failing_attestor_costs_its_own_selectors_only() {
    let outcome = attestors(vec![Fake::Fails, Fake::Finds("a")])
        .attest_caller(&myself())
        .await
        .unwrap();

    assert_eq!(outcome.selectors.to_string(), "fake:a");
    assert_eq!(
        chain(&outcome.failures[0]).to_string(),
        "workload attestor \"fake\" failed: engine is down"
    );
}

#[tokio::test]
async fn attestation_fails_when_all_attestors_do() {
    let error = attestors(vec![Fake::Fails, Fake::Fails])
        .attest_caller(&myself())
        .await
        .unwrap_err();

    assert!(matches!(error, AttestWorkloadError::AllFailed { failures } if failures.len() == 2));
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_hangs_is_given_up_at_the_deadline() {
    let outcome = attestors(vec![Fake::Hangs, Fake::Finds("a")])
        .attest_caller(&myself())
        .await
        .unwrap();

    assert_eq!(outcome.selectors.to_string(), "fake:a");
    assert!(matches!(
        outcome.failures[0].error,
        AttestorError::TimedOut { deadline: DEADLINE }
    ));
}

#[tokio::test]
async fn a_caller_nobody_can_see_is_told_the_cure() {
    let caller = Caller::new(Err(CaptureError::ForeignPidNamespace { uid: 7 }));

    let error = attestors(vec![Fake::Finds("a")])
        .attest_caller(&caller)
        .await
        .unwrap_err();

    let AttestWorkloadError::UnknownCaller {
        reason,
        needs_host_pid_namespace: true,
    } = error
    else {
        panic!("{error}")
    };
    assert!(reason.contains("pid: host"), "{reason}");
}
