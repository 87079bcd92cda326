//! The shim by itself, for the tests of this crate: `shim` runs one, anything else is refused.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::shim::run(std::env::args_os().skip(1))
}
