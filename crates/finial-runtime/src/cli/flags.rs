//! Flags by the rules of Go's `flag` package.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{OUTPUT_FLAG, Output};
use crate::config::duration;
use crate::config::hcl::integer;
use crate::go_text::{append, quote};

/// The flags a command knows.
#[derive(Clone, Debug)]
pub struct FlagSet {
    name: &'static str,
    flags: BTreeMap<&'static str, Flag>,
}

#[derive(Clone, Debug)]
struct Flag {
    kind: Kind,
    default: String,
    usage: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    String,
    Int,
    Bool,
    Duration,
    /// A duration whose errors say more.
    Timeout,
    /// May be given more than once.
    List,
    Output,
}

/// Why flags could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlagError {
    /// Help was asked for.
    Help,
    /// A flag is wrong; in Go's words.
    Bad(String),
}

impl FlagSet {
    /// Creates an empty set; `name` heads the usage.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            flags: BTreeMap::new(),
        }
    }

    fn with(mut self, name: &'static str, kind: Kind, default: &str, usage: &'static str) -> Self {
        let default = default.to_owned();
        self.flags.insert(
            name,
            Flag {
                kind,
                default,
                usage,
            },
        );
        self
    }

    /// Adds a text flag.
    #[must_use]
    pub fn string(self, name: &'static str, default: &str, usage: &'static str) -> Self {
        self.with(name, Kind::String, default, usage)
    }

    /// Adds a whole number.
    #[must_use]
    pub fn int(self, name: &'static str, default: i64, usage: &'static str) -> Self {
        self.with(name, Kind::Int, &default.to_string(), usage)
    }

    /// Adds a switch that is off by default.
    #[must_use]
    pub fn bool(self, name: &'static str, usage: &'static str) -> Self {
        self.with(name, Kind::Bool, "false", usage)
    }

    /// Adds a duration in Go's syntax.
    #[must_use]
    pub fn duration(self, name: &'static str, default: Duration, usage: &'static str) -> Self {
        self.with(name, Kind::Duration, &duration::format(default), usage)
    }

    /// Adds a duration that explains what is wrong with a value, as the agent's commands do.
    #[must_use]
    pub fn timeout(self, name: &'static str, default: Duration, usage: &'static str) -> Self {
        self.with(name, Kind::Timeout, &duration::format(default), usage)
    }

    /// Adds a text flag that may be repeated.
    #[must_use]
    pub fn list(self, name: &'static str, usage: &'static str) -> Self {
        self.with(name, Kind::List, "", usage)
    }

    /// Adds `-output`.
    #[must_use]
    pub fn output(self) -> Self {
        let usage = "Desired output format (pretty, json); default: pretty.";
        self.with(OUTPUT_FLAG, Kind::Output, "pretty", usage)
    }

    /// Parses the words after the command.
    pub fn parse(&self, words: &[String]) -> Result<Flags, FlagError> {
        let mut flags = Flags {
            given: BTreeMap::new(),
            defaults: self
                .flags
                .iter()
                .map(|(name, flag)| (*name, flag.default.clone()))
                .collect(),
            rest: Vec::new(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(dashed) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                flags.rest.push(word.clone());
                break;
            };
            let dashed = match dashed.strip_prefix('-') {
                Some("") => break,
                Some(rest) => rest,
                None => dashed,
            };
            if dashed.starts_with(['-', '=']) {
                return Err(FlagError::Bad(format!("bad flag syntax: {word}")));
            }
            let (name, value) = match dashed.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (dashed, None),
            };
            let Some((name, flag)) = self.flags.get_key_value(name) else {
                if name == "help" || name == "h" {
                    return Err(FlagError::Help);
                }
                return Err(FlagError::Bad(format!(
                    "flag provided but not defined: -{name}"
                )));
            };
            let value = match value {
                Some(value) => value,
                None if flag.kind == Kind::Bool => "true".to_owned(),
                None => words
                    .next()
                    .cloned()
                    .ok_or_else(|| FlagError::Bad(format!("flag needs an argument: -{name}")))?,
            };
            flags.add(name, flag.kind, value)?;
        }
        flags.rest.extend(words.cloned());
        Ok(flags)
    }

    /// Renders the usage as Go does: alphabetical, with types and defaults.
    pub fn usage(&self) -> String {
        let mut out = format!("Usage of {}:\n", self.name);
        for (name, flag) in &self.flags {
            let kind = match flag.kind {
                Kind::String => " string",
                Kind::Int => " int",
                Kind::Duration => " duration",
                Kind::List | Kind::Output | Kind::Timeout => " value",
                Kind::Bool => "",
            };
            append(
                &mut out,
                format_args!("  -{name}{kind}\n    \t{}", flag.usage),
            );
            let zero = matches!(flag.default.as_str(), "" | "0" | "false" | "0s");
            if !zero {
                let shown = match flag.kind {
                    Kind::String => quote(&flag.default),
                    _ => flag.default.clone(),
                };
                append(&mut out, format_args!(" (default {shown})"));
            }
            out.push('\n');
        }
        out
    }
}

/// The values of parsed flags.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    given: BTreeMap<&'static str, Vec<String>>,
    defaults: BTreeMap<&'static str, String>,
    rest: Vec<String>,
}

