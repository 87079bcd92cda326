//! Names for revisions and pods: the hash of a pod template, and the short suffix of a generated name.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// No vowels and nothing that looks like one, so that no name spells a word.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

const TEMPLATE_HASH_LENGTH: usize = 10;
const SUFFIX_LENGTH: usize = 5;

/// A name for what the template says: 10 letters that depend on its fields and not on their order, and that a later
/// Segue must give as well. The collision count makes another name for the same template.
///
/// # Panics
/// Never for a template that was decoded from JSON.
#[must_use]
pub fn template_hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    let value = match serde_json::to_value(template) {
        Ok(value) => value,
        Err(error) => panic!("a pod template is always JSON: {error}"),
    };
    let mut hash = Fnv::new();
    hash_value(&mut hash, &value);
    if let Some(count) = collision_count {
        hash.write(&count.to_le_bytes());
    }
    spell(hash.finish(), TEMPLATE_HASH_LENGTH)
}

/// Five letters for the end of a generated name, from a random number.
#[must_use]
pub fn suffix(random: u64) -> String {
    spell(random, SUFFIX_LENGTH)
}

fn spell(mut number: u64, length: usize) -> String {
    let base = ALPHABET.len() as u64;
    let letter = |_| {
        let index = (number % base) as usize;
        number /= base;
        char::from(ALPHABET[index])
    };
    (0..length).map(letter).collect()
}

/// Each value is written with its kind and length, so that no two differing values write the same bytes.
fn hash_value(hash: &mut Fnv, value: &Value) {
    match value {
        Value::Null => hash.write(b"0"),
        Value::Bool(flag) => hash.write(if *flag { b"t" } else { b"f" }),
        Value::Number(number) => hash_text(hash, b"n", &number.to_string()),
        Value::String(text) => hash_text(hash, b"s", text),
        Value::Array(items) => {
            hash_length(hash, b"a", items.len());
            items.iter().for_each(|item| hash_value(hash, item));
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            hash_length(hash, b"o", sorted.len());
            for (name, value) in sorted {
                hash_text(hash, b"k", name);
                hash_value(hash, value);
            }
        }
    }
}

fn hash_text(hash: &mut Fnv, kind: &[u8], text: &str) {
    hash_length(hash, kind, text.len());
    hash.write(text.as_bytes());
}

fn hash_length(hash: &mut Fnv, kind: &[u8], length: usize) {
    hash.write(kind);
    hash.write(&(length as u64).to_le_bytes());
}

/// FNV-1a with 64 bits: short, and the same on every machine and in every version, which std's hasher doesn't promise.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn template_hash_never_changes() {
        let template = template(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        }));
        assert_eq!(template_hash(&template, None), "g8hhbpxnsf");
    }

    #[test]
    fn template_hash_ignores_the_order_of_fields() {
        let one = template(json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": []}}));
        let other = template(json!({"spec": {"containers": []}, "metadata": {"labels": {"b": "2", "a": "1"}}}));
        assert_eq!(template_hash(&one, None), template_hash(&other, None));
    }

    #[test]
    fn template_hash_differs_with_content_and_collisions() {
        let one = template(json!({"metadata": {"labels": {"a": "1"}}}));
        let other = template(json!({"metadata": {"labels": {"a": "2"}}}));
        assert_ne!(template_hash(&one, None), template_hash(&other, None));
        assert_ne!(template_hash(&one, None), template_hash(&one, Some(1)));
        assert_ne!(template_hash(&one, Some(1)), template_hash(&one, Some(2)));
    }

    #[test]
    fn names_use_only_the_alphabet() {
        for random in [0, 1, 26, 27, u64::MAX, 0x1234_5678_9abc_def0] {
            let name = suffix(random);
            assert_eq!(name.len(), 5);
            assert!(name.bytes().all(|letter| ALPHABET.contains(&letter)), "{name}");
        }
        assert_ne!(suffix(0), suffix(1));
    }
}
