//! `entry create`, `entry update`, `entry delete`.

use anyhow::{Context as _, ensure};
use finial_client::rpc_error::code_name;
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_proto::pb::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
    BatchUpdateEntryRequest, GetEntryRequest,
};
use finial_proto::pb::spire::api::types;
use finial_runtime::cli::{Code, Console, FlagSet, Flags};
use finial_runtime::go_text::quote;
use spiffe_types::id::SpiffeId;

use super::client::{Printed, Server, with_server};
use super::{client, entry_data, entry_render, id};

const PACKAGE: &str = "spire.api.server.entry.v1";

/// The flags that describe an entry.
fn entry_flags(name: &'static str, id_usage: &'static str) -> FlagSet {
    client::flags(name)
        .string("entryID", "", id_usage)
        .string("parentID", "", "The SPIFFE ID of the entry's parent")
        .string("spiffeID", "", "The SPIFFE ID that the entry gives")
        .int(
            "x509SVIDTTL",
            0,
            "Lifetime in seconds of X509-SVIDs issued for the entry",
        )
        .int(
            "jwtSVIDTTL",
            0,
            "Lifetime in seconds of JWT-SVIDs issued for the entry",
        )
        .string(
            "data",
            "",
            "File with entries in JSON instead of flags; '-' for standard input",
        )
        .list("selector", "A type:value selector; may be repeated")
        .list(
            "federatesWith",
            "A trust domain to federate with; may be repeated",
        )
        .bool(
            "admin",
            "Gives the SPIFFE ID access to the server's management APIs",
        )
        .bool(
            "storeSVID",
            "The SVID is stored through an SVIDStore plugin",
        )
        .bool("downstream", "The entry is for a downstream server")
        .int(
            "entryExpiry",
            0,
            "When the entry expires, in seconds since 1970",
        )
        .list("dns", "A DNS name for the SVIDs; may be repeated")
        .string("hint", "", "Tells apart entries with the same SPIFFE ID")
        .bool(
            "disableX509SVIDPrefetch",
            "The X509-SVID is not fetched before it is asked for",
        )
        .bool(
            "jwtSVIDIncludeJTI",
            "JWT-SVIDs carry a unique 'jti' claim and are not cached",
        )
        .output()
}

/// Flags of `entry create`.
pub(super) fn create_flags() -> FlagSet {
    entry_flags("entry create", "An ID for the entry; generated when absent").bool(
        "node",
        "The entry is for nodes that match, not for workloads",
    )
}

/// Flags of `entry update`.
pub(super) fn update_flags() -> FlagSet {
    entry_flags("entry update", "The ID of the entry to update")
}

/// Flags of `entry delete`.
pub(super) fn delete_flags() -> FlagSet {
    client::flags("entry delete")
        .string("entryID", "", "The ID of the entry to delete")
        .string(
            "file",
            "",
            "File with entry IDs in JSON; '-' for standard input",
        )
        .output()
}

/// `entry create`
pub(super) fn create(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let entries = match flags.non_empty("data") {
            Some(path) => entry_data::entries(path)?,
            None => vec![new_entry(flags)?],
        };
        let mut response = EntryClient::new(server.channel.clone())
            .batch_create_entry(BatchCreateEntryRequest {
                entries: entries.clone(),
                ..BatchCreateEntryRequest::default()
            })
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        for (result, requested) in response.results.iter_mut().zip(entries) {
            if is_failed(result.status.as_ref()) {
                result.entry = Some(requested);
            }
        }
        let name = format!("{PACKAGE}.BatchCreateEntryResponse");
        Printed::message(flags, &name, &response, |response| {
            let results = response.results.iter();
            Ok(results_text(
                "create",
                results.map(|result| (result.status.as_ref(), result.entry.as_ref())),
            ))
        })
    })
}

/// `entry update`
pub(super) fn update(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let entries = match flags.non_empty("data") {
            Some(path) => entry_data::entries(path)?,
            None => vec![updated_entry(flags, &server).await?],
        };
        let mut response = EntryClient::new(server.channel.clone())
            .batch_update_entry(BatchUpdateEntryRequest {
                entries: entries.clone(),
                ..BatchUpdateEntryRequest::default()
            })
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        for (result, requested) in response.results.iter_mut().zip(entries) {
            if is_failed(result.status.as_ref()) {
                result.entry = Some(requested);
            }
        }
        let name = format!("{PACKAGE}.BatchUpdateEntryResponse");
        Printed::message(flags, &name, &response, |response| {
            let results = response.results.iter();
            Ok(results_text(
                "update",
                results.map(|result| (result.status.as_ref(), result.entry.as_ref())),
            ))
        })
    })
}

/// `entry delete`
pub(super) fn delete(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let ids = if let Some(path) = flags.non_empty("file") {
            entry_data::ids(path)?
        } else {
            let id = flags
                .non_empty("entryID")
                .context("an entry ID is required")?;
            vec![id.to_owned()]
        };
        let response = EntryClient::new(server.channel.clone())
            .batch_delete_entry(BatchDeleteEntryRequest { ids })
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        let name = format!("{PACKAGE}.BatchDeleteEntryResponse");
        Printed::message(flags, &name, &response, |response| {
            Ok(deleted_text(response))
        })
    })
}

