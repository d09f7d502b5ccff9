//! cryptofd-daemon: the supervisor of a broker and its workers, and a worker.

mod arguments;
mod elsewhere;
mod packet;
mod supervisor;
mod sys;
mod worker;

use arguments::Arguments;
use cryptofd_core::error::{Error, Result};
use std::process::ExitCode;

const USAGE: &str = "usage: cryptofd-daemon supervisor [--listen PATH]... [--kek FILE] \
[--worker-uid UID --worker-gid GID] [--idle-exit SECONDS] [--broker-fd N | -- COMMAND...]
       cryptofd-daemon worker --control N [--uid UID --gid GID]
       cryptofd-daemon keeper --control N [--source N]";

fn run() -> Result<()> {
    let mut words = std::env::args_os().skip(1);
    let command = words.next().unwrap_or_default();
    let mut arguments = Arguments::parse(words)?;
    match command.to_str() {
        Some("supervisor") => supervisor::run(&mut arguments),
        Some("worker") => worker::run(&mut arguments),
        Some("keeper") => supervisor::keeper::run(&mut arguments),
        _ => Err(Error::invalid(USAGE)),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cryptofd-daemon: {error}");
            ExitCode::from(1)
        }
    }
}
