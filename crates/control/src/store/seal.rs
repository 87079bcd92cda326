//! Secrets can't be read from the store's file without a key that is kept in another: AES-256-GCM, with a new nonce for
//! each write and the object's name bound to it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// What is kept unreadable.
pub(super) const SEALED_RESOURCE: &str = "secrets";
/// Before the nonce and the ciphertext. JSON never begins like this.
pub(super) const MARK: &[u8] = b"\0sealed1";
const KEY_BYTES: usize = 32;

/// Why the key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the store's Secrets are encrypted, and the key {} is missing: put it back from where you keep it",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("could not read or write the store's key {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the store's key {} is not 64 hexadecimal digits", path.display())]
    Invalid { path: PathBuf },
    #[error("the machine has no random numbers to make a key of")]
    Random,
}

/// The bytes were changed, or sealed with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it can't be decrypted: it was written with another key, or damaged")]
pub struct Unsealable;

/// Seals and opens.
pub(super) struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Seal {
    /// Reads the key, or makes it where nothing was sealed yet.
    pub(super) fn with_key(path: &Path, is_in_use: bool) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if is_in_use {
                    return Err(KeyError::Missing { path: path.to_owned() });
                }
                let text = make_key()?;
                write_durably(path, &text).map_err(failed)?;
                text
            }
            read => read.map_err(failed)?,
        };
        let bytes = read_key(text.trim()).ok_or_else(|| KeyError::Invalid { path: path.to_owned() })?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| KeyError::Invalid { path: path.to_owned() })?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// The bytes to store of an object.
    pub(super) fn close(&self, name: &str, json: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| Unsealable)?;
        let mut sealed = json.to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce_used, Aad::from(name.as_bytes()), &mut sealed)
            .map_err(|_| Unsealable)?;
        Ok([MARK, &nonce, &sealed].concat())
    }

    /// An object's JSON of what is stored.
    pub(super) fn open(&self, name: &str, stored: Vec<u8>) -> Result<Vec<u8>, Unsealable> {
        let Some(sealed) = stored.strip_prefix(MARK) else { return Ok(stored) };
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let json = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut opened).map_err(|_| Unsealable)?;
        Ok(json.to_vec())
    }
}

fn make_key() -> Result<String, KeyError> {
    let mut bytes = [0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Random)?;
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text + "\n")
}

fn read_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// On disk before anything is sealed with it.
fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_opened_by_its_key_and_its_name_only() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        let seal = Seal::with_key(&one, false).unwrap();
        let sealed = seal.close("default/a", b"{}").unwrap();
        assert!(sealed.starts_with(MARK));
        assert_ne!(sealed, seal.close("default/a", b"{}").unwrap(), "a nonce was used twice");
        let again = Seal::with_key(&one, true).unwrap();
        assert_eq!(again.open("default/a", sealed.clone()).unwrap(), b"{}");
        assert_eq!(again.open("default/b", sealed.clone()), Err(Unsealable));
        assert_eq!(Seal::with_key(&other, false).unwrap().open("default/a", sealed.clone()), Err(Unsealable));
        let mut damaged = sealed;
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(again.open("default/a", damaged), Err(Unsealable));
        assert_eq!(again.open("default/a", b"{}".to_vec()).unwrap(), b"{}");
    }

    #[test]
    fn a_key_that_is_missing_or_none_is_told_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(matches!(Seal::with_key(&path, true), Err(KeyError::Missing { .. })));
        fs::write(&path, "no key").unwrap();
        assert!(matches!(Seal::with_key(&path, true), Err(KeyError::Invalid { .. })));
    }
}
