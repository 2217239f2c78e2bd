//! What a command says: log lines and the final error on stderr, results on stdout.
//!
//! ```text
//! 2026-11-20 23:58:32,123 [4711] WARNING: could not abort upload  object=s3://b/…
//! 2026-11-20 23:58:32,123 [4711] ERROR: could not write object "s3://b/…": access denied
//! HINT: Allow s3:PutObject on "arn:aws:s3:::b/main/*".
//! ```
//!
//! or, with `--log-format json`, one object per line with the same facts. Every line is one
//! write and far below 1 MiB, so readers of a pipe see whole lines. A reader that went away is
//! no error.

use crate::command::exit::Exit;
use crate::command::program::Program;
use crate::command::redact::Redactor;
use crate::store::StoreError;
use indicatif::{MultiProgress, ProgressDrawTarget};
use jiff::Zoned;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::io::{self, ErrorKind, IsTerminal, Write};
use tracing::level_filters::LevelFilter;

/// The longest text of one message or field, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// How much is said, from the counts of `-v` and `-q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Silent,
    /// Only the error that ends the command.
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl Verbosity {
    pub fn of_counts(verbose: u8, quiet: u8) -> Self {
        match (verbose, quiet) {
            (0, 0) => Self::Warning,
            (0, 1) => Self::Error,
            (0, 2) => Self::Critical,
            (0, _) => Self::Silent,
            (1, _) => Self::Info,
            (2, _) => Self::Debug,
            (_, _) => Self::Trace,
        }
    }

    /// The level of our own events.
    pub fn filter(self) -> LevelFilter {
        match self {
            Self::Silent | Self::Critical => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warning => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Barman's names of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
}

impl Severity {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// Why a command ends without success, ready to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), detail: None, hint: None }
    }

    /// Tells `error` and what caused it, once each, with the first hint of the chain.
    pub fn of_error(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(exit, error.to_string());
        let mut link = Some(error);
        while let Some(error) = link {
            if failure.hint.is_none() {
                failure.hint = error.downcast_ref::<StoreError>().and_then(|e| e.hint.clone());
            }
            link = error.source();
            if let Some(source) = link {
                failure.message.push_str(": ");
                failure.message.push_str(&source.to_string());
            }
        }
        failure
    }

    pub fn detail_if_none(mut self, detail: Option<String>) -> Self {
        self.detail = self.detail.or(detail);
        self
    }

    pub fn hint_if_none(mut self, hint: Option<String>) -> Self {
        self.hint = self.hint.or(hint);
        self
    }

    /// Adds the next step, for a failure that is made where it is found.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        self.hint_if_none(Some(hint.into()))
    }
}

/// The command's voice on stderr. Clones share the terminal's progress bars.
#[derive(Clone, Debug)]
pub struct Voice {
    pub verbosity: Verbosity,
    format: LogFormat,
    program: Program,
    bars: MultiProgress,
    redactor: Redactor,
}

impl Voice {
    pub fn new(program: Program, verbosity: Verbosity, format: LogFormat) -> Self {
        let drawn = format == LogFormat::Text
            && verbosity >= Verbosity::Warning
            && io::stderr().is_terminal();
        let target =
            if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        Self { verbosity, format, program, bars, redactor: Redactor::default() }
    }

    /// The same voice, which says no secret that `redactor` knows.
    pub fn hiding(self, redactor: Redactor) -> Self {
        Self { redactor, ..self }
    }

    /// Where progress bars go; hidden unless stderr is a terminal that may be painted on.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes one event; `fields` in their order.
    pub fn say(&self, severity: Severity, message: &str, fields: &Map<String, Value>) {
        let message = self.redactor.clean(message);
        let fields = fields.iter().map(|(name, value)| (name.clone(), self.clean(value))).collect();
        let line = match self.format {
            LogFormat::Text => text_line(severity, &message, &fields),
            LogFormat::Json => self.json_line(severity, &message, &fields),
        };
        self.write(&line);
    }

    /// Tells why the command ends without success.
    pub fn tell(&self, failure: &Failure) {
        if self.verbosity == Verbosity::Silent {
            return;
        }
        let mut more = Map::new();
        for (name, text) in [("detail", &failure.detail), ("hint", &failure.hint)] {
            if let Some(text) = text {
                more.insert(name.into(), Value::String(cut(text)));
            }
        }
        match self.format {
            LogFormat::Json => {
                more.insert("exit_code".into(), json!(failure.exit.number()));
                self.say(Severity::Error, &failure.message, &more);
            }
            LogFormat::Text => {
                let message = self.redactor.clean(&failure.message);
                let mut lines = text_line(Severity::Error, &message, &Map::new());
                for (name, text) in &more {
                    let text = self.redactor.clean(text.as_str().unwrap_or_default());
                    let text = one_line(&text);
                    lines.push_str(&format!("{}: {text}\n", name.to_ascii_uppercase()));
                }
                self.write(&lines);
            }
        }
    }

