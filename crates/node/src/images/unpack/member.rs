//! What does a name in a layer mean? Pure: components, and the marks for what a layer deletes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::UnpackError;

/// The kernel's limits on a path and on one component.
const LONGEST_PATH: usize = 4095;
const LONGEST_COMPONENT: usize = 255;

/// An entry's name: free of `..`, relative to the image's root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// As the layer spells it, for messages.
    pub(crate) text: String,
    /// The directories above.
    pub(crate) parent: PathBuf,
    pub(crate) kind: MemberKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// The image's root directory itself.
    Root,
    /// Something of this name in `parent`.
    Node(OsString),
    /// `.wh.NAME`: what the layers below have under this name in `parent` is deleted.
    Whiteout(OsString),
    /// `.wh..wh..opq`: all that the layers below have in `parent` is deleted.
    Opaque,
    /// Bookkeeping of a union filesystem that old tools left in layers.
    Ignored,
}

impl Member {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Member, UnpackError> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut components = components(bytes, &text)?;
        let last = components.pop();
        let kind = match last {
            None => MemberKind::Root,
            Some(last) if is_bookkeeping(&components, &last) => MemberKind::Ignored,
            Some(_) if components.iter().any(is_mark) => {
                return Err(bad_name(&text, "names starting with .wh. mark deletions"));
            }
            Some(last) => kind_of(last, &text)?,
        };
        Ok(Member { text, parent: components.iter().collect(), kind })
    }

    /// The name in `parent`; the root directory has none and can't be anything but a directory.
    pub(crate) fn node_name(&self) -> Result<&OsStr, UnpackError> {
        match &self.kind {
            MemberKind::Node(name) | MemberKind::Whiteout(name) => Ok(name),
            MemberKind::Root | MemberKind::Opaque | MemberKind::Ignored => {
                Err(bad_name(&self.text, "the root of an image must be a directory"))
            }
        }
    }
}

fn components(bytes: &[u8], text: &str) -> Result<Vec<OsString>, UnpackError> {
    if bytes.is_empty() {
        return Err(bad_name(text, "it is empty"));
    }
    if bytes.len() > LONGEST_PATH {
        return Err(bad_name(text, "it is longer than 4095 bytes"));
    }
    if bytes.contains(&0) {
        return Err(bad_name(text, "it contains a NUL byte"));
    }
    let mut components = Vec::new();
    for component in bytes.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                return Err(UnpackError::Escape { member: text.to_owned() });
            }
            _ if component.len() > LONGEST_COMPONENT => {
                return Err(bad_name(text, "a component is longer than 255 bytes"));
            }
            _ => components.push(OsString::from_vec(component.to_vec())),
        }
    }
    Ok(components)
}

fn kind_of(last: OsString, text: &str) -> Result<MemberKind, UnpackError> {
    match last.as_bytes().strip_prefix(b".wh.") {
        None => Ok(MemberKind::Node(last)),
        Some(b".wh..opq") => Ok(MemberKind::Opaque),
        Some(b"" | b"." | b"..") => Err(bad_name(text, "it deletes nothing that has a name")),
        Some(name) => Ok(MemberKind::Whiteout(OsString::from_vec(name.to_vec()))),
    }
}

fn is_mark(component: &OsString) -> bool {
    component.as_bytes().starts_with(b".wh.")
}

fn is_bookkeeping(parents: &[OsString], last: &OsString) -> bool {
    let is_reserved = |component: &OsString| component.as_bytes().starts_with(b".wh..wh.");
    parents.iter().any(is_reserved) || (is_reserved(last) && last != ".wh..wh..opq")
}

fn bad_name(text: &str, reason: &'static str) -> UnpackError {
    UnpackError::Name { member: text.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &[u8]) -> MemberKind {
        Member::parse(name).unwrap().kind
    }

    #[test]
    fn spellings_of_one_path_mean_the_same() {
        for name in ["etc/passwd", "./etc/passwd", "/etc/passwd", "//etc/./passwd", "etc//passwd/"] {
            let member = Member::parse(name.as_bytes()).unwrap();
            assert_eq!(member.parent, PathBuf::from("etc"), "{name}");
            assert_eq!(member.kind, MemberKind::Node("passwd".into()), "{name}");
        }
    }

    #[test]
    fn marks_of_deletion_are_told_from_files() {
        assert_eq!(kind(b"./"), MemberKind::Root);
        assert_eq!(kind(b"a/.wh.b"), MemberKind::Whiteout("b".into()));
        assert_eq!(kind(b"a/.wh..wh..opq"), MemberKind::Opaque);
        assert_eq!(kind(b".wh..wh.plnk"), MemberKind::Ignored);
        assert_eq!(kind(b".wh..wh.plnk/101.5"), MemberKind::Ignored);
        assert_eq!(kind(b"a/.whx"), MemberKind::Node(".whx".into()));
    }

    #[test]
    fn absurd_names_are_refused() {
        let long = [b'a'; 256];
        let deep = b"a/".repeat(2048);
        let names: [&[u8]; 10] =
            [b"", b"../a", b"a/../../b", b"a/..", b".wh.", b".wh..", b".wh...", b"a\0b", &long, &deep];
        for name in names {
            assert!(Member::parse(name).is_err(), "{:?}", String::from_utf8_lossy(name));
        }
        assert!(Member::parse(b".wh.a/b").is_err());
    }
}
