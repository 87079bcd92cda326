//! `segue up`: the engine in the foreground, or sent to the background once its node is ready.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Up;
use crate::engine::{Ended, Engine};
use crate::settings::Directories;
use crate::{preflight, show};

/// What a detached engine writes on its pipe when its node is ready.
const READY: &str = "ready";

/// Runs the engine until it is told to end.
pub(crate) fn up(options: Up) -> anyhow::Result<()> {
    if options.detached {
        return detached(options);
    }
    if options.detach {
        return detach(&options);
    }
    log_to_stderr();
    run(options, |how_to_use| {
        show::line(how_to_use);
        // Heard where systemd started it (`segue install`).
        if let Err(error) = sd_notify::notify(false, &[NotifyState::Ready]) {
            tracing::warn!(%error, "systemd could not be told that the node is ready");
        }
    })
}

/// Starts this program again in the background and waits until it says that the node is ready.
fn detach(options: &Up) -> anyhow::Result<()> {
    drop(preflight::check(options)?);
    let directories = Directories::find(&options.directory.data_dir)?;
    directories.make().with_context(|| format!("could not make {}", directories.data.display()))?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(directories.engine_log())?;
    let (reader, writer) = std::io::pipe()?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    Command::new("/proc/self/exe")
        .args(arguments)
        .arg("--detached")
        .stdin(Stdio::from(writer))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("could not start the engine in the background")?;
    let mut said = Vec::new();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        if line == READY {
            said.iter().for_each(|line: &String| show::line(line));
            return Ok(());
        }
        said.push(line);
    }
    let log = directories.engine_log();
    match said.is_empty() {
        true => anyhow::bail!("the engine ended before its node was ready; see {}", log.display()),
        false => anyhow::bail!("{}", said.join("\n")),
    }
}

/// The background engine: in a session of its own, saying on standard input how its start went.
fn detached(options: Up) -> anyhow::Result<()> {
    // Fails only when this process leads a session already, which is what is wanted.
    let _ = rustix::process::setsid();
    log_to_stderr();
    let pipe = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    // Whoever waits at the other end may have given up: then nobody misses the lines.
    let ended = run(options, |how_to_use| drop(writeln!(&pipe, "{how_to_use}\n{READY}")));
    if let Err(error) = &ended {
        let _ = writeln!(&pipe, "{error:#}");
    }
    ended
}

#[tokio::main]
async fn run(options: Up, ready: impl FnOnce(&str)) -> anyhow::Result<()> {
    // Else clients of the API could leave none for probes and pods.
    network::keeper::allow_many_descriptors();
    let mut engine = Engine::start(&options).await?;
    let node = engine.wait_until_ready().await?;
    ready(&engine.how_to_use(&node));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = engine.serve() => match ended? {
            Ended::Down => tracing::info!("everything is stopped"),
        },
        _ = interrupt.recv() => tracing::info!("the engine ends; pods and their traffic go on"),
        _ = terminate.recv() => tracing::info!("the engine ends; pods and their traffic go on"),
    }
    Ok(())
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SEGUE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
