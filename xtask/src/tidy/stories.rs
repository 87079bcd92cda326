//! Every story has its recorded output, and every recorded output its story.

use super::File;

const STORIES: &str = "/tests/stories/";

pub(super) fn remarks(files: &[File]) -> Vec<String> {
    let stories: Vec<_> = files.iter().map(|file| file.path.as_str()).filter(|path| path.contains(STORIES)).collect();
    let lonely = stories.iter().filter_map(|path| {
        let partner = match path.strip_suffix(".txt") {
            Some(story) => format!("{story}.expected"),
            None => format!("{}.txt", path.strip_suffix(".expected")?),
        };
        (!stories.contains(&partner.as_str())).then(|| format!("{path}: {partner} is missing"))
    });
    lonely.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_without_its_output_is_lonely_and_so_is_an_output_without_its_story() {
        let paths = ["told.txt", "told.expected", "untold.txt", "orphan.expected"];
        let files = paths.map(|name| File { path: format!("crates/decide/tests/stories/{name}"), text: String::new() });
        let remarks = remarks(&files);
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].contains("untold.txt") && remarks[1].contains("orphan.expected"), "{remarks:?}");
    }
}
