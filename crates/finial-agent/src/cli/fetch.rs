//! `api fetch x509`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use finial_client::workload;
use finial_proto::json::to_json;
use finial_proto::pb;
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK, Output, print_json};
use finial_runtime::clock::{Clock as _, SystemClock};
use finial_runtime::fs::write_atomic;
use finial_runtime::process;
use spiffe_types::bundle::X509Authority;
use spiffe_types::pem;
use tokio::time::Instant;

use super::client::{self, Agent};
use super::svids::Svids;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const PUBLIC_MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;

/// Flags of `api fetch x509`.
pub(super) fn flags() -> FlagSet {
    client::flags("fetch x509")
        .timeout("timeout", DEFAULT_TIMEOUT, "Time to wait for a response")
        .bool("silent", "Prints nothing but what is written")
        .string(
            "write",
            "",
            "A directory to write the SVIDs to (only with pretty output)",
        )
        .output()
}

/// Flags of `api fetch jwt`.
pub(super) fn jwt_flags() -> FlagSet {
    client::flags("fetch jwt")
        .timeout("timeout", DEFAULT_TIMEOUT, "Time to wait for a response")
        .list("audience", "The audience of the token")
        .string("spiffeID", "", "The SPIFFE ID of the token")
        .output()
}

/// `api fetch jwt`
pub(super) fn jwt(_: &Flags, console: &mut Console) -> Code {
    console.errln("JWT-SVIDs are not supported yet");
    FAILED
}

/// `api fetch x509`
pub(super) fn x509(flags: &Flags, console: &mut Console) -> Code {
    match fetch_and_print(flags, console) {
        Ok(()) => OK,
        Err(error) => {
            console.errln(format_args!("{error:#}"));
            FAILED
        }
    }
}

fn fetch_and_print(flags: &Flags, console: &mut Console) -> anyhow::Result<()> {
    let agent = Agent::find(flags)?;
    let (negative, timeout) = flags.duration("timeout");
    let timeout = if negative { Duration::ZERO } else { timeout };
    let (response, elapsed) = process::block_on(fetch(&agent, timeout))??;
    match Output::of(flags) {
        Output::Json => {
            print_json(console, to_json("X509SVIDResponse", &response)?);
            Ok(())
        }
        Output::Pretty => print(flags, &response, elapsed, SystemClock.now(), console),
    }
}

/// Takes the first answer of the stream. Without a timeout it waits for ever.
async fn fetch(
    agent: &Agent,
    timeout: Duration,
) -> anyhow::Result<(pb::X509svidResponse, Duration)> {
    let start = Instant::now();
    let answer = async {
        let response = workload::client(agent.channel())
            .fetch_x509svid(pb::X509svidRequest {})
            .await
            .map_err(|status| agent.error(&status))?
            .into_inner()
            .message()
            .await
            .map_err(|status| agent.error(&status))?;
        response.context("EOF")
    };
    let response = if timeout.is_zero() {
        answer.await?
    } else {
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer?,
            Err(_) => {
                bail!("rpc error: code = DeadlineExceeded desc = context deadline exceeded")
            }
        }
    };
    Ok((response, start.elapsed()))
}

fn print(
    flags: &Flags,
    response: &pb::X509svidResponse,
    elapsed: Duration,
    now: SystemTime,
    console: &mut Console,
) -> anyhow::Result<()> {
    let svids = Svids::read(response, now)?;
    if !flags.bool("silent") {
        console.out(svids.text(elapsed, true, |id| id));
    }
    match flags.non_empty("write") {
        Some(dir) => write(&svids, Path::new(dir), console),
        None => Ok(()),
    }
}

fn write(svids: &Svids, dir: &Path, console: &mut Console) -> anyhow::Result<()> {
    let pems = |certificates: &[X509Authority]| -> String {
        certificates
            .iter()
            .map(|certificate| pem::encode("CERTIFICATE", certificate.der()))
            .collect()
    };
    let mut write = |what: &str, name: String, content: &str, mode: u32| {
        let path = dir.join(name);
        console.outln(format_args!("Writing {what} to file {}.", path.display()));
        write_atomic(&path, content.as_bytes(), mode).map_err(anyhow::Error::from)
    };
    for (index, svid) in svids.svids.iter().enumerate() {
        write(
            &format!("SVID #{index}"),
            format!("svid.{index}.pem"),
            &pems(&svid.chain),
            PUBLIC_MODE,
        )?;
        write(
            &format!("key #{index}"),
            format!("svid.{index}.key"),
            &pem::encode("PRIVATE KEY", &svid.key_der),
            PRIVATE_MODE,
        )?;
        write(
            &format!("bundle #{index}"),
            format!("bundle.{index}.pem"),
            &pems(&svid.bundle),
            PUBLIC_MODE,
        )?;
        for (number, (id, bundle)) in svids.federated.iter().enumerate() {
            write(
                &format!("federated bundle #{number} for trust domain {id}"),
                format!("federated_bundle.{index}.{number}.pem"),
                &pems(bundle),
                PUBLIC_MODE,
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::cli::svids::tests::sample;

    #[test]
    fn silence_does_not_hide_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().display().to_string();
        let words = ["-silent".to_owned(), "-write".to_owned(), shown.clone()];
        let flags = flags().parse(&words).unwrap();
        let (response, now) = sample();
        let mut console = Console::captured();
        print(&flags, &response, Duration::ZERO, now, &mut console).unwrap();
        assert_eq!(
            console.into_captured().0,
            format!(
                "Writing SVID #0 to file {shown}/svid.0.pem.\n\
                 Writing key #0 to file {shown}/svid.0.key.\n\
                 Writing bundle #0 to file {shown}/bundle.0.pem.\n\
                 Writing federated bundle #0 for trust domain spiffe://other.td to file {shown}/federated_bundle.0.0.pem.\n"
            )
        );
        let mode = |name: &str| dir.path().join(name).metadata().unwrap().mode() & 0o777;
        assert_eq!((mode("svid.0.pem"), mode("svid.0.key")), (0o644, 0o600));
        let key = std::fs::read_to_string(dir.path().join("svid.0.key")).unwrap();
        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    }

    #[test]
    fn without_an_agent_the_error_names_the_socket() {
        let words = ["-socketPath=/nonexistent/api.sock".to_owned()];
        let mut console = Console::captured();
        assert_eq!(x509(&flags().parse(&words).unwrap(), &mut console), FAILED);
        assert_eq!(
            console.into_captured().1,
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: \
             dial unix /nonexistent/api.sock: connect: no such file or directory\"\n"
        );
    }
}
