//! The HCL reader against what Go's own HCL 1 parser was recorded to do.
#![expect(
    clippy::indexing_slicing,
    clippy::struct_field_names,
    clippy::unwrap_used,
    reason = "test support"
)]

use std::collections::BTreeMap;

use finial_runtime::config::hcl::{self, Node, Table, UnknownKey, Value};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// Cases where Go reports a later scanner error than the first one, or no place; ours says where it began.
const POSITION_DIFFERS: [&str; 3] = ["newline in string", "nul byte", "big int"];

#[derive(Debug, Deserialize)]
struct Case {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Input")]
    input: String,
    #[serde(rename = "Output")]
    output: Option<Json>,
    #[serde(rename = "Error")]
    error: Option<String>,
    #[serde(rename = "Struct")]
    decoded: Option<Json>,
    #[serde(rename = "StructError")]
    decode_error: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all(serialize = "PascalCase"))]
struct Target {
    name: String,
    port: i64,
    on: bool,
    ratio: f64,
    list: Option<Vec<String>>,
    ptr: Option<bool>,
    m: Option<BTreeMap<String, String>>,
    sub: Option<Sub>,
    subs: Option<Vec<Subs>>,
    plugins: Option<BTreeMap<String, BTreeMap<String, Plugin>>>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all(serialize = "PascalCase"))]
struct Sub {
    a: String,
    b: i64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all(serialize = "PascalCase"))]
struct Subs {
    a: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all(serialize = "PascalCase"))]
struct Plugin {
    plugin_cmd: String,
    enabled: Option<bool>,
    #[serde(skip_serializing)]
    plugin_data: serde::de::IgnoredAny,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("fixtures/hcl1-cases.json")).unwrap()
}

/// What Go's decoder makes of a table when the target has no type: blocks are lists of maps.
fn untyped(table: &Table) -> Json {
    let mut map = Map::new();
    for item in &table.items {
        let value = match (&item.node.value, map.remove(&item.key)) {
            (Value::Table(table), Some(Json::Array(mut maps))) => {
                maps.push(untyped(table));
                Json::Array(maps)
            }
            (Value::Table(table), _) => json!([untyped(table)]),
            (Value::List(nodes), Some(Json::Array(mut items))) => {
                items.extend(nodes.iter().map(element));
                Json::Array(items)
            }
            _ => element(&item.node),
        };
        map.insert(item.key.clone(), value);
    }
    Json::Object(map)
}

fn element(node: &Node) -> Json {
    match &node.value {
        Value::String(text) => json!(text),
        Value::Integer(value, _) => json!(value),
        Value::Float(value) if value.fract() == 0.0 => {
            json!(format!("{value}").parse::<i64>().unwrap())
        }
        Value::Float(value) => json!(value),
        Value::Bool(value) => json!(value),
        Value::List(nodes) => nodes.iter().map(element).collect(),
        Value::Table(table) => untyped(table),
    }
}

#[test]
fn every_recorded_input_parses_or_fails_as_recorded() {
    for case in cases() {
        match (hcl::parse(&case.input), &case.error) {
            (Ok(table), None) => {
                assert_eq!(Some(untyped(&table)), case.output, "{}", case.name);
            }
            (Err(error), Some(expected)) => {
                if !POSITION_DIFFERS.contains(&case.name.as_str()) {
                    let (error, expected) = (error.to_string(), expected.as_str());
                    let text = |text: &str| text.trim_start_matches("At ").to_owned();
                    assert_eq!(text(&error), text(expected), "{}", case.name);
                }
            }
            (result, expected) => panic!("{}: {result:?}, expected {expected:?}", case.name),
        }
    }
}

#[test]
fn every_recorded_input_decodes_into_a_struct_as_recorded() {
    for case in cases() {
        let decoded =
            hcl::parse(&case.input).and_then(|table| hcl::decode::<Target>(&table, "root"));
        match (decoded, &case.decode_error) {
            (Ok((target, unknown)), None) => {
                let mut expected = case.decoded.unwrap();
                let recorded = take_unknown(&mut expected);
                assert_eq!(normal(json!(target)), normal(expected), "{}", case.name);
                // Go's JSON reader reports labels as unknown keys of the root although it decodes them.
                if case.name != "json plugins map" {
                    assert_eq!(places(&unknown), recorded, "{}", case.name);
                }
            }
            (Err(error), Some(expected)) => same_place(&case.name, &error, expected),
            (result, expected) => panic!("{}: {result:?}, expected {expected:?}", case.name),
        }
    }
}

