//! What the host's links are called: `sg`, four digits for the engine, eight for the pod. The kernel allows 15 bytes.

use sha2::{Digest, Sha256};

/// How the links of every engine on this machine begin.
pub(super) const ANY_PREFIX: &str = "sg";

/// How the links of one engine begin.
pub fn link_prefix(instance: &str) -> String {
    format!("{ANY_PREFIX}{}", first_hex_digits(instance, 2))
}

/// The link of one pod. Uids are random, so their first digits are enough.
pub(super) fn link_name(prefix: &str, uid: &str) -> String {
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let name = format!("{prefix}{digits}");
    assert!(name.len() <= 14, "a link's name is short enough for the kernel");
    name
}

fn first_hex_digits(text: &str, bytes: usize) -> String {
    Sha256::digest(text).iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_engines_and_pods_apart() {
        let (one, other) = (link_prefix("default"), link_prefix("1a2b3c4d"));
        assert_ne!(one, other);
        let name = link_name(&one, "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(name, format!("{one}01234567"));
        assert_eq!(name.len(), 14);
    }
}
