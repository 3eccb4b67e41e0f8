//! `agent list`, `count`, `show`, `ban`, `evict`, `purge`.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, count_agents_request, list_agents_request,
};
use finial_proto::pb::spire::api::types;
use finial_runtime::cli::{Code, Console, FlagSet, Flags, Output};
use finial_runtime::clock::{Clock as _, SystemClock};
use finial_runtime::go_text::quote;
use serde_json::json;

use super::client::{Printed, plural, with_server};
use super::{agent_render, client, id};

const PACKAGE: &str = "spire.api.server.agent.v1";
const PAGE_SIZE: i32 = 1000;
const DEFAULT_EXPIRED_FOR: Duration = Duration::from_hours(30 * 24);

fn filter_flags(name: &'static str) -> FlagSet {
    client::flags(name)
        .list("selector", "A type:value selector; may be repeated")
        .string(
            "attestationType",
            "",
            "The attestation type, such as join_token or x509pop",
        )
        .string(
            "canReattest",
            "",
            "'true': agents that can attest again, 'false': agents that can't, anything else: all",
        )
        .string(
            "banned",
            "",
            "'true': banned agents, 'false': agents that are not banned, anything else: all",
        )
        .string(
            "expiresBefore",
            "",
            "Agents that expire before a time (format: \"2006-01-02 15:04:05 -0700 -07\")",
        )
        .string(
            "matchSelectorsOn",
            "superset",
            "How selectors are compared: exact, any, superset or subset",
        )
        .output()
}

fn id_flags(name: &'static str) -> FlagSet {
    client::flags(name)
        .string("spiffeID", "", "The SPIFFE ID of the agent")
        .output()
}

/// Flags of `agent list`.
pub(super) fn list_flags() -> FlagSet {
    filter_flags("agent list")
}

/// Flags of `agent count`.
pub(super) fn count_flags() -> FlagSet {
    filter_flags("agent count")
}

/// Flags of `agent show`.
pub(super) fn show_flags() -> FlagSet {
    id_flags("agent show")
}

/// Flags of `agent ban`.
pub(super) fn ban_flags() -> FlagSet {
    id_flags("agent ban")
}

/// Flags of `agent evict`.
pub(super) fn evict_flags() -> FlagSet {
    id_flags("agent evict")
}

/// Flags of `agent purge`.
pub(super) fn purge_flags() -> FlagSet {
    client::flags("agent purge")
        .duration(
            "expiredFor",
            DEFAULT_EXPIRED_FOR,
            "How long the agent's SVID has been expired",
        )
        .bool(
            "dryRun",
            "Prints the agents that would be purged and purges none",
        )
        .output()
}

/// `agent list`
pub(super) fn list(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let filter = Filter::of(flags)?;
        let filter = list_agents_request::Filter {
            by_attestation_type: filter.attestation_type,
            by_selector_match: filter.selectors,
            by_banned: filter.banned,
            by_can_reattest: filter.can_reattest,
            by_expires_before: filter.expires_before,
        };
        let mut client = AgentClient::new(server.channel.clone());
        let mut all = ListAgentsResponse::default();
        let mut page_token = String::new();
        loop {
            let page = client
                .list_agents(ListAgentsRequest {
                    filter: Some(filter.clone()),
                    page_size: PAGE_SIZE,
                    page_token,
                    ..ListAgentsRequest::default()
                })
                .await
                .map_err(|status| server.error(&status))?
                .into_inner();
            all.agents.extend(page.agents);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let name = format!("{PACKAGE}.ListAgentsResponse");
        Printed::message(flags, &name, &all, |all| {
            Ok(Printed::text(agent_render::list(&all.agents)))
        })
    })
}

/// `agent count`
pub(super) fn count(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let filter = Filter::of(flags)?;
        let response = AgentClient::new(server.channel.clone())
            .count_agents(CountAgentsRequest {
                filter: Some(count_agents_request::Filter {
                    by_attestation_type: filter.attestation_type,
                    by_selector_match: filter.selectors,
                    by_banned: filter.banned,
                    by_can_reattest: filter.can_reattest,
                    by_expires_before: filter.expires_before,
                }),
            })
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        let name = format!("{PACKAGE}.CountAgentsResponse");
        Printed::message(flags, &name, &response, |response| {
            let count = usize::try_from(response.count)?;
            Ok(Printed::text(
                plural(count, "attested agent", "attested agents") + "\n",
            ))
        })
    })
}