    fn clean(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.redactor.clean(text).into_owned().into(),
            other => other.clone(),
        }
    }

    fn json_line(&self, severity: Severity, message: &str, fields: &Map<String, Value>) -> String {
        let mut object = Map::new();
        object.insert("timestamp".into(), now().timestamp().to_string().into());
        object.insert("level".into(), severity.name().into());
        object.insert("command".into(), self.program.name().into());
        object.insert("pid".into(), std::process::id().into());
        object.insert("message".into(), cut(message).into());
        object.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        format!("{}\n", Value::Object(object))
    }

    /// One write, with the progress bars out of the way.
    fn write(&self, lines: &str) {
        self.bars.suspend(|| {
            // Nobody listens any more: there is nobody to tell.
            let _ = io::stderr().lock().write_all(lines.as_bytes());
        });
    }
}

/// Writes results to stdout. A reader that went away has what it wanted: no error.
pub fn print(text: &str) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Exit::Success),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Success),
        Err(error) => {
            Err(Failure::new(Exit::Other, format!("could not write to standard output: {error}")))
        }
    }
}

/// Writes text of a usage error to stderr, before there is a voice.
pub fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Barman's form: local time to the millisecond, process id, level, message.
fn text_line(severity: Severity, message: &str, fields: &Map<String, Value>) -> String {
    let time = now().strftime("%Y-%m-%d %H:%M:%S,%3f");
    let mut line =
        format!("{time} [{}] {}: {}", std::process::id(), severity.name(), one_line(message));
    for (name, value) in fields {
        let value = match value {
            Value::String(text) => one_line(text),
            other => other.to_string(),
        };
        line.push_str(&format!(" {name}={value}"));
    }
    line.push('\n');
    line
}

#[expect(clippy::disallowed_methods, reason = "log lines carry the time")]
fn now() -> Zoned {
    Zoned::now()
}

/// `text` without line breaks, cut to what fits a line.
fn one_line(text: &str) -> String {
    cut(text).replace(['\n', '\r'], " ")
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(TEXT_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use crate::command::exit::Exit;
    use crate::command::report::{Failure, Severity, TEXT_BYTES_MAX, Verbosity, text_line};
    use crate::store::{Effect, StoreError, StoreErrorKind, StoreOperation};
    use serde_json::{Map, json};

    #[test]
    fn verbosity_goes_one_step_per_letter() {
        let of = Verbosity::of_counts;
        assert_eq!(
            [of(0, 0), of(1, 0), of(2, 0), of(3, 0)],
            [Verbosity::Warning, Verbosity::Info, Verbosity::Debug, Verbosity::Trace]
        );
        assert_eq!(
            [of(0, 1), of(0, 2), of(0, 3), of(0, 9)],
            [Verbosity::Error, Verbosity::Critical, Verbosity::Silent, Verbosity::Silent]
        );
    }

    #[test]
    fn log_lines_have_barmans_form() {
        let mut fields = Map::new();
        fields.insert("object".into(), json!("s3://b/k"));
        fields.insert("bytes".into(), json!(17));
        let line = text_line(Severity::Warning, "two\nlines", &fields);
        let (stamp, rest) = line.split_at(23);
        let shape: String =
            stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00 00:00:00,000");
        let pid = std::process::id();
        assert_eq!(rest, format!(" [{pid}] WARNING: two lines object=s3://b/k bytes=17\n"));
    }

    #[test]
    fn lines_stay_far_below_one_mebibyte() {
        let line = text_line(Severity::Error, &"é".repeat(1 << 20), &Map::new());
        assert!(line.len() < TEXT_BYTES_MAX + 200, "{}", line.len());
    }

    #[test]
    fn a_failure_tells_the_chain_once_and_the_hint_of_the_store() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not archive WAL file \"x\"")]
        struct Outer(#[source] StoreError);
        let store = StoreError {
            operation: StoreOperation::Write,
            kind: StoreErrorKind::Denied,
            effect: Effect::SurelyNot,
            object: "s3://b/k".into(),
            reason: "access denied (403 AccessDenied)".into(),
            hint: Some("Allow s3:PutObject.".into()),
        };
        let failure = Failure::of_error(Exit::Other, &Outer(store));
        assert_eq!(
            failure.message,
            "could not archive WAL file \"x\": could not write object \"s3://b/k\": \
             access denied (403 AccessDenied)"
        );
        assert_eq!(failure.hint.as_deref(), Some("Allow s3:PutObject."));
    }
}
