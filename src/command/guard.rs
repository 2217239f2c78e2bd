//! The outermost frame of every command: a panic is no answer.
//!
//! Rust's own exit code after a panic, 101, is one that PostgreSQL takes for "not in the archive";
//! and a panic on another thread may come out as an ordinary failure, or as an absence. So after a
//! panic anywhere in the process no answer but success is given, and the code is one that stops
//! recovery. Success stands: it is the last thing that a verb says, after it has looked.

use crate::command::exit::Exit;
use crate::command::report;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a command to its exit code.
pub fn guarded(command: impl FnOnce() -> Exit) -> Exit {
    let panicked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&panicked);
    set_hook(Box::new(move |panic| {
        seen.store(true, Ordering::SeqCst);
        report::complain(&told(panic));
    }));
    let answer = catch_unwind(AssertUnwindSafe(command));
    drop(take_hook());
    match answer {
        Ok(Exit::Success) => Exit::Success,
        Ok(exit) if !panicked.load(Ordering::SeqCst) => exit,
        _ => Exit::RecoveryMustStop,
    }
}

/// Where it was, and not what it said: that may hold a piece of what was being worked on.
fn told(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
    format!(
        "ERROR: this program has a fault{}\nHINT: Nothing that it answers now can be believed. \
         Please report it, with this line.\n",
        place.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use crate::command::exit::Exit;
    use crate::command::guard::guarded;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// The hook is the process's: one at a time.
    static ONE: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn panics() -> Exit {
        panic!("AWS_SECRET_ACCESS_KEY")
    }

    #[test]
    fn a_panic_ends_in_a_code_above_125() {
        let _one = alone();
        assert!(guarded(panics).number() > 125);
    }

    #[test]
    fn a_panic_on_another_thread_makes_every_failure_and_absence_unbelievable() {
        let _one = alone();
        for answer in [Exit::Failed, Exit::Network, Exit::Input, Exit::Other] {
            let exit = guarded(|| {
                // Nobody looks at how the thread ended.
                let _ = std::thread::spawn(panics).join();
                answer
            });
            assert!(exit.number() > 125, "{answer:?}");
        }
    }

    #[test]
    fn a_panic_in_a_task_of_the_runtime_is_one_too() {
        let _one = alone();
        let exit = guarded(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            runtime.block_on(async {
                let _ = tokio::spawn(async { panics() }).await;
            });
            Exit::Failed
        });
        assert!(exit.number() > 125);
    }

    #[test]
    fn without_a_panic_an_answer_is_what_the_command_says() {
        let _one = alone();
        for answer in [Exit::Success, Exit::Failed, Exit::Input, Exit::Other, Exit::Terminated] {
            assert_eq!(guarded(|| answer), answer);
        }
    }
}
