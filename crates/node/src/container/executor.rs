//! The last steps inside a new process, after libcontainer has set up everything else: is the program there, then
//! seccomp, then exec. What fails here is told in a sentence through a pipe, since libcontainer drops the causes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Confinement;
use super::seccomp::{self, Filters, SeccompError};
use crate::sys;

/// Offset and size of the machine in an ELF header.
const ELF_MACHINE: std::ops::Range<usize> = 18..20;

/// Runs a container's program, or one that joins it.
#[derive(Clone)]
pub(super) struct Workload {
    filters: Rc<Filters>,
    /// What the program may have, where installing the filters needs more.
    keep: Option<u64>,
    report: Rc<File>,
    env: Rc<RefCell<HashMap<String, String>>>,
}

impl Workload {
    /// `report` is written to when the program can't be run, and closed by the kernel when it does.
    pub(super) fn new(confinement: &Confinement, capabilities: u64, report: OwnedFd) -> Result<Self, SeccompError> {
        let filters = Rc::new(Filters::compile(confinement, capabilities)?);
        let keep = (seccomp::needed(confinement) != 0).then_some(capabilities);
        Ok(Self { filters, keep, report: Rc::new(File::from(report)), env: Rc::default() })
    }

    fn failed(&self, sentence: String) -> String {
        // Nobody else is left to be told when the pipe is broken: the shim has gone.
        let _ = (&*self.report).write_all(sentence.as_bytes());
        sentence
    }

    /// Returns only when that failed, with the sentence why.
    fn run(&self, args: &[String]) -> String {
        let env = self.env.borrow();
        let program = match resolve(args, env.get("PATH").map_or("", String::as_str)) {
            Ok(program) => program,
            Err(sentence) => return sentence,
        };
        if let Err(error) = self.filters.install() {
            return chain(&error);
        }
        if let Some(Err(error)) = self.keep.map(keep_only) {
            return format!("cannot give up capabilities under the seccomp profile: {error}");
        }
        sys::reset_signals();
        let mut command = Command::new(&program);
        command.args(args.iter().skip(1)).env_clear().envs(&*env);
        if let Some(name) = args.first() {
            command.arg0(name);
        }
        format!("exec {}: {}", program.display(), sentence_of(&command.exec()))
    }
}

impl Executor for Workload {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The container must not outlive its shim, which holds its exit code and its log. Set from here on, because
        // setting the user, which has just happened, clears it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|errno| ExecutorValidationError::ArgValidationError(errno.to_string()))?;
        match resolve(args_of(spec), path_of(spec)) {
            Ok(_) => Ok(()),
            Err(sentence) => Err(ExecutorValidationError::ArgValidationError(self.failed(sentence))),
        }
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        *self.env.borrow_mut() = envs;
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        Err(ExecutorError::Other(self.failed(self.run(args_of(spec)))))
    }
}

fn keep_only(capabilities: u64) -> io::Result<()> {
    let kept = CapabilitySet::from_bits_retain(capabilities);
    let bounding = CapabilitySet::all().iter().filter(|one| !kept.contains(*one));
    for capability in bounding {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // This kernel is older than the capability.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn args_of(spec: &Spec) -> &[String] {
    spec.process().as_ref().and_then(|process| process.args().as_deref()).unwrap_or_default()
}

fn path_of(spec: &Spec) -> &str {
    let env = spec.process().as_ref().and_then(|process| process.env().as_deref());
    env.unwrap_or_default().iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("")
}

/// Finds the program as `exec` in a shell would; the error is the sentence Kubernetes users know.
fn resolve(args: &[String], path: &str) -> Result<PathBuf, String> {
    let name = args.first().map_or("", String::as_str);
    let found = if name.contains('/') {
        check(Path::new(name)).map(|()| PathBuf::from(name))
    } else {
        let candidates = path.split(':').map(|directory| Path::new(directory).join(name));
        let runnable = candidates.into_iter().find(|file| !name.is_empty() && check(file).is_ok());
        runnable.ok_or_else(|| "executable file not found in $PATH".to_owned())
    };
    let program = found.map_err(|reason| format!("exec: {name:?}: {reason}"))?;
    // `execvp` would hand such a file to a shell, which says something that helps nobody.
    if is_of_another_machine(&program) {
        return Err(format!("exec {}: exec format error", program.display()));
    }
    Ok(program)
}

fn check(file: &Path) -> Result<(), String> {
    let metadata = fs::metadata(file).map_err(|error| format!("stat {}: {}", file.display(), sentence_of(&error)))?;
    if metadata.is_dir() {
        return Err("is a directory".to_owned());
    }
    rustix::fs::access(file, Access::EXEC_OK).map_err(|errno| sentence_of(&errno.into()))
}

fn is_of_another_machine(file: &Path) -> bool {
    let mut header = [0; ELF_MACHINE.end];
    let mut read = |path| File::open(path).and_then(|mut file| file.read_exact(&mut header));
    if read(file).is_err() || !header.starts_with(b"\x7fELF") {
        return false;
    }
    let own: u16 = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        _ => return false,
    };
    header[ELF_MACHINE] != own.to_le_bytes()
}

/// The kernel's words as Go programs write them: `no such file or directory`.
fn sentence_of(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// An error and everything that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refusal(name: &str, path: &str) -> String {
        resolve(&[name.to_owned()], path).unwrap_err()
    }

    #[test]
    fn what_cannot_be_run_is_told_in_the_words_users_know() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_str().unwrap();
        fs::write(directory.path().join("data"), "x").unwrap();
        fs::set_permissions(directory.path().join("data"), fs::Permissions::from_mode(0o644)).unwrap();
        let missing = "exec: \"/no-such\": stat /no-such: no such file or directory";
        assert_eq!(refusal("/no-such", ""), missing);
        assert_eq!(refusal("data", at), "exec: \"data\": executable file not found in $PATH");
        assert_eq!(refusal("", at), "exec: \"\": executable file not found in $PATH");
        assert_eq!(refusal(at, ""), format!("exec: {at:?}: is a directory"));
        let data = format!("{at}/data");
        assert_eq!(refusal(&data, ""), format!("exec: {data:?}: permission denied"));
    }

    #[test]
    fn a_program_for_another_machine_is_not_given_to_a_shell() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("app");
        let mut header = b"\x7fELF".to_vec();
        header.resize(64, 0);
        fs::write(&file, header).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let sentence = refusal(file.to_str().unwrap(), "");
        assert!(sentence.ends_with("exec format error"), "{sentence}");
    }

    #[test]
    fn programs_are_found_on_the_path() {
        let found = resolve(&["true".to_owned()], "/no-such:/usr/bin:/bin").unwrap();
        assert!(found.ends_with("true"));
    }
}
