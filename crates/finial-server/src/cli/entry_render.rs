//! Entries as people read them.

use finial_client::rpc_error::code_name;
use finial_proto::pb::spire::api::types;
use finial_runtime::go_text::quote;

use super::id;

/// Renders an entry with a blank line after it.
pub(super) fn entry(entry: &types::Entry) -> String {
    let mut lines = Lines::default();
    let id = if entry.id.is_empty() {
        "(none)"
    } else {
        &entry.id
    };
    lines.add("Entry ID", id);
    lines.add("SPIFFE ID", &id::render(entry.spiffe_id.as_ref()));
    lines.add("Parent ID", &id::render(entry.parent_id.as_ref()));
    lines.add("Revision", &entry.revision_number.to_string());
    if entry.downstream {
        lines.add("Downstream", "true");
    }
    lines.add("X509-SVID TTL", &ttl(entry.x509_svid_ttl));
    lines.add("JWT-SVID TTL", &ttl(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        lines.add("Expiration time", &time(entry.expires_at));
    }
    for selector in &entry.selectors {
        let selector = format!("{}:{}", selector.r#type, selector.value);
        lines.add("Selector", &selector);
    }
    for trust_domain in &entry.federates_with {
        lines.add("FederatesWith", trust_domain);
    }
    for name in &entry.dns_names {
        lines.add("DNS name", name);
    }
    if entry.admin {
        lines.add("Admin", "true");
    }
    if entry.store_svid {
        lines.add("StoreSvid", "true");
    }
    if !entry.hint.is_empty() {
        lines.add("Hint", &entry.hint);
    }
    if let Some(attributes) = &entry.additional_attributes {
        if attributes.disable_x509_svid_prefetch {
            lines.add("DisableX509SvidPrefetch", "true");
        }
        if attributes.jwt_svid_include_jti {
            lines.add("JwtSvidIncludeJti", "true");
        }
    }
    lines.text.push('\n');
    lines.text
}

/// Renders an entry that could not be created or updated.
pub(super) fn failed(
    verb: &str,
    status: Option<&types::Status>,
    requested: &types::Entry,
) -> String {
    let (code, message) = status.map_or((0, ""), |status| (status.code, &status.message));
    format!(
        "Failed to {verb} the following entry (code: {}, msg: {}):\n{}",
        code_name(code),
        quote(message),
        entry(requested)
    )
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, label: &str, value: &str) {
        self.text.extend([&format!("{label:<24}: "), value, "\n"]);
    }
}

fn ttl(seconds: i32) -> String {
    match seconds {
        0 => "default".to_owned(),
        seconds => seconds.to_string(),
    }
}

/// Renders a time in UTC as Go does: `2006-01-02 15:04:05 +0000 UTC`.
pub(super) fn time(unix_seconds: i64) -> String {
    let Ok(time) = time::OffsetDateTime::from_unix_timestamp(unix_seconds) else {
        return format!("{unix_seconds} seconds after 1970");
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} +0000 UTC",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> types::Entry {
        types::Entry {
            spiffe_id: Some(id::parse("spiffe://td/x").unwrap()),
            parent_id: Some(id::parse("spiffe://td/y").unwrap()),
            selectors: vec![id::selector("unix:uid:1000").unwrap()],
            ..types::Entry::default()
        }
    }

    #[test]
    fn a_plain_entry_shows_what_every_entry_has() {
        assert_eq!(
            entry(&sample()),
            "Entry ID                : (none)\n\
             SPIFFE ID               : spiffe://td/x\n\
             Parent ID               : spiffe://td/y\n\
             Revision                : 0\n\
             X509-SVID TTL           : default\n\
             JWT-SVID TTL            : default\n\
             Selector                : unix:uid:1000\n\n"
        );
    }

    #[test]
    fn an_entry_with_everything_shows_everything_in_spires_order() {
        let full = types::Entry {
            id: "e-1".into(),
            revision_number: 3,
            downstream: true,
            x509_svid_ttl: 60,
            jwt_svid_ttl: 30,
            expires_at: 1_795_355_011,
            federates_with: vec!["td2".into()],
            dns_names: vec!["a.b".into(), "c.d".into()],
            admin: true,
            store_svid: true,
            hint: "h".into(),
            additional_attributes: Some(types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: true,
            }),
            ..sample()
        };
        assert_eq!(
            entry(&full),
            "Entry ID                : e-1\n\
             SPIFFE ID               : spiffe://td/x\n\
             Parent ID               : spiffe://td/y\n\
             Revision                : 3\n\
             Downstream              : true\n\
             X509-SVID TTL           : 60\n\
             JWT-SVID TTL            : 30\n\
             Expiration time         : 2026-11-22 13:43:31 +0000 UTC\n\
             Selector                : unix:uid:1000\n\
             FederatesWith           : td2\n\
             DNS name                : a.b\n\
             DNS name                : c.d\n\
             Admin                   : true\n\
             StoreSvid               : true\n\
             Hint                    : h\n\
             DisableX509SvidPrefetch : true\n\
             JwtSvidIncludeJti       : true\n\n"
        );
    }

    #[test]
    fn a_failed_entry_says_why() {
        let status = types::Status {
            code: 6,
            message: "similar entry already exists".into(),
        };
        let text = failed("create", Some(&status), &sample());
        assert_eq!(
            text.lines().next(),
            Some(
                "Failed to create the following entry (code: AlreadyExists, msg: \"similar entry already exists\"):"
            )
        );
    }
}