fn new_entry(flags: &Flags) -> anyhow::Result<types::Entry> {
    ensure!(
        !flags.list("selector").is_empty(),
        "at least one selector is required"
    );
    let node = flags.bool("node");
    ensure!(
        !node || flags.list("federatesWith").is_empty(),
        "node entries can not federate"
    );
    ensure!(
        node || flags.non_empty("parentID").is_some(),
        "a parent ID is required if the node flag is not set"
    );
    let mut entry = entry_of_flags(flags, |spiffe_id| {
        if node {
            let server = SpiffeId::server_id(&spiffe_id.trust_domain());
            // SPIRE drops any parent without a word; scripts give the one that comes of it.
            ensure!(
                flags
                    .non_empty("parentID")
                    .is_none_or(|parent| parent == server.as_str()),
                "the -node flag sets the parent ID to {server}; leave -parentID out or give that"
            );
            Ok(types::Spiffeid {
                path: server.path().to_owned(),
                trust_domain: spiffe_id.trust_domain_name().to_owned(),
            })
        } else {
            Ok(id::parse(flags.string("parentID"))?)
        }
    })?;
    flags.string("entryID").clone_into(&mut entry.id);
    let attributes = types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: flags.bool("disableX509SVIDPrefetch"),
        jwt_svid_include_jti: flags.bool("jwtSVIDIncludeJTI"),
    };
    if attributes != types::entry::AdditionalAttributes::default() {
        entry.additional_attributes = Some(attributes);
    }
    Ok(entry)
}

/// Makes the entry that replaces the present one. Attributes that share a message are kept when not given.
async fn updated_entry(flags: &Flags, server: &Server) -> anyhow::Result<types::Entry> {
    let id = flags.non_empty("entryID").context("entry ID is required")?;
    ensure!(
        !flags.list("selector").is_empty(),
        "at least one selector is required"
    );
    ensure!(
        flags.non_empty("parentID").is_some(),
        "a parent ID is required"
    );
    let mut entry = entry_of_flags(flags, |_| Ok(id::parse(flags.string("parentID"))?))?;
    id.clone_into(&mut entry.id);
    let (prefetch, jti) = ("disableX509SVIDPrefetch", "jwtSVIDIncludeJTI");
    if !flags.is_given(prefetch) && !flags.is_given(jti) {
        return Ok(entry);
    }
    let existing = EntryClient::new(server.channel.clone())
        .get_entry(GetEntryRequest {
            id: id.to_owned(),
            ..GetEntryRequest::default()
        })
        .await
        .map_err(|status| server.error(&status))
        .context("failed to fetch existing entry to merge additional attributes")?
        .into_inner();
    let mut attributes = existing.additional_attributes.unwrap_or_default();
    if flags.is_given(prefetch) {
        attributes.disable_x509_svid_prefetch = flags.bool(prefetch);
    }
    if flags.is_given(jti) {
        attributes.jwt_svid_include_jti = flags.bool(jti);
    }
    entry.additional_attributes = Some(attributes);
    Ok(entry)
}

fn entry_of_flags(
    flags: &Flags,
    parent: impl FnOnce(&SpiffeId) -> anyhow::Result<types::Spiffeid>,
) -> anyhow::Result<types::Entry> {
    ensure!(
        flags.non_empty("spiffeID").is_some(),
        "a SPIFFE ID is required"
    );
    ensure!(
        flags.int("x509SVIDTTL") >= 0,
        "a positive x509-SVID TTL is required"
    );
    ensure!(
        flags.int("jwtSVIDTTL") >= 0,
        "a positive JWT-SVID TTL is required"
    );
    let spiffe_id = SpiffeId::parse(flags.string("spiffeID"))?;
    Ok(types::Entry {
        parent_id: Some(parent(&spiffe_id)?),
        spiffe_id: Some(id::parse(spiffe_id.as_str())?),
        selectors: id::selectors(flags.list("selector"))?,
        x509_svid_ttl: i32::try_from(flags.int("x509SVIDTTL"))
            .context("invalid value for X509 SVID TTL")?,
        jwt_svid_ttl: i32::try_from(flags.int("jwtSVIDTTL"))
            .context("invalid value for JWT SVID TTL")?,
        federates_with: flags.list("federatesWith").to_vec(),
        admin: flags.bool("admin"),
        downstream: flags.bool("downstream"),
        expires_at: flags.int("entryExpiry"),
        dns_names: flags.list("dns").to_vec(),
        store_svid: flags.bool("storeSVID"),
        hint: flags.string("hint").to_owned(),
        ..types::Entry::default()
    })
}

fn is_failed(status: Option<&types::Status>) -> bool {
    status.is_some_and(|status| status.code != 0)
}

