//! Runs programs to their end, with a limit, and shows all they said when they did not do what they should.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::Command;
use std::time::Duration;

/// No program of a test takes longer unless its test says so.
pub const LIMIT: Duration = Duration::from_secs(120);

/// `program`, ended with SIGKILL after `limit`.
#[must_use]
pub fn limited(limit: Duration, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    // In the foreground it ends only the program and not its group: what the program left running is another matter.
    command.args(["--foreground", "--signal=KILL", &limit.as_secs().to_string()]).arg(program);
    command
}

/// What a program said.
#[derive(Clone, Debug)]
pub struct Said {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` with `input` on its standard input. What it leaves running is not waited for.
#[must_use]
pub fn run(command: &mut Command, input: &str) -> Said {
    let described = format!("{command:?}");
    // Into files: a pipe would end only with the last process that holds it.
    let [mut stdin, mut stdout, mut stderr] = [(); 3].map(|()| tempfile::tempfile().expect("a temporary file"));
    stdin.write_all(input.as_bytes()).and_then(|()| stdin.rewind()).expect("a temporary file can be written");
    let [to_stdout, to_stderr] = [&stdout, &stderr].map(|file| file.try_clone().expect("a file can be shared"));
    let status = command.stdin(stdin).stdout(to_stdout).stderr(to_stderr).status();
    let status = status.unwrap_or_else(|error| panic!("could not start {described}: {error}"));
    Said { success: status.success(), stdout: text(&mut stdout), stderr: text(&mut stderr) }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a temporary file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The standard output of `command`, which must succeed.
pub fn output_of(command: &mut Command) -> String {
    let said = run(command, "");
    assert!(said.success, "{command:?} failed:\n{}{}", said.stdout, said.stderr);
    said.stdout
}

/// Shows a line beside the test's result.
pub fn say(line: &str) {
    // The test goes on when nobody listens.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
