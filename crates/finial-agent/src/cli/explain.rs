//! `explain`: asks the running agent why a process has the identities it has, or none.

use std::time::{Duration, SystemTime};

use anyhow::bail;
use finial_proto::json::to_json;
use finial_proto::pb::finial::agent::explain::v1 as pb;
use finial_proto::pb::finial::agent::explain::v1::explain_client::ExplainClient;
use finial_proto::pb::finial::agent::explain::v1::explain_request::Target;
use finial_proto::pb::finial::agent::explain::v1::r#match::SvidState;
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK, Output, print_json};
use finial_runtime::clock::{Clock as _, SystemClock};
use finial_runtime::config::duration;
use finial_runtime::process;

use super::admin::{self, Admin};
use super::debug::rfc3339;
use crate::api::explain::describe_missing;

/// Flags of `explain`.
pub(super) fn flags() -> FlagSet {
    admin::flags("explain")
        .int(
            "pid",
            0,
            "The process to explain, by its number in the agent's PID namespace",
        )
        .string(
            "container",
            "",
            "The container to explain, by its name, its id, or at least 12 digits of that",
        )
        .output()
}

/// `explain`
pub(super) fn run(flags: &Flags, console: &mut Console) -> Code {
    match explain(flags, console) {
        Ok(()) => OK,
        Err(error) => {
            console.errln(format_args!("Error: {error:#}"));
            FAILED
        }
    }
}

fn explain(flags: &Flags, console: &mut Console) -> anyhow::Result<()> {
    let request = pb::ExplainRequest {
        target: Some(target(flags)?),
    };
    let agent = Admin::find(flags);
    let answer = process::block_on(async {
        let answer = ExplainClient::new(agent.channel()).explain(request).await;
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err((agent.hint(&status).await, status)),
        }
    })?;
    let found = match answer {
        Ok(found) => found,
        Err((hint, status)) => {
            let error = anyhow::Error::new(agent.error(&status));
            return Err(match hint {
                Some(hint) => anyhow::anyhow!("{error:#}\n{hint}"),
                None => error,
            });
        }
    };
    match Output::of(flags) {
        Output::Json => print_json(
            console,
            to_json("finial.agent.explain.v1.ExplainResponse", &found)?,
        ),
        Output::Pretty => console.out(pretty(&found, SystemClock.now())),
    }
    Ok(())
}

fn target(flags: &Flags) -> anyhow::Result<Target> {
    match (flags.int("pid"), flags.non_empty("container")) {
        (0, Some(container)) => Ok(Target::Container(container.to_owned())),
        (pid, None) if pid > 0 => Ok(Target::Pid(i32::try_from(pid)?)),
        (_, Some(_)) => bail!("only one of -pid and -container can be given"),
        (_, None) => bail!("name the process with -pid or its container with -container"),
    }
}

/// Collects lines of a report.
#[derive(Debug, Default)]
struct Report(String);

impl Report {
    fn line(&mut self, text: impl std::fmt::Display) {
        self.0.push_str(&text.to_string());
        self.0.push('\n');
    }

    /// A line `title: value` in a block.
    fn field(&mut self, title: &str, value: impl std::fmt::Display) {
        self.line(format_args!("  {title:<15}: {value}"));
    }

    fn heading(&mut self, text: impl std::fmt::Display) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(text);
    }
}

fn pretty(found: &pb::ExplainResponse, now: SystemTime) -> String {
    let mut report = Report::default();
    if let Some(process) = &found.process {
        report.heading(format_args!("Process {}", process.pid));
        report.field(
            "User, group",
            format_args!("{}, {}", process.uid, process.gid),
        );
        report.field("Executable", or_unknown(&process.path));
        if !process.container_id.is_empty() {
            report.field("Container", &process.container_id);
        }
    }
    if let Some(answer) = &found.answer {
        report.field(
            "Workload API",
            format_args!("{}: {}", answer.code, answer.message),
        );
    }
    if let Some(socket) = &found.workload_socket {
        let state = if socket.reachable {
            format!("{} leads to this agent", socket.path)
        } else {
            format!("UNREACHABLE: {}", socket.problem)
        };
        report.field("Socket", state);
    }
    attestors(found, &mut report);
    matches(found, now, &mut report);
    near_misses(found, &mut report);
    sync(found, now, &mut report);
    next_steps(found, &mut report);
    report.0
}

