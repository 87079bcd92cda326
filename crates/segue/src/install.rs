//! `segue install`: the engine as a service of systemd, started at boot.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::cli::{DataDirectory, Install, Up};
use crate::settings::Directories;
use crate::{preflight, show};

/// Where the machine's owner keeps units.
const UNITS: &str = "/etc/systemd/system";
/// There while systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Writes the unit, or only shows it, and starts it.
pub(crate) fn install(options: &Install) -> anyhow::Result<()> {
    let up = Up::of(&options.up);
    ensure!(!up.detach, "--detach makes no sense here: systemd keeps the engine in the background");
    for (option, path) in [("--data-dir", &up.directory.data_dir), ("--registry-certs", &up.registry_certs)] {
        ensure!(
            path.is_absolute(),
            "{option} {}: a service has no working directory; give the whole path",
            path.display()
        );
    }
    let directories = Directories::find(&up.directory.data_dir)?;
    let program = std::env::current_exe().context("could not find out where this program is")?;
    let unit = unit(&program, &directories.data, &options.up)?;
    if options.print {
        show::line(unit.trim_end());
        return Ok(());
    }
    let name = name(&directories);
    let path = Path::new(UNITS).join(&name);
    check_systemd()?;
    if !path.exists() {
        drop(preflight::check(&up)?);
    }
    write(&path, &unit).with_context(|| format!("could not write {}", path.display()))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", &name])?;
    show::line(&format!("starting {name}"));
    systemctl(&["restart", &name]).with_context(|| format!("see `journalctl --unit {name}`"))?;
    show::line(&format!("{name} runs, and starts at boot; its node is ready"));
    show::line(&format!("\n  export KUBECONFIG={}\n  kubectl get nodes", directories.kubeconfig().display()));
    Ok(())
}

/// Stops the engine and removes its unit. Pods go on.
pub(crate) fn uninstall(directory: &DataDirectory) -> anyhow::Result<()> {
    let directories = Directories::find(&directory.data_dir)?;
    let name = name(&directories);
    let path = Path::new(UNITS).join(&name);
    check_systemd()?;
    ensure!(path.exists(), "there is no {}: nothing to uninstall", path.display());
    systemctl(&["disable", "--now", &name])?;
    fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
    systemctl(&["daemon-reload"])?;
    show::line(&format!("{name} is gone. Its pods go on; `segue down` drains and stops them"));
    Ok(())
}

fn name(directories: &Directories) -> String {
    match directories.instance.as_str() {
        "default" => "segue.service".to_owned(),
        instance => format!("segue-{instance}.service"),
    }
}

fn check_systemd() -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "services are installed by root: run it with sudo");
    if !Path::new(BOOTED).exists() {
        bail!("systemd does not run this machine: have what does start `segue up` at boot, as `--print` shows");
    }
    Ok(())
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let said = Command::new("systemctl").args(arguments).output().context("could not run systemctl")?;
    let what = arguments.join(" ");
    ensure!(said.status.success(), "systemctl {what} failed: {}", String::from_utf8_lossy(&said.stderr).trim());
    Ok(())
}

/// In place at once, or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let unfinished = path.with_extension("service.unfinished");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o644).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}

/// Everything that the engine starts outlives it, so that a restart is none for pods and connections; only when the
/// machine itself goes down is everything drained first. `segue down` ends the engine for good, a crash does not.
fn unit(program: &Path, data: &Path, options: &[std::ffi::OsString]) -> anyhow::Result<String> {
    let up = ["up".into()].into_iter().chain(options.iter().cloned());
    let start = line([program.into()].into_iter().chain(up))?;
    let down = line([program.into(), "down".into(), "--data-dir".into(), data.into()])?;
    let data = specifiers(&text(data.as_os_str())?);
    Ok(format!(
        "[Unit]
Description=Segue engine on {data}
Wants=network-online.target
After=network-online.target nftables.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={start}
ExecStop=/bin/sh -c 'if [ \"$$(systemctl is-system-running)\" = stopping ]; then exec \"$$0\" \"$$@\"; fi' {down}
KillMode=process
TimeoutStopSec=5min
Restart=on-failure
RestartSec=1
TasksMax=infinity
LimitNOFILE=1048576
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
"
    ))
}

/// A command line as systemd reads it (systemd.service(5), \"Command lines\").
fn line(words: impl IntoIterator<Item = std::ffi::OsString>) -> anyhow::Result<String> {
    let words = words.into_iter().map(|word| Ok(quoted(&text(&word)?))).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(words.join(" "))
}

fn text(word: &std::ffi::OsStr) -> anyhow::Result<String> {
    let text = word.to_str().with_context(|| format!("{} can't be written into a unit", word.display()))?;
    ensure!(!text.contains(['\n', '\0']), "{text:?} can't be written into a unit");
    Ok(text.to_owned())
}

fn quoted(word: &str) -> String {
    let word = specifiers(word).replace('$', "$$");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word;
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

fn specifiers(word: &str) -> String {
    word.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_by_systemd_as_they_were_given() {
        let table = [
            ("--listen=127.0.0.1:7443", "--listen=127.0.0.1:7443"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("50%", "50%%"),
            ("$HOME", "\"$$HOME\""),
            ("memory.available<5%", "\"memory.available<5%%\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
        ];
        for (word, expected) in table {
            assert_eq!(quoted(word), expected);
        }
        assert!(text("a\nb".as_ref()).is_err());
    }

    #[test]
    fn each_engine_has_a_unit_of_its_own() {
        let named = |data: &str| name(&Directories::find(Path::new(data)).unwrap());
        assert_eq!(named("/var/lib/segue"), "segue.service");
        assert_ne!(named("/srv/one"), named("/srv/other"));
    }
}
