//! A simulated world: the real verbs over a store that fails as a seed says, beside a model of
//! what must be true.
//!
//! ```text
//! Cluster ─ server ──> backup ─┐
//!    └─ pg_wal ──────> push ───┤   SimulatedClient (faults, kills)     SimulatedServer
//!                      delete ─┼──────────────────────────────────────>  objects
//!                      keep ───┤                                            │
//!                      restore ┘      Model: after each round  <── look ────┘
//! ```
//!
//! A seed is a story of some rounds. In each, commands run side by side: requests are lost,
//! answers are lost, come twice, break off, are refused; a command is killed at one of its
//! requests. Conditions of writes are honoured, ignored or refused, as dialects of S3 do. What a
//! fault does depends on the seed and the request alone, so that a seed can be replayed:
//!
//! ```text
//! BARMAN_CLOUD_SEEDS=4711 cargo test --release --lib simulation           # one, told
//! BARMAN_CLOUD_SEEDS=0..10000 cargo test --release --lib simulation       # many
//! ```

mod cluster;
mod commands;
mod look;
mod model;
mod server;
mod story;

use crate::simulation::story::tell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What CI tells; the campaign by hand takes more.
const SEEDS: std::ops::Range<u64> = 0..200;

/// Stories at once: most of their time is waiting.
const AT_ONCE: usize = 6;

#[test]
fn no_story_of_the_simulated_world_loses_anything() {
    #[expect(clippy::disallowed_methods, reason = "the seeds to replay are asked for by hand")]
    let asked = std::env::var("BARMAN_CLOUD_SEEDS").ok();
    let seeds = asked.as_deref().map_or(SEEDS, seeds_of);
    let told = seeds.end - seeds.start == 1;
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let (log, outcome) = tell(seed);
                    if told {
                        eprintln!("{}", log.join("\n"));
                    }
                    if let Err(wrong) = outcome {
                        failed.lock().expect("no panics").push((seed, wrong));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("no panics");
    failed.sort();
    let lines: Vec<String> =
        failed.iter().map(|(seed, wrong)| format!("BARMAN_CLOUD_SEEDS={seed}: {wrong}")).collect();
    assert!(failed.is_empty(), "{} stories went wrong:\n{}", failed.len(), lines.join("\n"));
}

fn seeds_of(text: &str) -> std::ops::Range<u64> {
    let number = |text: &str| text.parse::<u64>().expect("a seed, or two with .. between them");
    match text.split_once("..") {
        Some((first, last)) => number(first)..number(last),
        None => number(text)..number(text) + 1,
    }
}