fn results_text<'a>(
    verb: &str,
    results: impl Iterator<Item = (Option<&'a types::Status>, Option<&'a types::Entry>)>,
) -> Printed {
    let mut printed = Printed::default();
    for (status, entry) in results {
        let none = types::Entry::default();
        let entry = entry.unwrap_or(&none);
        if is_failed(status) {
            printed
                .err
                .push_str(&entry_render::failed(verb, status, entry));
            printed.failure = Some(format!("failed to {verb} one or more entries"));
        } else {
            printed.out.push_str(&entry_render::entry(entry));
        }
    }
    printed
}

/// Successes, then failures, then a summary; scripts know the summary to have no newline.
fn deleted_text(response: &BatchDeleteEntryResponse) -> Printed {
    let (failed, deleted): (Vec<_>, Vec<_>) = response
        .results
        .iter()
        .partition(|result| is_failed(result.status.as_ref()));
    let mut printed = Printed::default();
    for result in &deleted {
        printed
            .out
            .extend(["Deleted entry with ID: ", &result.id, "\n"]);
    }
    if !deleted.is_empty() {
        printed.out.push_str("\n\n");
    }
    for result in &failed {
        let status = result.status.clone().unwrap_or_default();
        let line = format!(
            "Failed to delete entry with ID {} (code: {}, msg: {})\n",
            result.id,
            code_name(status.code),
            quote(&status.message)
        );
        printed.err.push_str(&line);
    }
    if failed.is_empty() {
        let summary = format!("Deleted {} entries successfully", deleted.len());
        printed.out.push_str(&summary);
        return printed;
    }
    let summary = if deleted.is_empty() {
        format!("Failed to delete {} entries", failed.len())
    } else {
        format!(
            "Deleted {} entries successfully, but failed to delete {} entries",
            deleted.len(),
            failed.len()
        )
    };
    printed.out.extend(["\n\n", &summary]);
    printed.failure = Some("failed to delete one or more entries".to_owned());
    printed
}

#[cfg(test)]
mod tests {
    use finial_proto::pb::spire::api::server::entry::v1::batch_delete_entry_response;

    use super::*;

    fn parse(words: &[&str]) -> anyhow::Result<types::Entry> {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        new_entry(&create_flags().parse(&words).unwrap())
    }

    #[test]
    fn flags_are_checked_in_spires_order() {
        for (words, message) in [
            (&[][..], "at least one selector is required"),
            (
                &["-selector", "a:b"],
                "a parent ID is required if the node flag is not set",
            ),
            (
                &["-selector", "a:b", "-node", "-federatesWith", "x"],
                "node entries can not federate",
            ),
            (
                &["-selector", "a:b", "-parentID", "spiffe://td/p"],
                "a SPIFFE ID is required",
            ),
            (
                &[
                    "-selector",
                    "a:b",
                    "-node",
                    "-spiffeID",
                    "spiffe://td/x",
                    "-x509SVIDTTL",
                    "-1",
                ],
                "a positive x509-SVID TTL is required",
            ),
            (
                &["-selector", "ab", "-node", "-spiffeID", "spiffe://td/x"],
                "selector \"ab\" must be formatted as type:value",
            ),
        ] {
            assert_eq!(parse(words).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_node_entry_hangs_below_the_server() {
        let words = ["-selector", "a:b:c", "-node", "-spiffeID", "spiffe://td/x"];
        let entry = parse(&words).unwrap();
        let server = "spiffe://td/spire/server";
        assert_eq!(id::render(entry.parent_id.as_ref()), server);
        let with_parent = |parent| parse(&[&words[..], &["-parentID", parent]].concat());
        assert_eq!(with_parent(server).unwrap(), entry);
        let error = with_parent("spiffe://td/other").unwrap_err().to_string();
        assert!(error.contains(server), "{error}");
        assert_eq!(entry.selectors, [id::selector("a:b:c").unwrap()]);
        assert_eq!(entry.additional_attributes, None);
    }

    fn result(id: &str, code: i32, message: &str) -> batch_delete_entry_response::Result {
        batch_delete_entry_response::Result {
            id: id.into(),
            status: Some(types::Status {
                code,
                message: message.into(),
            }),
        }
    }

    #[test]
    fn deleting_says_what_went_and_what_stayed() {
        let printed = deleted_text(&BatchDeleteEntryResponse {
            results: vec![result("a", 0, "OK"), result("b", 5, "entry not found")],
        });
        assert_eq!(
            printed.out,
            "Deleted entry with ID: a\n\n\n\n\nDeleted 1 entries successfully, but failed to delete 1 entries"
        );
        assert_eq!(
            printed.err,
            "Failed to delete entry with ID b (code: NotFound, msg: \"entry not found\")\n"
        );
        let printed = deleted_text(&BatchDeleteEntryResponse {
            results: vec![result("a", 0, "OK")],
        });
        assert_eq!(
            printed.out,
            "Deleted entry with ID: a\n\n\nDeleted 1 entries successfully"
        );
        assert_eq!(printed.failure, None);
    }
}