/// `agent show`
pub(super) fn show(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let agent = AgentClient::new(server.channel.clone())
            .get_agent(GetAgentRequest {
                id: Some(agent_id(flags)?),
                ..GetAgentRequest::default()
            })
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        Printed::message(flags, "spire.api.types.Agent", &agent, |agent| {
            Ok(Printed::text(agent_render::show(agent)))
        })
    })
}

/// `agent ban`
pub(super) fn ban(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        AgentClient::new(server.channel.clone())
            .ban_agent(BanAgentRequest {
                id: Some(agent_id(flags)?),
            })
            .await
            .map_err(|status| server.error(&status))?;
        Printed::message(flags, "google.protobuf.Empty", &(), |()| {
            Ok(Printed::text("Agent banned successfully\n"))
        })
    })
}

/// `agent evict`
pub(super) fn evict(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        AgentClient::new(server.channel.clone())
            .delete_agent(DeleteAgentRequest {
                id: Some(agent_id(flags)?),
            })
            .await
            .map_err(|status| server.error(&status))?;
        Printed::message(flags, "google.protobuf.Empty", &(), |()| {
            Ok(Printed::text("Agent evicted successfully\n"))
        })
    })
}

/// `agent purge`
pub(super) fn purge(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let (negative, expired_for) = flags.duration("expiredFor");
        // A negative time would purge agents that have not expired.
        ensure!(
            !negative || expired_for.is_zero(),
            "-expiredFor must not be negative"
        );
        let dry_run = flags.bool("dryRun");
        let mut client = AgentClient::new(server.channel.clone());
        let agents = client
            .list_agents(ListAgentsRequest {
                filter: Some(list_agents_request::Filter {
                    by_can_reattest: Some(true),
                    ..list_agents_request::Filter::default()
                }),
                output_mask: Some(types::AgentMask {
                    x509svid_expires_at: true,
                    ..types::AgentMask::default()
                }),
                ..ListAgentsRequest::default()
            })
            .await
            .map_err(|status| server.error(&status))
            .context("failed to list agents")?
            .into_inner()
            .agents;
        let now = SystemClock.now();
        let mut purged = Vec::new();
        for agent in agents {
            if !expired_long_ago(agent.x509svid_expires_at, expired_for, now) {
                continue;
            }
            let mut result = Purged {
                id: id::render(agent.id.as_ref()),
                deleted: false,
                error: None,
            };
            if !dry_run {
                let deleted = client
                    .delete_agent(DeleteAgentRequest { id: agent.id })
                    .await;
                match deleted {
                    Ok(_) => result.deleted = true,
                    Err(status) => result.error = Some(server.error(&status).to_string()),
                }
            }
            purged.push(result);
        }
        Ok(match Output::of(flags) {
            Output::Pretty => Printed::text(purged_text(&purged, dry_run)),
            Output::Json => Printed {
                json: Some(json!({
                    "expired_agents": purged.iter().map(Purged::json).collect::<Vec<_>>()
                })),
                ..Printed::default()
            },
        })
    })
}

fn expired_long_ago(expires_at: i64, expired_for: Duration, now: SystemTime) -> bool {
    let expires_at = Duration::from_secs(u64::try_from(expires_at).unwrap_or(0));
    now.duration_since(SystemTime::UNIX_EPOCH)
        .is_ok_and(|now| now > expires_at.saturating_add(expired_for))
}

#[derive(Debug)]
struct Purged {
    id: String,
    deleted: bool,
    error: Option<String>,
}

impl Purged {
    fn json(&self) -> serde_json::Value {
        // An absent error is left out by the printer, which drops nulls.
        json!({"agent_id": self.id, "deleted": self.deleted, "error": self.error})
    }
}

fn purged_text(agents: &[Purged], dry_run: bool) -> String {
    if agents.is_empty() {
        return "No agents to purge.\n".to_owned();
    }
    let found = plural(agents.len(), "expired agent", "expired agents");
    let mut text = format!("Found {found}\n\n");
    let id_line = |agent: &Purged| format!("SPIFFE ID         : {}\n", agent.id);
    if dry_run {
        text.push_str("\nAgents that can be purged:\n");
        text.extend(agents.iter().map(id_line));
        return text;
    }
    let (deleted, kept): (Vec<_>, Vec<_>) = agents.iter().partition(|agent| agent.deleted);
    if !deleted.is_empty() {
        text.push_str("Agents purged:\n");
        text.extend(deleted.into_iter().map(id_line));
    }
    if !kept.is_empty() {
        text.push_str("Agents not purged:\n");
        for agent in kept {
            let error = agent.error.as_deref().unwrap_or_default();
            text.extend([&id_line(agent), "Error             : ", error, "\n"]);
        }
    }
    text
}