impl Flags {
    fn add(&mut self, name: &'static str, kind: Kind, value: String) -> Result<(), FlagError> {
        let invalid = |what: &str, reason: &str| {
            Err(FlagError::Bad(format!(
                "invalid {what} {} for {}-{name}: {reason}",
                quote(&value),
                if kind == Kind::Bool { "" } else { "flag " },
            )))
        };
        match kind {
            Kind::Int if integer(&value).is_none() => return invalid("value", "parse error"),
            Kind::Bool if parse_bool(&value).is_none() => {
                return invalid("boolean value", "parse error");
            }
            Kind::Duration if duration::parse_signed(&value).is_err() => {
                return invalid("value", "parse error");
            }
            Kind::Timeout => {
                if let Err(reason) = duration::parse_signed(&value) {
                    return invalid("value", &reason.to_string());
                }
            }
            Kind::Output => {
                let earlier = self.given.get(name).and_then(|values| values.last());
                if let Err(reason) = Output::check(earlier.map(String::as_str), &value) {
                    return invalid("value", &reason);
                }
            }
            Kind::String | Kind::Int | Kind::Bool | Kind::Duration | Kind::List => {}
        }
        self.given.entry(name).or_default().push(value);
        Ok(())
    }

    /// Returns whether the flag was given, even if with its default value.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Returns the last value of a flag, or its default.
    pub fn string(&self, name: &str) -> &str {
        self.given
            .get(name)
            .and_then(|values| values.last())
            .or_else(|| self.defaults.get(name))
            .map_or("", String::as_str)
    }

    /// Returns the value of a text flag, or `None` when it is empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        Some(self.string(name)).filter(|value| !value.is_empty())
    }

    /// Returns a whole number.
    pub fn int(&self, name: &str) -> i64 {
        integer(self.string(name)).unwrap_or_default()
    }

    /// Returns a switch.
    pub fn bool(&self, name: &str) -> bool {
        parse_bool(self.string(name)).unwrap_or_default()
    }

    /// Returns a duration, and whether it is negative.
    pub fn duration(&self, name: &str) -> (bool, Duration) {
        duration::parse_signed(self.string(name)).unwrap_or_default()
    }

    /// Returns every value of a repeatable flag.
    pub fn list(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the words after the flags.
    pub fn rest(&self) -> &[String] {
        &self.rest
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> FlagSet {
        FlagSet::new("entry create")
            .string("spiffeID", "", "The SPIFFE ID")
            .string("mode", "superset", "How to match")
            .int("ttl", 0, "Seconds")
            .bool("admin", "Whether it is an admin")
            .duration("for", Duration::from_hours(1), "How long")
            .list("selector", "A selector")
            .output()
    }

    fn parse(words: &[&str]) -> Result<Flags, FlagError> {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        set().parse(&words)
    }

    #[test]
    fn every_way_of_writing_a_flag_is_understood() {
        let flags = parse(&[
            "-spiffeID",
            "spiffe://a/b",
            "--ttl=0x10",
            "-admin",
            "-selector",
            "unix:uid:1000",
            "--selector=a:b=c",
            "-for",
            "-5m",
            "rest",
            "-ttl=5",
        ])
        .unwrap();
        assert_eq!(flags.string("spiffeID"), "spiffe://a/b");
        assert_eq!(flags.int("ttl"), 16);
        assert!(flags.bool("admin"));
        assert_eq!(flags.list("selector"), ["unix:uid:1000", "a:b=c"]);
        assert_eq!(flags.duration("for"), (true, Duration::from_mins(5)));
        assert_eq!(flags.string("mode"), "superset");
        assert_eq!(flags.rest(), ["rest", "-ttl=5"]);
    }

    #[test]
    fn a_value_may_begin_with_a_dash() {
        let flags = parse(&["-spiffeID", "-admin", "-ttl", "-3"]).unwrap();
        assert_eq!(flags.string("spiffeID"), "-admin");
        assert_eq!(flags.int("ttl"), -3);
        assert!(!flags.bool("admin"));
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        for (words, message) in [
            (&["-nope"][..], "flag provided but not defined: -nope"),
            (&["-spiffeID"], "flag needs an argument: -spiffeID"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["-=x"], "bad flag syntax: -=x"),
            (
                &["-ttl", "ten"],
                r#"invalid value "ten" for flag -ttl: parse error"#,
            ),
            (
                &["-admin=yes"],
                r#"invalid boolean value "yes" for -admin: parse error"#,
            ),
            (
                &["-for", "1d"],
                r#"invalid value "1d" for flag -for: parse error"#,
            ),
            (
                &["-output", "xml"],
                r#"invalid value "xml" for flag -output: bad formatter flag: unknown format option: "xml""#,
            ),
            (
                &["-output", "json", "-output", "pretty"],
                r#"invalid value "pretty" for flag -output: the output format has already been set to "json""#,
            ),
        ] {
            assert_eq!(
                parse(words).unwrap_err(),
                FlagError::Bad(message.to_owned()),
                "{words:?}"
            );
        }
        assert_eq!(parse(&["-h"]).unwrap_err(), FlagError::Help);
        assert_eq!(parse(&["--help"]).unwrap_err(), FlagError::Help);
    }

    #[test]
    fn a_bare_double_dash_ends_the_flags() {
        let flags = parse(&["--", "-admin"]).unwrap();
        assert!(!flags.bool("admin"));
        assert_eq!(flags.rest(), ["-admin"]);
    }

    #[test]
    fn output_is_read_without_regard_to_case() {
        assert_eq!(Output::of(&parse(&["-output=JSON"]).unwrap()), Output::Json);
        assert_eq!(Output::of(&parse(&[]).unwrap()), Output::Pretty);
    }

    #[test]
    fn usage_lists_flags_with_types_and_defaults() {
        assert_eq!(
            FlagSet::new("x")
                .string("b", "d", "Text")
                .bool("a", "Switch")
                .int("n", 600, "Number")
                .usage(),
            "Usage of x:\n  -a\n    \tSwitch\n  -b string\n    \tText (default \"d\")\n  -n int\n    \tNumber (default 600)\n"
        );
    }
}
