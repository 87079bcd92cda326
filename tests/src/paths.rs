//! Where the programs and manifests under test are.

use std::path::{Path, PathBuf};

/// A program that Cargo built beside the running one.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let running = std::env::current_exe().expect("the running program has a path");
    let directory = running.parent().expect("a program is in a directory");
    let directory =
        if directory.ends_with("deps") { directory.parent().expect("deps is in a directory") } else { directory };
    let program = directory.join(name);
    assert!(program.exists(), "{} is missing: `make test` builds it", program.display());
    program
}

/// A program that `tests/prerequisites` fetched.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let program = project("target/tools").join(name);
    assert!(program.exists(), "{} is missing: `tests/prerequisites` fetches it", program.display());
    program
}

/// A file of the project.
#[must_use]
pub fn project(path: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is in the project").join(path)
}
