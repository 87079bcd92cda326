//! Words that no file may hold, each with its reason.

use super::File;

/// Written in halves, so that this file may be read too.
const FORBIDDEN: [(&str, &str, &str); 13] = [
    ("#[ign", "ore", "a test runs or is deleted"),
    ("TO", "DO", "do it or open an issue"),
    ("FIX", "ME", "fix it or open an issue"),
    ("XX", "X:", "say what is meant"),
    ("/work/", "main", "a path of one machine"),
    ("/work/", "shared", "a path of one machine"),
    ("/ro", "ot/.", "a path of one machine"),
    ("cla", "ude", "who wrote it is not part of the product"),
    ("chat", "gpt", "who wrote it is not part of the product"),
    ("this ", "session", "describe the code, never its history"),
    ("py", "pi.org", "package managers know their hosts"),
    ("deb.", "debian.org", "package managers know their hosts"),
    ("registry.", "npmjs.org", "package managers know their hosts"),
];

/// Made by Cargo, which names the registry in it.
const GENERATED: &str = "Cargo.lock";

pub(super) fn remarks(files: &[File]) -> Vec<String> {
    let written = files.iter().filter(|file| file.path != GENERATED);
    written
        .flat_map(|file| file.text.lines().enumerate().flat_map(|(at, line)| in_line(&file.path, at + 1, line)))
        .collect()
}

fn in_line(path: &str, number: usize, line: &str) -> Vec<String> {
    let found = FORBIDDEN.iter().filter(|(start, end, _)| {
        let word = format!("{start}{end}");
        // Capitals are a word of their own: a lower-case one may stand for something else.
        if word.chars().any(char::is_uppercase) { line.contains(&word) } else { line.to_lowercase().contains(&word) }
    });
    found.map(|(start, end, reason)| format!("{path}:{number}: {start}{end}: {reason}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_words_are_found_where_they_stand() {
        let text = ["fine", concat!("// TO", "DO later"), concat!("#[ign", "ore]"), concat!("see /Work/", "main/file")]
            .join("\n");
        let files = [File { path: "a.rs".to_owned(), text: text.clone() }, File { path: GENERATED.to_owned(), text }];
        let places: Vec<_> =
            remarks(&files).iter().map(|remark| remark.split(": ").next().unwrap_or_default().to_owned()).collect();
        assert_eq!(places, ["a.rs:2", "a.rs:3", "a.rs:4"]);
    }
}
