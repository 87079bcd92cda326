//! Sizes, arrows, tables and words: what a reviewer would otherwise have to remark twice.
//! Each check is a file with a function from text to remarks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

mod arrows;
mod questions;
mod sizes;
mod stories;
mod tables;
mod words;

/// A file of the project: its path from the root and its text.
pub(crate) struct File {
    path: String,
    text: String,
}

/// # Errors
/// Lists everything that is untidy, one line each.
pub(crate) fn tidy(root: &Path) -> anyhow::Result<()> {
    let files = files(root)?;
    let architecture = text_of(&files, "ARCHITECTURE.md")?;
    let readme = text_of(&files, "README.md")?;
    let mut remarks = sizes::remarks(&files);
    remarks.extend(words::remarks(&files));
    remarks.extend(stories::remarks(&files));
    remarks.extend(arrows::remarks(architecture, &metadata(root)?)?);
    remarks.extend(questions::remarks(readme, &files)?);
    if !remarks.is_empty() {
        bail!("untidy:\n{}", remarks.join("\n"));
    }
    Ok(())
}

fn text_of<'files>(files: &'files [File], path: &str) -> anyhow::Result<&'files str> {
    let file = files.iter().find(|file| file.path == path);
    Ok(&file.with_context(|| format!("{path} is missing"))?.text)
}

/// Everything that is or could be committed, and is text.
fn files(root: &Path) -> anyhow::Result<Vec<File>> {
    let listed = output(root, "git ls-files --cached --others --exclude-standard")?;
    let texts = listed.lines().filter_map(|path| {
        let text = fs::read_to_string(root.join(path)).ok()?;
        Some(File { path: path.to_owned(), text })
    });
    Ok(texts.collect())
}

fn metadata(root: &Path) -> anyhow::Result<serde_json::Value> {
    let text = output(root, "cargo metadata --no-deps --format-version 1")?;
    serde_json::from_str(&text).context("cargo metadata is not JSON")
}

fn output(root: &Path, command: &str) -> anyhow::Result<String> {
    let mut words = command.split(' ');
    let program = words.next().context("an empty command")?;
    let output = Command::new(program).args(words).current_dir(root).output();
    let output = output.with_context(|| format!("could not start {program}"))?;
    ensure!(output.status.success(), "`{command}` failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).with_context(|| format!("`{command}` did not say UTF-8"))
}
