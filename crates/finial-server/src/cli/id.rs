//! SPIFFE IDs and selectors on the command line.

use anyhow::anyhow;
use finial_proto::pb::spire::api::types;
use spiffe_types::id::{IdError, SpiffeId};

/// Parses an ID into its message.
pub(super) fn parse(text: &str) -> Result<types::Spiffeid, IdError> {
    let id = SpiffeId::parse(text)?;
    Ok(types::Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    })
}

/// Renders the message of an ID; empty when there is none.
pub(super) fn render(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// Parses `type:value`; the value may hold colons.
pub(super) fn selector(text: &str) -> anyhow::Result<types::Selector> {
    let (kind, value) = text
        .split_once(':')
        .ok_or_else(|| anyhow!("selector \"{text}\" must be formatted as type:value"))?;
    Ok(types::Selector {
        r#type: kind.to_owned(),
        value: value.to_owned(),
    })
}

/// Parses every selector.
pub(super) fn selectors(texts: &[String]) -> anyhow::Result<Vec<types::Selector>> {
    texts.iter().map(|text| selector(text)).collect()
}
