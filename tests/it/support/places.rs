//! Where a command is sent, good places and bad ones, and tables of what it then exits with.

use crate::support::commands::{Commands, clean_environment};
use crate::support::process::run;
use crate::support::scratch::{as_postgres, unique};
use crate::support::stores::{StoreKind, StoreUnderTest};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// URL, options and environment that lead to a store.
#[derive(Clone)]
pub struct Place {
    pub kind: StoreKind,
    pub url: String,
    pub options: Vec<String>,
    pub environment: Vec<(String, String)>,
    bucket: String,
    endpoint: String,
}

impl Place {
    pub fn of(store: &StoreUnderTest) -> Self {
        let endpoint = match store.kind {
            StoreKind::File => String::new(),
            StoreKind::S3 | StoreKind::S3Strict => store.options[3].clone(),
            StoreKind::Azure => store.url.split("/devstore").next().expect("one").into(),
            StoreKind::Gcs => store.environment[0].1.clone(),
        };
        Self {
            kind: store.kind,
            url: store.url.clone(),
            options: store.options.clone(),
            environment: store.environment.clone(),
            bucket: store.bucket.clone(),
            endpoint: endpoint.trim_end_matches('/').into(),
        }
    }

    fn replace(mut self, old: &str, new: &str) -> Self {
        let replaced = |text: &String| text.replace(old, new);
        self.url = replaced(&self.url);
        self.options = self.options.iter().map(replaced).collect();
        for (_, value) in &mut self.environment {
            *value = replaced(value);
        }
        self
    }

    /// The same store, another bucket: one that nobody has made.
    pub fn without_bucket(self) -> Self {
        if self.kind == StoreKind::File {
            let url = format!("{}/{}", self.url, unique("none"));
            return self.with_url(&url);
        }
        let bucket = self.bucket.clone();
        self.replace(&bucket, &unique("none"))
    }

    /// The same, but another server.
    pub fn at(self, endpoint: &str) -> Self {
        let old = self.endpoint.clone();
        Self { endpoint: endpoint.into(), ..self.replace(&old, endpoint) }
    }

    /// Where nobody listens.
    pub fn refusing(self) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let closed = format!("http://{}", listener.local_addr().expect("an address"));
        drop(listener);
        self.at(&closed)
    }

    /// One variable more, or another value.
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn without_variable(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    pub fn with_url(mut self, url: &str) -> Self {
        self.url = url.into();
        self
    }
}

/// One command line.
pub struct Line {
    pub name: &'static str,
    pub place: Place,
    pub options: Vec<String>,
    /// What follows the URL.
    pub positionals: Vec<String>,
}

impl Line {
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|text| (*text).to_string()));
        self
    }

    pub fn on(mut self, positionals: &[&str]) -> Self {
        self.positionals = positionals.iter().map(|text| (*text).to_string()).collect();
        self
    }

    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.place = self.place.with_variable(name, value);
        self
    }

    fn command(&self, commands: &Commands) -> Command {
        let mut command = Command::new(commands.program(self.name));
        clean_environment(&mut command, Path::new("/nonexistent"));
        command.envs(self.place.environment.iter().map(|(name, value)| (name, value)));
        command.args(&self.place.options).args(&self.options);
        command.arg(&self.place.url).args(&self.positionals);
        as_postgres(&mut command);
        command
    }
}

/// A row of the contract's table of exit codes.
pub struct Row {
    /// The situation, in the contract's words.
    pub says: &'static str,
    pub code: i32,
    pub lines: Vec<Line>,
}

pub fn row(says: &'static str, code: i32, lines: Vec<Line>) -> Row {
    assert!(!lines.is_empty(), "{says}: no command shows it");
    Row { says, code, lines }
}

/// Runs all lines, some at a time, and panics with every one that exited otherwise.
pub fn check(rows: Vec<Row>) {
    let commands = Commands::ours();
    let lines = rows.into_iter().flat_map(|Row { says, code, lines }| {
        lines.into_iter().map(move |line| (says, code, line))
    });
    let (lines, wrong) = (Mutex::new(lines), Mutex::new(Vec::new()));
    let next = || lines.lock().expect("no panic in here").next();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some((says, code, line)) = next() {
                    let outcome = run(&mut line.command(&commands));
                    if outcome.status.code() != Some(code) {
                        let text = format!("{says}: expected {code}\n{outcome}");
                        wrong.lock().expect("no panic in here").push(text);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic in here");
    assert!(wrong.is_empty(), "{} lines exited otherwise\n{}", wrong.len(), wrong.join("\n"));
}
