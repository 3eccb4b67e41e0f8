//! `debug getinfo`.

use std::time::Duration;

use finial_proto::json::to_json;
use finial_proto::pb::spire::agent::debug::v1::debug_client::DebugClient;
use finial_proto::pb::spire::agent::debug::v1::{GetInfoRequest, GetInfoResponse};
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK, Output, print_json};
use finial_runtime::config::duration;
use finial_runtime::process;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::admin::{self, Admin};

/// Flags of `debug getinfo`.
pub(super) fn flags() -> FlagSet {
    admin::flags("debug getinfo").output()
}

/// `debug getinfo`
pub(super) fn getinfo(flags: &Flags, console: &mut Console) -> Code {
    match fetch(flags, console) {
        Ok(()) => OK,
        Err(error) => {
            console.errln(format_args!("Error: {error:#}"));
            FAILED
        }
    }
}

fn fetch(flags: &Flags, console: &mut Console) -> anyhow::Result<()> {
    let agent = Admin::find(flags);
    let answer = process::block_on(async {
        DebugClient::new(agent.channel())
            .get_info(GetInfoRequest {})
            .await
    })?;
    let info = answer.map_err(|status| agent.error(&status))?.into_inner();
    match Output::of(flags) {
        Output::Json => print_json(
            console,
            to_json("spire.agent.debug.v1.GetInfoResponse", &info)?,
        ),
        Output::Pretty => console.out(pretty(&info)),
    }
    Ok(())
}

fn pretty(info: &GetInfoResponse) -> String {
    let uptime = Duration::from_secs(u64::try_from(info.uptime).unwrap_or(0));
    let last_sync = match info.last_sync_success {
        0 => "(never)".to_owned(),
        seconds => rfc3339(seconds),
    };
    let mut text = format!(
        "Agent Debug Info:\n  \
           Uptime:                          {}\n  \
           Last Sync Success:               {last_sync}\n  \
           Cached X.509 SVIDs:              {}\n  \
           Cached JWT SVIDs:                {}\n  \
           Cached SVID Store X.509 SVIDs:   {}\n",
        duration::format(uptime),
        info.cached_x509_svids_count,
        info.cached_jwt_svids_count,
        info.cached_svidstore_x509_svids_count,
    );
    if !info.svid_chain.is_empty() {
        text.push_str("  SVID Chain:\n");
    }
    let chain = info
        .svid_chain
        .iter()
        .enumerate()
        .map(|(index, certificate)| {
            let id = certificate.id.as_ref().map_or_else(
                || "(none)".to_owned(),
                |id| format!("spiffe://{}{}", id.trust_domain, id.path),
            );
            format!(
                "    [{index}] SPIFFE ID:  {id}\n        Subject:    {}\n        Expires At: {}\n",
                certificate.subject,
                rfc3339(certificate.expires_at)
            )
        });
    text.extend(chain);
    text
}

/// A moment in Unix seconds as RFC 3339 writes it.
pub(super) fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
mod tests {
    use finial_proto::pb::spire::agent::debug::v1::get_info_response::Cert;

    use super::*;

    #[test]
    fn the_report_reads_as_spires() {
        let info = GetInfoResponse {
            svid_chain: vec![Cert {
                id: None,
                expires_at: 1_704_070_800,
                subject: "C=US,O=SPIRE".to_owned(),
            }],
            uptime: 3723,
            last_sync_success: 1_704_067_200,
            cached_x509_svids_count: 3,
            ..GetInfoResponse::default()
        };
        assert_eq!(
            pretty(&info),
            concat!(
                "Agent Debug Info:\n",
                "  Uptime:                          1h2m3s\n",
                "  Last Sync Success:               2024-01-01T00:00:00Z\n",
                "  Cached X.509 SVIDs:              3\n",
                "  Cached JWT SVIDs:                0\n",
                "  Cached SVID Store X.509 SVIDs:   0\n",
                "  SVID Chain:\n",
                "    [0] SPIFFE ID:  (none)\n",
                "        Subject:    C=US,O=SPIRE\n",
                "        Expires At: 2024-01-01T01:00:00Z\n",
            )
        );
        assert!(
            pretty(&GetInfoResponse::default())
                .contains("Last Sync Success:               (never)\n")
        );
    }
}
