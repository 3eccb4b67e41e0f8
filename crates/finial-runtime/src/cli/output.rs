//! `-output`: pretty or JSON.

use serde_json::Value;

use super::{Console, Flags};
use crate::go_json;
use crate::go_text::quote;

/// The name of the flag.
pub const OUTPUT_FLAG: &str = "output";

/// How a command prints its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Pretty,
    /// One line of JSON.
    Json,
}

impl Output {
    /// Returns what the flag asks for. The flag set has checked it already.
    pub fn of(flags: &Flags) -> Self {
        match flags.string(OUTPUT_FLAG).to_ascii_lowercase().as_str() {
            "json" => Self::Json,
            _ => Self::Pretty,
        }
    }

    /// Checks a value of the flag; the flag may be repeated, but not change.
    pub(super) fn check(earlier: Option<&str>, value: &str) -> Result<(), String> {
        if let Some(earlier) = earlier
            && earlier != value
        {
            return Err(format!(
                "the output format has already been set to {}",
                quote(earlier)
            ));
        }
        match value.to_ascii_lowercase().as_str() {
            "pretty" | "prettyprint" | "json" => Ok(()),
            _ => Err(format!(
                "bad formatter flag: unknown format option: {}",
                quote(value)
            )),
        }
    }
}

/// Prints a value on one line: keys sorted, HTML characters escaped, nulls dropped.
pub fn print_json(console: &mut Console, mut value: Value) {
    drop_nulls(&mut value);
    console.outln(go_json::to_string(&value));
}

/// Removes every field that is null.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
