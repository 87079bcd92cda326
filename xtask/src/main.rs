//! The chores of this workspace: `cargo xtask check` runs exactly what CI runs for code, `cargo xtask tidy` looks at
//! what neither the compiler nor clippy sees.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

mod check;
mod tidy;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match root().and_then(|root| run(&arguments, &root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str], root: &Path) -> anyhow::Result<()> {
    match arguments {
        ["check"] => check::check(root),
        ["tidy"] => tidy::tidy(root),
        other => bail!("`cargo xtask check` or `cargo xtask tidy`, not {other:?}"),
    }
}

fn root() -> anyhow::Result<PathBuf> {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(xtask.parent().context("xtask is in the project")?.to_owned())
}

#[expect(clippy::print_stderr, reason = "this program speaks to whoever started it")]
fn say(line: &str) {
    eprintln!("{line}");
}
