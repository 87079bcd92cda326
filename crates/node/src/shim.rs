//! The shim: one small process per pod, which holds its namespaces and mounts, its containers as children, their exit
//! codes and their logs. It outlives the engine; the containers don't outlive it. Single-threaded and synchronous,
//! since libcontainer forks: it must be entered before any thread or async runtime exists.

pub mod client;
pub mod protocol;

mod connection;
mod containers;
mod exec;
mod exec_process;
mod journal;
mod options;
mod output;
pub(crate) mod pause;
mod sandbox;
mod server;

use std::ffi::OsString;
use std::process::ExitCode;

use self::journal::log;
use self::options::{Command, Options};
pub use self::options::{Sharing, Whose};

/// The exit code of sysexits for a command line that makes no sense.
const USAGE: u8 = 64;

/// The body of `segue shim`: `args` are what follows that on the command line. Returns when the pod is shut down.
/// Standard input is a pipe on which it says that it is ready; output goes to its log.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    journal::keep_errors();
    match options::parse(&args) {
        Ok(Command::Serve(options)) => serve(&options, leading_args(args.len())),
        Ok(Command::Pause) => pause::run(),
        Ok(Command::Exec) => exec_process::run(),
        Err(error) => {
            log(&error.to_string());
            ExitCode::from(USAGE)
        }
    }
}

fn serve(options: &Options, leading_args: Vec<OsString>) -> ExitCode {
    let opened = sandbox::open(options, &leading_args);
    sandbox::tell_ready(&opened);
    let (pod, listener) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            log(&error);
            return ExitCode::FAILURE;
        }
    };
    let server = server::Server::new(options, pod, listener, leading_args);
    let served = server.and_then(server::Server::run);
    sandbox::close(options);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("the shim can't wait for events: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What stands before the shim's own arguments, `shim` as a rule: the same program is run again to join containers.
fn leading_args(own: usize) -> Vec<OsString> {
    let all: Vec<OsString> = std::env::args_os().skip(1).collect();
    let leading = all.len().saturating_sub(own);
    all.into_iter().take(leading).collect()
}
