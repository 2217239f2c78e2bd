//! Running a command to its end.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
    /// Highest resident memory that was seen; 0 when the process was too quick to be looked at.
    pub peak_memory_bytes: u64,
}

impl Outcome {
    /// Panics with everything that was said unless the exit code is `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.status.code() == Some(code), "expected exit code {code}\n{self}");
        self
    }

    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        self.exits(0).stdout
    }

    /// Panics unless standard error has `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "expected {text:?} on stderr\n{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "command: {}", self.command)?;
        writeln!(f, "ended:   {} after {:?}", self.status, self.elapsed)?;
        writeln!(f, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr)
    }
}

/// A command on its way.
pub struct Running {
    child: Child,
    command: String,
    started: Instant,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

/// Runs a command with closed stdin and waits for its end.
pub fn run(command: &mut Command) -> Outcome {
    spawn(command).wait()
}

/// Starts a command with closed stdin; its output is collected meanwhile.
pub fn spawn(command: &mut Command) -> Running {
    let line = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command).unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    Running { child, command: line, started: Instant::now(), stdout, stderr }
}

/// A test that forks while another one copies our program holds the copy open for writing until
/// its own program runs: the copy cannot be started in that moment, but right after it.
fn start(command: &mut Command) -> std::io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            started => return started,
        }
    }
    command.spawn()
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("a process id"), signal).expect("kill");
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Outcome {
        let status = self.child.wait().expect("wait");
        self.outcome(status, 0)
    }

    /// Waits for the end, watching the memory of the process.
    ///
    /// `VmHWM` only grows, so looking often enough to see the process shortly before its end
    /// gives the peak.
    pub fn wait_watching_memory(mut self) -> Outcome {
        let mut peak = 0;
        let status = loop {
            peak = peak.max(high_water_mark(self.child.id()).unwrap_or(0));
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.outcome(status, peak)
    }

    fn outcome(self, status: ExitStatus, peak_memory_bytes: u64) -> Outcome {
        Outcome {
            command: self.command,
            status,
            stdout: self.stdout.join().expect("reader"),
            stderr: self.stderr.join().expect("reader"),
            elapsed: self.started.elapsed(),
            peak_memory_bytes,
        }
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `VmHWM` of `/proc/<pid>/status`, in bytes.
fn high_water_mark(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
