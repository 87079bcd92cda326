//! The one binary: chooses the role, reads the command line, and wires the parts together.

mod backup;
mod cli;
mod demo;
mod down;
mod engine;
mod engine_socket;
mod image;
mod install;
mod kubeconfig;
mod mesh;
mod pod_access;
mod preflight;
mod proxy;
mod settings;
mod show;
mod tailnet_api;
mod traffic;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use self::cli::{Command, CommandLine, ImageCommand, ProxyCommand};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|role| role.to_str()) {
        // The shim forks, so it is entered before any thread exists.
        Some("shim") => node::shim::run(arguments),
        Some("keeper") => ended(network::keeper::run(arguments)),
        // With an argument it is the command that users know.
        Some("proxy") if std::env::args_os().len() == 2 => ended(network::proxy::run(arguments)),
        Some("app") => app(arguments),
        _ => ended(command(CommandLine::parse())),
    }
}

fn command(line: CommandLine) -> anyhow::Result<()> {
    match line.command {
        Command::Up(options) => up::up(options),
        Command::Down(options) => down::down(&options),
        Command::Drain(options) => mesh::drain(&options),
        Command::Mesh { directory, output } => mesh::show(&directory, output),
        Command::Install(options) => install::install(&options),
        Command::Uninstall(directory) => install::uninstall(&directory),
        Command::Kubeconfig(options) => kubeconfig::kubeconfig(&options),
        Command::Proxy(ProxyCommand::Upgrade { directory }) => proxy::upgrade(&directory),
        Command::Image(ImageCommand::Load { file, directory }) => image::load(&file, &directory),
        Command::Image(ImageCommand::List { directory, output }) => image::list(&directory, output),
        Command::Backup(options) => backup::backup(&options),
        Command::Restore(options) => backup::restore(&options),
        Command::Demo => demo::demo(),
    }
}

fn app(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let texts = arguments.map(|argument| argument.to_string_lossy().into_owned());
    match tools::app::run(texts) {
        Ok(code) => code,
        Err(error) => ended(Err(error)),
    }
}

fn ended<E: Into<anyhow::Error>>(result: Result<(), E>) -> ExitCode {
    match result.map_err(Into::into) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show::failure(&error);
            ExitCode::FAILURE
        }
    }
}
