//! Entries and ids from JSON files, as `-data` and `-file` take them.

use finial_runtime::fs::read_text;
use std::io::Read as _;

use anyhow::Context as _;
use finial_proto::pb::spire::api::types;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::id;

/// Field names are lower case here because case does not matter in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EntriesFile {
    entries: Option<Vec<EntryJson>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EntryJson {
    entry_id: String,
    selectors: Option<Vec<SelectorJson>>,
    parent_id: String,
    spiffe_id: String,
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    federates_with: Option<Vec<String>>,
    admin: bool,
    downstream: bool,
    #[serde(rename = "entryexpiry")]
    entry_expiry: i64,
    dns_names: Option<Vec<String>>,
    store_svid: bool,
    hint: String,
    additional_attributes: Option<AttributesJson>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SelectorJson {
    r#type: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AttributesJson {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IdsFile {
    ids: Option<Vec<String>>,
}

/// Reads the entries of a file; `-` is standard input.
pub(super) fn entries(path: &str) -> anyhow::Result<Vec<types::Entry>> {
    parse_entries(&read(path)?).with_context(|| format!("failed to read entries from {path}"))
}

/// Reads the entry ids of a file; `-` is standard input.
pub(super) fn ids(path: &str) -> anyhow::Result<Vec<String>> {
    let file: IdsFile =
        parse(&read(path)?).with_context(|| format!("failed to read entry IDs from {path}"))?;
    Ok(file.ids.unwrap_or_default())
}

fn read(path: &str) -> anyhow::Result<String> {
    if path == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("failed to read standard input")?;
        return Ok(text);
    }
    Ok(read_text(path)?)
}

fn parse_entries(text: &str) -> anyhow::Result<Vec<types::Entry>> {
    let file: EntriesFile = parse(text)?;
    file.entries
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            entry
                .into_message()
                .with_context(|| format!("entry {index} is not valid"))
        })
        .collect()
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(lower_keys(serde_json::from_str(text)?))
}

/// Makes the keys lower case, and drops nulls, which mean "not given".
fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.to_lowercase(), lower_keys(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => items.into_iter().map(lower_keys).collect(),
        other => other,
    }
}

impl EntryJson {
    fn into_message(self) -> anyhow::Result<types::Entry> {
        let selectors = self.selectors.unwrap_or_default();
        Ok(types::Entry {
            id: self.entry_id,
            spiffe_id: Some(id::parse(&self.spiffe_id).context("invalid spiffe ID")?),
            parent_id: Some(id::parse(&self.parent_id).context("invalid parent ID")?),
            selectors: selectors
                .into_iter()
                .map(|selector| types::Selector {
                    r#type: selector.r#type,
                    value: selector.value,
                })
                .collect(),
            x509_svid_ttl: self.x509_svid_ttl,
            jwt_svid_ttl: self.jwt_svid_ttl,
            federates_with: self.federates_with.unwrap_or_default(),
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.entry_expiry,
            dns_names: self.dns_names.unwrap_or_default(),
            store_svid: self.store_svid,
            hint: self.hint,
            additional_attributes: self.additional_attributes.map(|attributes| {
                types::entry::AdditionalAttributes {
                    disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
                    jwt_svid_include_jti: attributes.jwt_svid_include_jti,
                }
            }),
            ..types::Entry::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_file_is_read_without_regard_to_case() {
        let entries = parse_entries(
            r#"{"Entries": [{
                "selectors": [{"type": "unix", "value": "uid:1"}],
                "spiffe_id": "spiffe://td/x", "Parent_ID": "spiffe://td/y",
                "x509_svid_ttl": 60, "entryExpiry": 5, "dns_names": null, "unknown": 1,
                "additional_attributes": {"jwt_svid_include_jti": true}
            }]}"#,
        )
        .unwrap();
        assert_eq!(
            entries,
            [types::Entry {
                spiffe_id: Some(id::parse("spiffe://td/x").unwrap()),
                parent_id: Some(id::parse("spiffe://td/y").unwrap()),
                selectors: vec![id::selector("unix:uid:1").unwrap()],
                x509_svid_ttl: 60,
                expires_at: 5,
                additional_attributes: Some(types::entry::AdditionalAttributes {
                    jwt_svid_include_jti: true,
                    ..Default::default()
                }),
                ..types::Entry::default()
            }]
        );
    }

    #[test]
    fn a_bad_entry_is_named_by_its_place() {
        let error = parse_entries(r#"{"entries": [{"spiffe_id": "x"}]}"#).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("entry 0 is not valid: invalid spiffe ID: "),
            "{error:#}"
        );
    }
}
