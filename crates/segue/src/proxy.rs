//! `segue proxy`: what a user may ask of the proxy that runs.

use anyhow::Context;

use crate::cli::DataDirectory;
use crate::engine_socket::{self, Order};
use crate::settings::Directories;
use crate::{preflight, show};

/// Has the engine replace its proxy.
#[tokio::main]
pub(crate) async fn upgrade(directory: &DataDirectory) -> anyhow::Result<()> {
    let directories = Directories::find(&directory.data_dir)?;
    anyhow::ensure!(
        preflight::is_running(&directories),
        "no engine runs on {}; start one with `segue up`, which replaces a proxy of another build by itself",
        directories.data.display()
    );
    engine_socket::order(&directories.engine_socket(), &Order::ReplaceProxy, show::line)
        .await
        .context("the proxy was not replaced")?;
    show::line("a new proxy serves; the old one finishes its connections");
    Ok(())
}