fn same_place(name: &str, error: &hcl::HclError, expected: &str) {
    let Some((place, _)) = expected
        .strip_prefix("At ")
        .and_then(|text| text.split_once(": "))
    else {
        return;
    };
    if place != "-" && !POSITION_DIFFERS.contains(&name) {
        assert_eq!(error.position.unwrap().to_string(), place, "{name}");
    }
}

/// Removes the recorded unknown keys at the root and below, and returns key and place of each.
fn take_unknown(value: &mut Json) -> Vec<String> {
    let mut found = Vec::new();
    if let Json::Object(fields) = value {
        if let Some(Json::Object(keys)) = fields.remove("Unknown") {
            for (key, places) in keys {
                let place = &places[0];
                found.push(format!("{key} {}:{}", place["Line"], place["Column"]));
            }
        }
        for field in fields.values_mut() {
            found.extend(take_unknown(field));
        }
    }
    found.sort();
    found
}

fn places(unknown: &[UnknownKey]) -> Vec<String> {
    let mut places: Vec<_> = unknown
        .iter()
        .map(|unknown| format!("{} {}", unknown.key, unknown.position))
        .collect();
    places.sort();
    places
}

/// Numbers as floats, so that `0` and `0.0` are the same.
fn normal(value: Json) -> Json {
    match value {
        Json::Number(number) => json!(number.as_f64()),
        Json::Array(items) => items.into_iter().map(normal).collect(),
        Json::Object(fields) => Json::Object(
            fields
                .into_iter()
                .map(|(key, value)| (key, normal(value)))
                .collect(),
        ),
        other => other,
    }
}

#[test]
fn an_unknown_key_names_its_section_line_and_neighbour() {
    let text = "name = \"x\"\nsub {\n  a = \"x\"\n}\nplugns {\n}\n";
    let (_, unknown) = hcl::decode::<Target>(&hcl::parse(text).unwrap(), "").unwrap();
    let texts: Vec<_> = unknown.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        ["line 5: unknown key \"plugns\" at the top of the file; did you mean \"plugins\"?"]
    );
}

#[test]
fn a_value_of_the_wrong_kind_says_where_and_what_was_expected() {
    let decode = |text: &str| {
        hcl::decode::<Target>(&hcl::parse(text).unwrap(), "")
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        decode("sub {\n  b = \"ten\"\n}"),
        "At 2:7: sub.b: expected a whole number, found the string \"ten\""
    );
    assert_eq!(
        decode("list = \"a\""),
        "At 1:8: list: expected a list, found the string \"a\""
    );
    assert_eq!(
        decode("on = \"true\""),
        "At 1:6: on: expected true or false without quotes, found the string \"true\""
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(\\{|\\}|\\[|\\]|=|,|:|\"|\\\\|\\$|<<|-|#|/|\\*|\\.|a|true|null|0x|1|e|\n|ä| ){0,60}") {
        if let Ok(table) = hcl::parse(&text) {
            drop(hcl::decode::<Target>(&table, ""));
        }
    }

    #[test]
    fn a_written_string_is_read_back(text in "[ -~äöü\n\t]{0,40}") {
        // `${` begins an interpolation, in which escapes mean nothing.
        let text = text.replace('$', "");
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
        let table = hcl::parse(&format!("name = \"{quoted}\"")).unwrap();
        prop_assert_eq!(&table.items[0].node.value, &Value::String(text));
    }
}

#[test]
fn nesting_ends_at_the_limit() {
    for (open, close) in [("a {", "}"), ("{\"a\":", "}"), ("a = [", "]")] {
        let text = |depth: usize| {
            let inner = if open.starts_with('{') { "{}" } else { "" };
            let opened = if open.contains('[') {
                format!("a = {}", "[".repeat(depth))
            } else {
                open.repeat(depth)
            };
            format!("{opened}{inner}{}", close.repeat(depth))
        };
        assert!(hcl::parse(&text(60)).is_ok(), "{open}");
        let error = hcl::parse(&text(100_000)).unwrap_err();
        assert_eq!(error.message, "blocks and lists nest deeper than 64 levels");
    }
}
