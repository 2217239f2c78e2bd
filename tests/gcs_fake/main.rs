//! The fake as a program, for docker-compose and for trying things by hand:
//! `cargo run --example gcs-fake -- 127.0.0.1:4443 bucket …`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

#[path = "mod.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod gcs_fake;

use crate::gcs_fake::GcsFake;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let address = words.next().unwrap_or_else(|| "127.0.0.1:4443".to_string());
    let fake = GcsFake::start_on(&address)?;
    for bucket in words {
        fake.create_bucket(&bucket);
    }
    println!("listening on {}", fake.endpoint());
    loop {
        std::thread::park();
    }
}
