//! From tracing events to the command's voice.

use crate::command::report::{Severity, Verbosity, Voice};
use serde_json::{Map, Value};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts to send events to `voice`: ours as it is set, those of libraries only from `-v` on
/// and only their warnings, because a library's debug output may show secrets.
pub fn start(voice: &Voice) {
    let ours = voice.verbosity.filter();
    let libraries = match voice.verbosity >= Verbosity::Info {
        true => LevelFilter::WARN,
        false => LevelFilter::OFF,
    };
    let targets = Targets::new().with_default(libraries).with_target("barman_cloud", ours);
    let layer = VoiceLayer { voice: voice.clone() }.with_filter(targets);
    // Fails only when a subscriber is set already, as in tests that share a process.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

struct VoiceLayer {
    voice: Voice,
}

/// The fields of a span, kept for the events inside it.
struct SpanFields(Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for VoiceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(scope) = context.event_scope(event) {
            for span in scope {
                if let Some(SpanFields(outer)) = span.extensions().get::<SpanFields>() {
                    for (name, value) in outer {
                        fields.fields.entry(name.clone()).or_insert_with(|| value.clone());
                    }
                }
            }
        }
        self.voice.say(severity(*event.metadata().level()), &fields.message, &fields.fields);
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warning,
        Level::INFO => Severity::Info,
        _ => Severity::Debug,
    }
}

/// Collects an event's message and its other fields.
#[derive(Default)]
struct Fields {
    message: String,
    fields: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().into(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}