fn agent_id(flags: &Flags) -> anyhow::Result<types::Spiffeid> {
    let text = flags
        .non_empty("spiffeID")
        .context("a SPIFFE ID is required")?;
    Ok(id::parse(text)?)
}

#[derive(Debug)]
struct Filter {
    attestation_type: String,
    selectors: Option<types::SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: String,
}

impl Filter {
    fn of(flags: &Flags) -> anyhow::Result<Self> {
        use types::selector_match::MatchBehavior;
        let selectors = match flags.list("selector") {
            [] => None,
            texts => Some(types::SelectorMatch {
                r#match: match flags.string("matchSelectorsOn") {
                    "exact" => MatchBehavior::MatchExact,
                    "any" => MatchBehavior::MatchAny,
                    "superset" => MatchBehavior::MatchSuperset,
                    "subset" => MatchBehavior::MatchSubset,
                    _ => bail!("unsupported match behavior"),
                } as i32,
                selectors: texts
                    .iter()
                    .map(|text| {
                        id::selector(text)
                            .with_context(|| format!("error parsing selector {}", quote(text)))
                    })
                    .collect::<anyhow::Result<_>>()?,
            }),
        };
        let expires_before = flags.string("expiresBefore");
        if !expires_before.is_empty() {
            check_time(expires_before).context("date is not valid")?;
        }
        let three_way = |name: &str| flags.string(name).parse().ok();
        Ok(Self {
            attestation_type: flags.string("attestationType").to_owned(),
            selectors,
            banned: three_way("banned"),
            can_reattest: three_way("canReattest"),
            expires_before: expires_before.to_owned(),
        })
    }
}

/// Checks the form `2006-01-02 15:04:05 -0700 -07`; the server reads it again.
fn check_time(text: &str) -> anyhow::Result<()> {
    use time::macros::format_description;
    let format = format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let (time, zone) = text
        .rsplit_once(' ')
        .context("expected the form \"2006-01-02 15:04:05 -0700 -07\"")?;
    time::OffsetDateTime::parse(time, format)
        .context("expected the form \"2006-01-02 15:04:05 -0700 -07\"")?;
    ensure!(
        zone.len() == 3 && zone.starts_with(['+', '-']),
        "expected a zone such as -07 at the end, found {}",
        quote(zone)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purging_says_what_went_and_what_stayed() {
        let agents = [
            Purged {
                id: "spiffe://td/spire/agent/a".into(),
                deleted: true,
                error: None,
            },
            Purged {
                id: "spiffe://td/spire/agent/b".into(),
                deleted: false,
                error: Some("no".into()),
            },
        ];
        assert_eq!(
            purged_text(&agents, false),
            "Found 2 expired agents\n\n\
             Agents purged:\nSPIFFE ID         : spiffe://td/spire/agent/a\n\
             Agents not purged:\nSPIFFE ID         : spiffe://td/spire/agent/b\nError             : no\n"
        );
        assert_eq!(
            purged_text(&agents[..1], true),
            "Found 1 expired agent\n\n\nAgents that can be purged:\nSPIFFE ID         : spiffe://td/spire/agent/a\n"
        );
        assert_eq!(purged_text(&[], false), "No agents to purge.\n");
    }

    #[test]
    fn an_agent_is_old_only_after_the_whole_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert!(!expired_long_ago(40, Duration::from_mins(1), now));
        assert!(expired_long_ago(39, Duration::from_mins(1), now));
    }

    #[test]
    fn a_filter_reads_three_way_flags_and_checks_the_date() {
        let parse = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            Filter::of(&list_flags().parse(&words).unwrap())
        };
        let filter = parse(&["-banned", "true", "-canReattest", "maybe"]).unwrap();
        assert_eq!((filter.banned, filter.can_reattest), (Some(true), None));
        assert!(parse(&["-expiresBefore", "2026-01-02 15:04:05 -0700 -07"]).is_ok());
        let error = parse(&["-expiresBefore", "tomorrow"]).unwrap_err();
        assert_eq!(error.to_string(), "date is not valid");
    }
}
