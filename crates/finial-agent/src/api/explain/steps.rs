//! What to do next, drawn from what was found.

use std::collections::BTreeSet;
use std::path::Path;

use finial_proto::pb::finial::agent::explain::v1 as pb;
use finial_proto::pb::finial::agent::explain::v1::r#match::SvidState;
use finial_proto::pb::spire::api::types;
use spiffe_types::entry::{Entry, EntryId};
use spiffe_types::selector::{Selector, SelectorSet};

use super::find;
use crate::cache::Cache;

/// What the conclusions are drawn from besides the answer itself.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// Where whole entries are.
    pub(super) entries: &'a Cache,
    pub(super) socket_path: Option<&'a Path>,
    pub(super) trust_domain: &'a str,
    /// Whether the agent sees the processes of the host.
    pub(super) sees_host: bool,
}

/// The next steps, most urgent first.
pub(super) fn next_steps(
    found: &pb::ExplainResponse,
    selectors: &SelectorSet,
    facts: &Facts<'_>,
) -> Vec<pb::Step> {
    let mut steps = Vec::new();
    unseen_callers(found, facts, &mut steps);
    for attestor in &found.attestors {
        if !attestor.failure.is_empty() {
            steps.push(step(
                format!(
                    "The attestor {:?} failed, so its selectors are unknown: {}.",
                    attestor.name, attestor.failure
                ),
                String::new(),
            ));
        }
    }
    if let Some(socket) = &found.workload_socket
        && !socket.reachable
    {
        steps.push(step(
            format!(
                "The process cannot reach the agent by its SPIFFE_ENDPOINT_SOCKET: {}.",
                socket.problem
            ),
            String::new(),
        ));
    }
    lost_server(found, &mut steps);
    if found.matches.is_empty() {
        no_match(found, selectors, facts, &mut steps);
    } else {
        matches(found, facts, &mut steps);
    }
    steps
}

fn unseen_callers(found: &pb::ExplainResponse, facts: &Facts<'_>, steps: &mut Vec<pb::Step>) {
    let Some(unseen) = found
        .unseen_callers
        .as_ref()
        .filter(|unseen| unseen.count > 0)
    else {
        return;
    };
    let (count, uid) = (unseen.count, unseen.last_uid);
    let why = if facts.sees_host {
        "though it shares the PID namespace of the host: their host is another, or a sandbox hides them".to_owned()
    } else {
        format!("as it runs in a PID namespace of its own. {}", find::CURE)
    };
    steps.push(step(
        format!(
            "The agent could not see the process (PID 0) of {count} caller{} so far, the last with uid {uid}, {why}.",
            if count == 1 { "" } else { "s" }
        ),
        String::new(),
    ));
}

fn lost_server(found: &pb::ExplainResponse, steps: &mut Vec<pb::Step>) {
    let Some(sync) = &found.sync else {
        return;
    };
    if sync.last_error.is_empty() && sync.last_contact != 0 {
        return;
    }
    let reason = if sync.last_error.is_empty() {
        "it has not synchronized yet"
    } else {
        &sync.last_error
    };
    steps.push(step(
        format!(
            "The agent has no contact with its server at {}: {reason}. Entries made since are unknown to it. Look where the server runs:",
            sync.server_address
        ),
        "finial-server healthcheck".to_owned(),
    ));
}

fn no_match(
    found: &pb::ExplainResponse,
    selectors: &SelectorSet,
    facts: &Facts<'_>,
    steps: &mut Vec<pb::Step>,
) {
    // What a failed attestor might tell is not for the operator to change.
    let nearest = found
        .near_misses
        .first()
        .filter(|miss| miss.missing.iter().all(|missing| !missing.unknown));
    if let Some(miss) = nearest {
        near_miss(miss, facts, steps);
    }
    if selectors.is_empty() {
        if found
            .attestors
            .iter()
            .all(|attestor| attestor.failure.is_empty())
        {
            steps.push(step(
                "No attestor knows anything of the process, so no entry can match it: configure one that does.".to_owned(),
                String::new(),
            ));
        }
        return;
    }
    let parent = found.sync.as_ref().map_or("", |sync| &sync.agent_id);
    let chosen = identifying(selectors);
    let mut command = format!(
        "finial-server entry create -parentID {} -spiffeID {}",
        quoted(parent),
        quoted(&format!(
            "spiffe://{}/{}",
            facts.trust_domain,
            name_of(found, selectors)
        )),
    );
    for selector in chosen {
        command.push_str(" -selector ");
        command.push_str(&quoted(&selector.to_string()));
    }
    steps.push(step(
        "No entry of this agent matches the process. Register it, under the name you want (add -dns NAME for peers that check host names):"
            .to_owned(),
        command,
    ));
}

