//! `finial dev`: a server, an agent and a first identity in one process, in well under a second.

mod dev;
mod folder;
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use finial_runtime::cli::{self, App, Code, Command, Console, FlagSet, Flags};
use finial_runtime::process;
use spiffe_types::TrustDomain;
use tokio::time::Instant;

/// What is tried when nothing is said.
const TRUST_DOMAIN: &str = "example.org";
/// Short enough to see a rotation while one looks.
const X509_SVID_TTL: i64 = 60;

/// The flags of `dev`, checked.
#[derive(Debug)]
struct Options {
    dir: Option<PathBuf>,
    trust_domain: TrustDomain,
    x509_svid_ttl: i32,
}

fn main() -> ExitCode {
    let app = App {
        name: "finial",
        version: env!("CARGO_PKG_VERSION"),
        commands: &[Command {
            name: "dev",
            synopsis: "Runs a server and an agent, registers the calling user and shows each SVID",
            flags: || {
                FlagSet::new("dev")
                    .string(
                        "dir",
                        "",
                        "Folder for everything; a temporary one that goes at the end when empty",
                    )
                    .string("trustDomain", TRUST_DOMAIN, "The trust domain")
                    .int(
                        "x509SVIDTTL",
                        X509_SVID_TTL,
                        "Lifetime of the SVID in seconds; renewed at half of it",
                    )
            },
            run: run_dev,
        }],
    };
    app.main()
}

fn run_dev(flags: &Flags, console: &mut Console) -> Code {
    let start = Instant::now();
    let outcome = options(flags).and_then(|options| {
        process::run(|shutdown| async move {
            dev::run(&options, start, shutdown).await?;
            Ok(cli::OK)
        })
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            console.errln(format_args!("Error: {error:#}"));
            cli::FAILED
        }
    }
}

fn options(flags: &Flags) -> anyhow::Result<Options> {
    let name = flags.string("trustDomain");
    let trust_domain = TrustDomain::parse(name)
        .map_err(|error| anyhow::anyhow!("-trustDomain {name:?} is no trust domain: {error}"))?;
    let ttl = flags.int("x509SVIDTTL");
    let x509_svid_ttl = i32::try_from(ttl)
        .ok()
        .filter(|ttl| *ttl > 1)
        .ok_or_else(|| anyhow::anyhow!("-x509SVIDTTL {ttl} must be at least 2 seconds"))?;
    Ok(Options {
        dir: flags.non_empty("dir").map(PathBuf::from),
        trust_domain,
        x509_svid_ttl,
    })
}

/// How long the two programs have to finish what they do when told to stop.
const GRACE: Duration = Duration::from_secs(10);
