//! The README's "Where is…?" table is true: each path exists, and each name stands in the file before it.

use super::File;
use super::tables::{code, rows};

pub(super) fn remarks(readme: &str, files: &[File]) -> anyhow::Result<Vec<String>> {
    let answers = rows(readme, ["Question", "Go to"])?;
    Ok(answers.into_iter().flat_map(|[question, answer]| untrue(question, answer, files)).collect())
}

/// An answer is a row of paths, below `crates/` or the root, each followed by names that the file declares.
fn untrue(question: &str, answer: &str, files: &[File]) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut current: Option<&File> = None;
    for word in code(answer) {
        if word.contains('/') || word.ends_with(".rs") {
            current = files.iter().find(|file| is_at(file, word));
            if current.is_none() && !files.iter().any(|file| is_below(file, word)) {
                remarks.push(format!("README.md, \"{question}\": there is no {word}"));
            }
        } else if !current.is_some_and(|file| declares(&file.text, word)) {
            remarks.push(format!("README.md, \"{question}\": nothing named {word} is declared in the file before it"));
        }
    }
    remarks
}

fn is_at(file: &File, path: &str) -> bool {
    file.path == path || file.path.strip_prefix("crates/") == Some(path)
}

fn is_below(file: &File, path: &str) -> bool {
    let directory = format!("{}/", path.trim_end_matches('/'));
    file.path.starts_with(&directory)
        || file.path.strip_prefix("crates/").is_some_and(|rest| rest.starts_with(&directory))
}

fn declares(text: &str, name: &str) -> bool {
    let name = name.trim_end_matches("()");
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"].iter().any(|kind| {
        let declaration = format!("{kind} {name}");
        text.match_indices(&declaration).any(|(at, _)| ends(&text[at + declaration.len()..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_path_or_a_name_that_is_gone_is_remarked() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("crates/decide/src/rollout.rs", "pub fn next_steps(a: u8) {}\nenum Waiting {}"),
            file("crates/decide/src/diagnosis/oom.rs", ""),
        ];
        let readme = |answer: &str| format!("| Question | Go to |\n|---|---|\n| What next? | {answer} |");
        let cases = [
            ("`decide/src/rollout.rs` `next_steps`, `Waiting`", ""),
            ("a new file in `decide/src/diagnosis/`", ""),
            ("`decide/src/rolling.rs`", "there is no decide/src/rolling.rs"),
            ("`decide/src/rollout.rs` `next_step`", "nothing named next_step is declared"),
            ("`decide/src/rolling.rs` `next_steps`", "there is no decide/src/rolling.rs"),
        ];
        for (answer, remark) in cases {
            let found = remarks(&readme(answer), &files).unwrap();
            assert_eq!(found.is_empty(), remark.is_empty(), "{answer}: {found:?}");
            assert!(found.first().is_none_or(|found| found.contains(remark)), "{answer}: {found:?}");
        }
    }
}
