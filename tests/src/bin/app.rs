//! The bundled application as a program of its own, small enough for an image of each version.

use std::error::Error;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    Ok(tools::app::run(std::env::args().skip(1))?)
}
