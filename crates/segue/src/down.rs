//! `segue down`: drain and stop everything that an engine runs, and leave only its data directory.

use std::fs;

use anyhow::Context;

use crate::cli::{Down, Up};
use crate::engine::Engine;
use crate::engine_socket::{self, Order};
use crate::settings::Directories;
use crate::{preflight, show};

/// Stops everything. An engine that runs is asked to; where none runs, this process takes its place for as long.
#[tokio::main]
pub(crate) async fn down(options: &Down) -> anyhow::Result<()> {
    preflight::check_machine()?;
    let directories = Directories::find(&options.directory.data_dir)?;
    if preflight::is_running(&directories) {
        engine_socket::order(&directories.engine_socket(), &Order::Down, show::line)
            .await
            .context("the engine could not take everything down")?;
    } else if directories.run.exists() {
        let mut engine = Engine::start_closed(&Up::on(&options.directory)).await?;
        engine.stop_everything(&mut async |line: String| show::line(&line)).await?;
    } else {
        show::line("nothing is running");
    }
    if options.purge && directories.data.exists() {
        fs::remove_dir_all(&directories.data)
            .with_context(|| format!("could not remove {}", directories.data.display()))?;
        show::line(&format!("removed {}", directories.data.display()));
    } else if directories.data.exists() {
        show::line(&format!("what was declared is kept in {}", directories.data.display()));
    }
    Ok(())
}
