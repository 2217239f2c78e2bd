//! From words to a running command, and from its end to an exit code.

use crate::command::args::CommonArgs;
use crate::command::argv::{self, Request};
use crate::command::core_dumps;
use crate::command::environment::Environment;
use crate::command::exit::Exit;
use crate::command::log;
use crate::command::program::Program;
use crate::command::redact::Redactor;
use crate::command::report::{self, Failure, Verbosity, Voice};
use crate::command::usage::{self, UsageError};
use crate::command::version::BARMAN_VERSION;
use clap::{Command, Parser};
use std::ffi::OsString;
use tracing::warn;

/// What a command is given besides its arguments.
#[derive(Clone, Debug)]
pub struct Context {
    pub environment: Environment,
    pub voice: Voice,
    /// The command line behind the program's name, as typed.
    pub words: Vec<OsString>,
}

/// Runs one command: words → arguments → `execute` → what to tell → exit code.
pub fn launch<A: Parser + CommonArgs>(
    program: Program,
    words: Vec<OsString>,
    execute: fn(A, &Context) -> Result<Exit, Failure>,
) -> Exit {
    core_dumps::off();
    let command = command_of::<A>(program);
    let typed = words.clone();
    let words = match argv::sort(&command, words) {
        Ok(Request::Help) => return answer(&usage::help(command)),
        Ok(Request::Version) => return answer(&format!("{} {BARMAN_VERSION}\n", program.name())),
        Ok(Request::Run(words)) => words,
        Err(error) => return refuse(&command, &error),
    };
    let args = match parse::<A>(&command, words.sorted) {
        Ok(args) => args,
        Err(error) => return refuse(&command, &error),
    };
    let environment = Environment::of_process();
    let voice = voice_of(program, &args).hiding(Redactor::of(&environment));
    log::start(&voice);
    for (old, new) in words.deprecated {
        warn!("option {old} is deprecated, use {new}");
    }
    let context = Context { environment, voice, words: typed };
    match execute(args, &context) {
        Ok(exit) => exit,
        Err(failure) => {
            context.voice.tell(&failure);
            failure.exit
        }
    }
}

/// Prints `text` as the whole answer.
pub fn answer(text: &str) -> Exit {
    report::print(text).unwrap_or_else(|failure| failure.exit)
}

/// The clap command of a program, ready to be asked for its options.
pub fn command_of<A: Parser>(program: Program) -> Command {
    let mut command = A::command()
        .name(program.name())
        .about(program.summary())
        .version(BARMAN_VERSION)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true);
    command.build();
    command
}

/// Lets clap check values and combinations of sorted words.
pub fn parse<A: Parser>(command: &Command, sorted: Vec<OsString>) -> Result<A, UsageError> {
    let words = std::iter::once(OsString::from(command.get_name())).chain(sorted);
    command
        .clone()
        .try_get_matches_from(words)
        .and_then(|mut matches| A::from_arg_matches_mut(&mut matches))
        .map_err(|error| UsageError::of_clap(&error))
}

fn refuse(command: &Command, error: &UsageError) -> Exit {
    // What was typed in the wrong place may be a connection string.
    let redactor = Redactor::of(&Environment::of_process());
    let error = error.to_string();
    report::complain(&format!(
        "{}\n{}: error: {}\n",
        usage::usage(command),
        command.get_name(),
        redactor.clean(&error)
    ));
    Exit::Input
}

fn voice_of(program: Program, args: &impl CommonArgs) -> Voice {
    let talk = args.talk();
    Voice::new(program, Verbosity::of_counts(talk.verbose, talk.quiet), args.own().log_format)
}

/// Reads a whole line, for tests of how arguments are resolved.
#[cfg(test)]
pub fn read<'a, A: Parser>(
    program: Program,
    words: impl IntoIterator<Item = &'a str>,
) -> Result<A, UsageError> {
    let command = command_of::<A>(program);
    match argv::sort(&command, words.into_iter().map(OsString::from).collect())? {
        Request::Run(words) => parse(&command, words.sorted),
        other => panic!("the line asks for {other:?}"),
    }
}
