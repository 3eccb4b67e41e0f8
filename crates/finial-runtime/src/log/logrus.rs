//! The layer that turns events into the lines SPIRE's logger prints.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level as TracingLevel, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::{Format, SharedLevel, Sink, chain};
use crate::clock::SharedClock;
use crate::go_json;
use crate::go_text::push_quoted;

/// Crates whose events are ours; of the others only errors are shown.
const OURS: [&str; 2] = ["finial", "spiffe_types"];

#[derive(Debug)]
pub(super) struct LogrusLayer {
    pub(super) format: Format,
    pub(super) source_location: bool,
    pub(super) level: SharedLevel,
    pub(super) sink: Arc<Sink>,
    pub(super) clock: SharedClock,
}

impl LogrusLayer {
    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        let ours = OURS
            .iter()
            .any(|prefix| metadata.target().starts_with(prefix));
        if metadata.is_span() {
            return ours;
        }
        let level = self.level.get().filter();
        *metadata.level()
            <= if ours {
                level
            } else {
                level.min(LevelFilter::ERROR)
            }
    }

    fn render(&self, metadata: &Metadata<'_>, mut fields: BTreeMap<String, FieldValue>) -> String {
        let message = match fields.remove("message") {
            Some(FieldValue::Text(text)) => text,
            _ => String::new(),
        };
        let mut head = vec![
            ("time", timestamp(self.clock.now(), self.format)),
            ("level", level_name(*metadata.level()).to_owned()),
            ("msg", message),
        ];
        if self.source_location {
            head.push((
                "func",
                metadata.module_path().unwrap_or_default().to_owned(),
            ));
            let file = metadata.file().unwrap_or_default();
            let line = metadata.line().unwrap_or_default();
            head.push(("file", format!("{file}:{line}")));
        }
        // A field cannot pass for what the logger itself says.
        for (reserved, _) in &head {
            if let Some(value) = fields.remove(*reserved) {
                fields.insert(format!("fields.{reserved}"), value);
            }
        }
        match self.format {
            Format::Plain | Format::Text => text_line(&head, &fields),
            Format::Json => json_line(head, fields),
        }
    }
}

impl<S> Layer<S> for LogrusLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.shows(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.shows(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Spans carry the fields of the lines within them, whatever the level of those.
        Some(self.level.get().filter().max(LevelFilter::INFO))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                if let Some(of_span) = span.extensions().get::<Fields>() {
                    fields
                        .0
                        .extend(of_span.0.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
            }
        }
        event.record(&mut fields);
        self.sink
            .write(self.render(event.metadata(), fields.0).as_bytes());
    }
}

#[derive(Debug, Default)]
struct Fields(BTreeMap<String, FieldValue>);

#[derive(Clone, Debug)]
enum FieldValue {
    Text(String),
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

impl Fields {
    fn set(&mut self, field: &Field, value: FieldValue) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, FieldValue::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, FieldValue::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, FieldValue::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, FieldValue::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, FieldValue::Float(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set(field, FieldValue::Text(chain(value).to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field, FieldValue::Text(format!("{value:?}")));
    }
}

fn level_name(level: TracingLevel) -> &'static str {
    match level {
        TracingLevel::ERROR => "error",
        TracingLevel::WARN => "warning",
        TracingLevel::INFO => "info",
        TracingLevel::DEBUG => "debug",
        TracingLevel::TRACE => "trace",
    }
}

fn timestamp(now: SystemTime, format: Format) -> String {
    let now = OffsetDateTime::from(now);
    let mut out = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    if !matches!(format, Format::Plain) && now.nanosecond() > 0 {
        let nanos = format!(".{:09}", now.nanosecond());
        out.push_str(nanos.trim_end_matches('0'));
    }
    out.push('Z');
    out
}

fn text_line(head: &[(&str, String)], fields: &BTreeMap<String, FieldValue>) -> String {
    let mut out = String::new();
    for (key, value) in head {
        push_text(&mut out, key, value);
    }
    for (key, value) in fields {
        match value {
            FieldValue::Text(text) => push_text(&mut out, key, text),
            FieldValue::Bool(value) => push_text(&mut out, key, &value.to_string()),
            FieldValue::Signed(value) => push_text(&mut out, key, &value.to_string()),
            FieldValue::Unsigned(value) => push_text(&mut out, key, &value.to_string()),
            FieldValue::Float(value) => push_text(&mut out, key, &value.to_string()),
        }
    }
    out.push('\n');
    out
}

fn push_text(out: &mut String, key: &str, value: &str) {
    if !out.is_empty() {
        out.push(' ');
    }
    out.push_str(key);
    out.push('=');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if value.chars().all(plain) {
        out.push_str(value);
    } else {
        push_quoted(out, value);
    }
}

fn json_line(head: Vec<(&str, String)>, fields: BTreeMap<String, FieldValue>) -> String {
    use serde_json::Value;
    let mut object: serde_json::Map<String, Value> = head
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::String(value)))
        .collect();
    for (key, value) in fields {
        let value = match value {
            FieldValue::Text(text) => Value::String(text),
            FieldValue::Bool(value) => Value::Bool(value),
            FieldValue::Signed(value) => value.into(),
            FieldValue::Unsigned(value) => value.into(),
            FieldValue::Float(value) => value.into(),
        };
        object.insert(key, value);
    }
    let mut out = go_json::to_string(&Value::Object(object));
    out.push('\n');
    out
}