fn near_miss(miss: &pb::NearMiss, facts: &Facts<'_>, steps: &mut Vec<pb::Step>) {
    let Some(shown) = &miss.entry else {
        return;
    };
    let lacks: Vec<_> = miss.missing.iter().map(describe_missing).collect();
    let labels: Vec<_> = miss.missing.iter().filter_map(label).collect();
    let text = format!(
        "The nearest entry, {} ({}), wants {}.",
        shown.spiffe_id,
        shown.id,
        lacks.join(" and ")
    );
    let (advice, command) = if let Some(entry) = changed_entry(miss, facts) {
        (
            "If the process is meant, start it so that it has that, or change the entry:",
            entry,
        )
    } else if labels.len() == miss.missing.len() {
        let command = labels
            .iter()
            .fold("docker run".to_owned(), |command, label| {
                format!("{command} --label {}", quoted(label))
            });
        (
            "If the process is meant, start its container with the label:",
            format!("{command} …"),
        )
    } else {
        (
            "If the process is meant, start it so that it has that.",
            String::new(),
        )
    };
    steps.push(step(format!("{text} {advice}"), command));
}

/// Says what is missing, and what there is in its place.
pub(crate) fn describe_missing(missing: &pb::MissingSelector) -> String {
    let text = |selector: &Option<types::Selector>| {
        selector
            .as_ref()
            .map(|selector| format!("{}:{}", selector.r#type, selector.value))
            .unwrap_or_default()
    };
    match &missing.instead {
        Some(_) => format!(
            "{} (the process has {})",
            text(&missing.selector),
            text(&missing.instead)
        ),
        None if missing.unknown => {
            format!("{} (unknown: its attestor failed)", text(&missing.selector))
        }
        None => text(&missing.selector),
    }
}

/// `key=value` of a missing container label.
fn label(missing: &pb::MissingSelector) -> Option<String> {
    let selector = missing.selector.as_ref()?;
    let label = selector.value.strip_prefix("label:")?;
    let (key, value) = label.split_once(':')?;
    (selector.r#type == "docker").then(|| format!("{key}={value}"))
}

/// The command that makes the entry match what the process has; `None` where the process has nothing in place of something.
fn changed_entry(miss: &pb::NearMiss, facts: &Facts<'_>) -> Option<String> {
    let id = EntryId::parse(&miss.entry.as_ref()?.id).ok()?;
    let entry = facts.entries.entry(&id)?;
    let read = |selector: &types::Selector| Selector::new(&selector.r#type, &selector.value).ok();
    let mut selectors: BTreeSet<Selector> = entry.selectors.iter().cloned().collect();
    for missing in &miss.missing {
        selectors.remove(&read(missing.selector.as_ref()?)?);
        selectors.insert(read(missing.instead.as_ref()?)?);
    }
    Some(update_command(&entry, &selectors, &[]))
}

/// `entry update` replaces the whole entry, so the command repeats all there is.
fn update_command(entry: &Entry, selectors: &BTreeSet<Selector>, new_dns_names: &[&str]) -> String {
    let mut words = vec![
        "finial-server entry update -entryID".to_owned(),
        quoted(entry.id.as_str()),
        "-parentID".to_owned(),
        quoted(entry.parent_id.as_str()),
        "-spiffeID".to_owned(),
        quoted(entry.spiffe_id.as_str()),
    ];
    let mut flag = |name: &str, value: String| words.push(format!("-{name} {}", quoted(&value)));
    for selector in selectors {
        flag("selector", selector.to_string());
    }
    if let Some(ttl) = entry.x509_svid_ttl {
        flag("x509SVIDTTL", ttl.seconds().to_string());
    }
    if let Some(ttl) = entry.jwt_svid_ttl {
        flag("jwtSVIDTTL", ttl.seconds().to_string());
    }
    for domain in &entry.federates_with {
        flag("federatesWith", domain.id().to_string());
    }
    for name in &entry.dns_names {
        flag("dns", name.to_string());
    }
    for name in new_dns_names {
        flag("dns", (*name).to_owned());
    }
    if let Some(expires_at) = entry.expires_at {
        flag(
            "entryExpiry",
            finial_proto::convert::time::to_unix(expires_at).to_string(),
        );
    }
    if !entry.hint.is_empty() {
        flag("hint", entry.hint.clone());
    }
    for (is_set, switch) in [
        (entry.admin, "-admin"),
        (entry.downstream, "-downstream"),
        (entry.disable_x509_svid_prefetch, "-disableX509SVIDPrefetch"),
        (entry.jwt_svid_include_jti, "-jwtSVIDIncludeJTI"),
    ] {
        if is_set {
            words.push(switch.to_owned());
        }
    }
    words.join(" ")
}

fn matches(found: &pb::ExplainResponse, facts: &Facts<'_>, steps: &mut Vec<pb::Step>) {
    let waits = found.matches.iter().any(|matched| {
        matches!(
            matched.svid_state(),
            SvidState::Pending | SvidState::Expired
        )
    });
    if waits {
        steps.push(step(
            "An SVID is being asked for. If that goes on, the agent's log says why the server does not sign it.".to_owned(),
            String::new(),
        ));
    }
    let is_answered = found
        .answer
        .as_ref()
        .is_some_and(|answer| answer.code == "OK");
    if is_answered && let Some(socket) = facts.socket_path {
        steps.push(step(
            "The process has what it needs of the agent. To see what it would get, run as the process runs, in its container:".to_owned(),
            format!("finial-agent api fetch x509 -socketPath {}", quoted(&socket.display().to_string())),
        ));
    }
    let bare = found
        .matches
        .iter()
        .filter_map(|matched| matched.entry.as_ref())
        .find(|entry| entry.dns_names.is_empty());
    if let Some(entry) = bare
        && let Ok(id) = EntryId::parse(&entry.id)
        && let Some(whole) = facts.entries.entry(&id)
    {
        let selectors = whole.selectors.iter().cloned().collect();
        steps.push(step(
            format!(
                "SVIDs of {} have no DNS names. If a peer checks host names instead of SPIFFE IDs, add the names it uses:",
                entry.spiffe_id
            ),
            update_command(&whole, &selectors, &["NAME"]),
        ));
    }
}

/// A few selectors that tell the process from others, and outlive it.
fn identifying(selectors: &SelectorSet) -> Vec<&Selector> {
    let with = |kind: &str, prefixes: &[&str]| -> Vec<&Selector> {
        let of_kind = selectors.iter().filter(|selector| selector.kind() == kind);
        of_kind
            .filter(|selector| {
                prefixes
                    .iter()
                    .any(|prefix| selector.value().starts_with(prefix))
            })
            .collect()
    };
    let own_labels: Vec<_> = with("docker", &["label:"])
        .into_iter()
        .filter(|selector| {
            !FOREIGN_LABELS
                .iter()
                .any(|prefix| selector.value().starts_with(prefix))
        })
        .take(2)
        .collect();
    let candidates = [
        own_labels,
        with(
            "docker",
            &[COMPOSE_SERVICE, "label:com.docker.compose.project:"],
        ),
        with("docker", &["image_id:"]),
        with("k8s", &["ns:", "sa:"]),
        with("unix", &["uid:", "path:"]),
    ];
    candidates
        .into_iter()
        .find(|chosen| !chosen.is_empty())
        .unwrap_or_else(|| selectors.iter().take(2).collect())
}

/// A last path segment for the SPIFFE ID: what the process is called, as far as a path may say it.
fn name_of(found: &pb::ExplainResponse, selectors: &SelectorSet) -> String {
    let value = |kind: &str, prefix: &str| {
        let mut of_kind = selectors.iter().filter(|selector| selector.kind() == kind);
        of_kind.find_map(|selector| selector.value().strip_prefix(prefix))
    };
    let executable = found
        .process
        .as_ref()
        .and_then(|process| Path::new(&process.path).file_name()?.to_str());
    let name = value("docker", "label:app:")
        .or_else(|| value("docker", COMPOSE_SERVICE))
        .or_else(|| value("k8s", "sa:"))
        .or(executable)
        .unwrap_or_default();
    let name: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' => c,
            _ => '-',
        })
        .collect();
    match name.trim_matches(['-', '.']) {
        "" => "workload".to_owned(),
        name => name.to_owned(),
    }
}

/// Quotes a word for a shell where it must be.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn step(text: String, command: String) -> pb::Step {
    pb::Step { text, command }
}

const COMPOSE_SERVICE: &str = "label:com.docker.compose.service:";
/// Labels that tools and images bring along: they say nothing of the workload.
const FOREIGN_LABELS: [&str; 6] = [
    "label:com.docker.",
    "label:desktop.docker.",
    "label:org.opencontainers.",
    "label:org.label-schema.",
    "label:io.",
    "label:maintainer:",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::fixtures::selectors;

    #[test]
    fn words_are_quoted_for_a_shell_when_they_must_be() {
        for (word, shown) in [
            ("unix:uid:1000", "unix:uid:1000"),
            ("docker:label:a:b c", "'docker:label:a:b c'"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), shown);
        }
    }

    #[test]
    fn what_tells_a_process_from_others_is_chosen() {
        for (held, chosen) in [
            (
                &[
                    "docker:label:app:web",
                    "docker:label:org.opencontainers.image.title:python",
                    "docker:env:A=b",
                    "unix:uid:0",
                ][..],
                &["docker:label:app:web"][..],
            ),
            (
                &[
                    "docker:label:com.docker.compose.service:web",
                    "docker:label:com.docker.compose.version:2",
                    "docker:image_id:web",
                ],
                &["docker:label:com.docker.compose.service:web"],
            ),
            (
                &["docker:image_id:web:1", "unix:uid:0"],
                &["docker:image_id:web:1"],
            ),
            (
                &["unix:uid:7", "unix:gid:7", "unix:path:/bin/a"],
                &["unix:path:/bin/a", "unix:uid:7"],
            ),
            (&["other:x"], &["other:x"]),
        ] {
            let held = selectors(held);
            let texts: Vec<_> = identifying(&held).iter().map(ToString::to_string).collect();
            assert_eq!(texts, chosen);
        }
    }
}
