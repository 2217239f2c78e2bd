//! Help, version and usage errors: what a command says about itself.

use crate::command::version::{BARMAN_VERSION, OWN_VERSION};
use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error;
use std::fmt::Write;

/// The help section of options that Barman does not have.
pub const BEYOND_BARMAN: &str = "Beyond Barman";

/// A command line that cannot be understood: printed below the usage, exit 3.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    message: String,
}

impl UsageError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    /// Says in one line what clap found wrong.
    pub fn of_clap(error: &clap::Error) -> Self {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.clone(),
            Some(ContextValue::Strings(texts)) => texts.join(", "),
            _ => String::new(),
        };
        let argument = context(ContextKind::InvalidArg);
        let name = argument.split([' ', '=']).next().unwrap_or_default();
        let value = context(ContextKind::InvalidValue);
        Self::new(match error.kind() {
            ErrorKind::MissingRequiredArgument => {
                let names = argument.replace(['<', '>'], "");
                format!("the following arguments are required: {names}")
            }
            ErrorKind::ArgumentConflict => {
                let prior = context(ContextKind::PriorArg);
                let prior = prior.split([' ', '=']).next().unwrap_or_default();
                format!("argument {name}: not allowed with argument {prior}")
            }
            ErrorKind::InvalidValue => {
                let choices = context(ContextKind::ValidValue);
                format!("argument {name}: invalid choice: \"{value}\" (choose from {choices})")
            }
            ErrorKind::ValueValidation => match error.source() {
                Some(reason) => format!("argument {name}: {reason}"),
                None => format!("argument {name}: invalid value \"{value}\""),
            },
            ErrorKind::UnknownArgument => format!("unrecognized argument \"{argument}\""),
            ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".into(),
            _ => error.to_string().lines().next().unwrap_or_default().to_string(),
        })
    }
}

/// The help screen of a built command.
pub fn help(command: Command) -> String {
    let usage = usage_words(&command);
    command
        .override_usage(usage)
        .help_template("usage: {usage}\n\n{about}\n\n{all-args}{after-help}\n")
        .after_help(format!(
            "Long options may be shortened as long as they stay unambiguous. Sizes: KB, MB, GB, TB\n\
             are powers of 1024; KiB, MiB, GiB, TiB are powers of 1000, as in Barman.\n\n\
             Stands in for Barman {BARMAN_VERSION}; this is barman-cloud {OWN_VERSION}."
        ))
        .render_help()
        .to_string()
}

/// The usage line: options in one word, positionals by name.
pub fn usage(command: &Command) -> String {
    format!("usage: {}\n(--help shows all options)", usage_words(command))
}

fn usage_words(command: &Command) -> String {
    let mut line = format!("{} [options]", command.get_name());
    for argument in command.get_positionals() {
        let name = argument.get_id().as_str();
        let required = argument.is_required_set();
        let _ = if required { write!(line, " {name}") } else { write!(line, " [{name}]") };
    }
    line
}
