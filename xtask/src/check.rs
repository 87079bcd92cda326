//! Everything that must hold for the code, in the order in which a failure is cheapest.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::{say, tidy};

pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    timed("tidy", || tidy::tidy(root))?;
    cargo(root, "fmt --all --check")?;
    cargo(root, "clippy --workspace --all-targets -- --deny warnings")?;
    // The end-to-end tests need root and more programs: `make test` runs them.
    cargo(root, "test --workspace --exclude end-to-end --no-run")?;
    cargo(root, "test --workspace --exclude end-to-end")
}

fn cargo(root: &Path, arguments: &str) -> anyhow::Result<()> {
    timed(&format!("cargo {arguments}"), || {
        let status = Command::new("cargo")
            .args(arguments.split(' '))
            .current_dir(root)
            .status()
            .context("could not start cargo")?;
        ensure!(status.success(), "`cargo {arguments}` failed");
        Ok(())
    })
}

fn timed(name: &str, step: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    say(&format!("== {name}"));
    let started = Instant::now();
    step()?;
    say(&format!("== {name}: {:.0} s", started.elapsed().as_secs_f64()));
    Ok(())
}
