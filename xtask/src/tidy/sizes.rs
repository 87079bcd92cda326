//! A file can be read in one sitting. Functions are measured by clippy.

use super::File;

const PRODUCTION_LINES: usize = 700;

pub(super) fn remarks(files: &[File]) -> Vec<String> {
    let sources = files.iter().filter(|file| file.path.ends_with(".rs") && !is_test(&file.path));
    let sized = sources.map(|file| (file, production_lines(&file.text)));
    let long = sized.filter(|(_, lines)| *lines > PRODUCTION_LINES);
    long.map(|(file, lines)| format!("{}: {lines} production lines, at most {PRODUCTION_LINES}: split it", file.path))
        .collect()
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.split('/').rev().skip(1).any(|directory| directory == "tests" || directory == "it")
}

/// Lines before the test module.
fn production_lines(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let is_test_module = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
    lines.windows(2).position(is_test_module).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: String) -> File {
        File { path: path.to_owned(), text }
    }

    #[test]
    fn only_production_lines_count() {
        let long = "//\n".repeat(PRODUCTION_LINES + 1);
        let tested = "//\n".repeat(PRODUCTION_LINES) + "#[cfg(test)]\nmod tests {\n" + &long;
        let files = [
            file("crates/a/src/long.rs", long.clone()),
            file("crates/a/src/tested.rs", tested),
            file("crates/a/src/a/tests.rs", long.clone()),
            file("crates/a/tests/it/main.rs", long.clone()),
            file("docs/long.md", long),
        ];
        let remarks = remarks(&files);
        assert_eq!(remarks, ["crates/a/src/long.rs: 701 production lines, at most 700: split it"]);
    }
}