fn attestors(found: &pb::ExplainResponse, report: &mut Report) {
    report.heading("Attestors");
    for attestor in &found.attestors {
        if attestor.failure.is_empty() {
            let count = attestor.selectors.len();
            let plural = if count == 1 { "" } else { "s" };
            report.field(&attestor.name, format_args!("{count} selector{plural}"));
        } else {
            report.field(&attestor.name, format_args!("FAILED: {}", attestor.failure));
        }
        for selector in &attestor.selectors {
            report.line(format_args!("      {}:{}", selector.r#type, selector.value));
        }
    }
}

fn matches(found: &pb::ExplainResponse, now: SystemTime, report: &mut Report) {
    report.heading(format_args!("Matching entries: {}", found.matches.len()));
    for matched in &found.matches {
        let Some(entry) = &matched.entry else {
            continue;
        };
        self::entry(entry, report);
        report.field("DNS names", list(&entry.dns_names));
        if !entry.hint.is_empty() {
            report.field("Hint", &entry.hint);
        }
        report.field("SVID", svid(matched, now));
        let Some(svid) = &matched.svid else {
            continue;
        };
        report.field("Serial", &svid.serial);
        if svid.dns_names != entry.dns_names {
            report.field("DNS in SVID", list(&svid.dns_names));
        }
    }
}

fn svid(matched: &pb::Match, now: SystemTime) -> String {
    let until = |svid: &pb::Svid| {
        let end = rfc3339(svid.not_after);
        format!("{end} ({})", distance(svid.not_after, now))
    };
    let state = match (matched.svid_state(), &matched.svid) {
        (SvidState::Valid, Some(svid)) => {
            format!(
                "valid until {}, renewed about {}",
                until(svid),
                rfc3339(svid.renew_at)
            )
        }
        (SvidState::Expired, Some(svid)) => format!("EXPIRED at {}", until(svid)),
        (SvidState::OnDemand, _) => "none; signed when the workload connects".to_owned(),
        (SvidState::Pending, _) => "none yet; the server is being asked for it".to_owned(),
        (SvidState::Unspecified | SvidState::Valid | SvidState::Expired, _) => "unknown".to_owned(),
    };
    if matched.renewing {
        format!("{state}; a newer one is being asked for")
    } else {
        state
    }
}

fn near_misses(found: &pb::ExplainResponse, report: &mut Report) {
    let shown = found.near_misses.len();
    report.heading(format_args!(
        "Near misses: {shown} of {}",
        found.near_misses_total
    ));
    for miss in &found.near_misses {
        let Some(entry) = &miss.entry else {
            continue;
        };
        self::entry(entry, report);
        for missing in &miss.missing {
            report.field("Missing", describe_missing(missing));
        }
    }
}

fn entry(entry: &pb::Entry, report: &mut Report) {
    report.line(format_args!("  {}", entry.spiffe_id));
    report.field("Entry ID", &entry.id);
}

fn sync(found: &pb::ExplainResponse, now: SystemTime, report: &mut Report) {
    let Some(sync) = &found.sync else {
        return;
    };
    report.heading("Agent and server");
    report.field("Agent", &sync.agent_id);
    report.field("Server", &sync.server_address);
    let way = if sync.push {
        "pushed by the server"
    } else {
        "polled"
    };
    report.field(
        "Entries",
        format_args!(
            "{}, {way} ({}), revision {}",
            sync.entries, sync.mode, sync.revision
        ),
    );
    let last = match sync.last_contact {
        0 => "never".to_owned(),
        seconds => format!("{} ({})", rfc3339(seconds), distance(seconds, now)),
    };
    report.field("Last contact", last);
    if !sync.last_error.is_empty() {
        report.field("Last failure", &sync.last_error);
    }
}

fn next_steps(found: &pb::ExplainResponse, report: &mut Report) {
    if found.next_steps.is_empty() {
        return;
    }
    report.heading("Next");
    for (index, step) in found.next_steps.iter().enumerate() {
        report.line(format_args!("  {}. {}", index + 1, step.text));
        if !step.command.is_empty() {
            report.line(format_args!("     {}", step.command));
        }
    }
}

/// How far a moment in Unix seconds is from now.
fn distance(seconds: i64, now: SystemTime) -> String {
    let now = finial_proto::convert::time::to_unix(now);
    let apart = duration::format(Duration::from_secs(now.abs_diff(seconds)));
    if seconds > now {
        format!("in {apart}")
    } else {
        format!("{apart} ago")
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "(none)".to_owned()
    } else {
        names.join(", ")
    }
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "(unknown)" } else { text }
}

#[cfg(test)]
mod tests {
    use finial_proto::convert::time::from_unix;
    use finial_proto::pb::spire::api::types::Selector;

    use super::*;

    fn selector(value: &str) -> Selector {
        Selector {
            r#type: "docker".to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn a_report_says_what_is_missing_and_what_to_run() {
        let found = pb::ExplainResponse {
            process: Some(pb::Process {
                pid: 77,
                uid: 1000,
                gid: 1001,
                path: "/bin/web".to_owned(),
                container_id: "ab12".to_owned(),
            }),
            attestors: vec![
                pb::Attestor {
                    name: "docker".to_owned(),
                    selectors: vec![selector("label:app:web1")],
                    failure: String::new(),
                },
                pb::Attestor {
                    name: "k8s".to_owned(),
                    failure: "kubelet is down".to_owned(),
                    ..pb::Attestor::default()
                },
            ],
            near_misses: vec![pb::NearMiss {
                entry: Some(pb::Entry {
                    id: "e1".to_owned(),
                    spiffe_id: "spiffe://example.org/web".to_owned(),
                    ..pb::Entry::default()
                }),
                missing: vec![pb::MissingSelector {
                    selector: Some(selector("label:app:web")),
                    instead: Some(selector("label:app:web1")),
                    unknown: false,
                }],
            }],
            near_misses_total: 3,
            answer: Some(pb::Answer {
                code: "PermissionDenied".to_owned(),
                message: "no identity issued".to_owned(),
            }),
            sync: Some(pb::Sync {
                agent_id: "spiffe://example.org/spire/agent/a".to_owned(),
                server_address: "server:8081".to_owned(),
                mode: "finial.sync.v1.Follow".to_owned(),
                push: true,
                revision: 9,
                last_contact: 1_704_067_200,
                entries: 3,
                last_error: String::new(),
            }),
            next_steps: vec![pb::Step {
                text: "Do this:".to_owned(),
                command: "finial-server entry update".to_owned(),
            }],
            ..pb::ExplainResponse::default()
        };
        assert_eq!(
            pretty(&found, from_unix(1_704_067_205)),
            "Process 77\n  \
               User, group    : 1000, 1001\n  \
               Executable     : /bin/web\n  \
               Container      : ab12\n  \
               Workload API   : PermissionDenied: no identity issued\n\
             \nAttestors\n  \
               docker         : 1 selector\n      \
                   docker:label:app:web1\n  \
               k8s            : FAILED: kubelet is down\n\
             \nMatching entries: 0\n\
             \nNear misses: 1 of 3\n  \
               spiffe://example.org/web\n  \
               Entry ID       : e1\n  \
               Missing        : docker:label:app:web (the process has docker:label:app:web1)\n\
             \nAgent and server\n  \
               Agent          : spiffe://example.org/spire/agent/a\n  \
               Server         : server:8081\n  \
               Entries        : 3, pushed by the server (finial.sync.v1.Follow), revision 9\n  \
               Last contact   : 2024-01-01T00:00:00Z (5s ago)\n\
             \nNext\n  \
               1. Do this:\n     \
                  finial-server entry update\n"
        );
    }

    #[test]
    fn one_target_is_needed() {
        for (words, error) in [
            (
                &[][..],
                "Error: name the process with -pid or its container with -container\n",
            ),
            (
                &["-pid=-1"],
                "Error: name the process with -pid or its container with -container\n",
            ),
            (
                &["-pid=1", "-container=a"],
                "Error: only one of -pid and -container can be given\n",
            ),
        ] {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            let mut console = Console::captured();
            assert_eq!(run(&flags().parse(&words).unwrap(), &mut console), FAILED);
            assert_eq!(console.into_captured().1, error);
        }
    }

    #[test]
    fn an_agent_without_an_admin_socket_is_told_how_to_have_one() {
        let words = [
            "-pid=1".to_owned(),
            "-socketPath=/nonexistent/admin.sock".to_owned(),
        ];
        let mut console = Console::captured();
        assert_eq!(run(&flags().parse(&words).unwrap(), &mut console), FAILED);
        let error = console.into_captured().1;
        assert!(
            error.starts_with("Error: rpc error: code = Unavailable"),
            "{error}"
        );
        assert!(error.contains("Set admin_socket_path"), "{error}");
    }
}
