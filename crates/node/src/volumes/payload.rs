//! The files of a configMap, secret, downwardAPI or projected volume, and how they replace the ones before: a new
//! directory beside the old one, and one rename of the link `..data`.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use super::SetUpError;
use super::tokens::Tokens;
use crate::pod::downward::{self, Facts};
use crate::pod::references::{MissingReference, References};

/// Kubernetes' default for files in such volumes.
const DEFAULT_MODE: i32 = 0o644;
pub(super) const DATA: &str = "..data";
const NEXT_DATA: &str = "..data_tmp";

/// Files by their path in the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Payload {
    files: BTreeMap<String, File>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    bytes: Vec<u8>,
    mode: u32,
}

/// Where a set of keys comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    ConfigMap(&'a str),
    Secret(&'a str),
}

/// Which keys become which files.
struct Selection<'a> {
    items: Option<&'a Vec<KeyToPath>>,
    optional: Option<bool>,
    default_mode: Option<i32>,
}

impl Payload {
    /// Collects the files that the volume is to have.
    pub(super) fn of(
        pod: &Pod,
        volume: &Volume,
        references: &References,
        tokens: &Tokens,
        node_name: &str,
    ) -> Result<Self, SetUpError> {
        let mut payload = Self::default();
        if let Some(source) = &volume.config_map {
            let selection = Selection {
                items: source.items.as_ref(),
                optional: source.optional,
                default_mode: source.default_mode,
            };
            payload.add_keys(Source::ConfigMap(&source.name), &selection, references)?;
        } else if let Some(source) = &volume.secret {
            let selection = Selection {
                items: source.items.as_ref(),
                optional: source.optional,
                default_mode: source.default_mode,
            };
            let name = source.secret_name.as_deref().unwrap_or_default();
            payload.add_keys(Source::Secret(name), &selection, references)?;
        } else if let Some(source) = &volume.downward_api {
            payload.add_fields(pod, source.items.as_ref(), source.default_mode, node_name)?;
        } else if volume.projected.is_some() {
            payload.add_projections(pod, volume, references, tokens, node_name)?;
        } else {
            return Err(SetUpError::Unsupported);
        }
        Ok(payload)
    }

    fn add_projections(
        &mut self,
        pod: &Pod,
        volume: &Volume,
        references: &References,
        tokens: &Tokens,
        node_name: &str,
    ) -> Result<(), SetUpError> {
        let Some(projected) = &volume.projected else { return Ok(()) };
        let default_mode = projected.default_mode;
        for source in projected.sources.iter().flatten() {
            if let Some(source) = &source.config_map {
                let selection = Selection { items: source.items.as_ref(), optional: source.optional, default_mode };
                self.add_keys(Source::ConfigMap(&source.name), &selection, references)?;
            } else if let Some(source) = &source.secret {
                let selection = Selection { items: source.items.as_ref(), optional: source.optional, default_mode };
                self.add_keys(Source::Secret(&source.name), &selection, references)?;
            } else if let Some(source) = &source.downward_api {
                self.add_fields(pod, source.items.as_ref(), default_mode, node_name)?;
            } else if let Some(source) = &source.service_account_token {
                let token = tokens.get(&source.path).map_or(&[][..], |token| token.as_bytes());
                self.add(&source.path, token, default_mode)?;
            } else {
                return Err(SetUpError::Unsupported);
            }
        }
        Ok(())
    }

    fn add_keys(
        &mut self,
        source: Source<'_>,
        selection: &Selection<'_>,
        references: &References,
    ) -> Result<(), SetUpError> {
        let optional = selection.optional == Some(true);
        let entries = match source.entries(references) {
            Err(_) if optional => return Ok(()),
            entries => entries?,
        };
        let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
            return entries.iter().try_for_each(|(key, bytes)| self.add(key, bytes, selection.default_mode));
        };
        for item in items {
            match entries.get(item.key.as_str()) {
                Some(bytes) => self.add(&item.path, bytes, item.mode.or(selection.default_mode))?,
                None if optional => {}
                None => return Err(source.missing_key(&item.key)),
            }
        }
        Ok(())
    }

    fn add_fields(
        &mut self,
        pod: &Pod,
        items: Option<&Vec<DownwardAPIVolumeFile>>,
        default_mode: Option<i32>,
        node_name: &str,
    ) -> Result<(), SetUpError> {
        // A volume is made before the pod has an address, and Kubernetes allows no field of one in it.
        let facts = Facts {
            node_name,
            pod_ip: Ipv4Addr::UNSPECIFIED,
            host_ip: Ipv4Addr::UNSPECIFIED,
            capacity: objects::pods::Resources::default(),
        };
        for item in items.into_iter().flatten() {
            let Some(field) = &item.field_ref else { return Err(SetUpError::Unsupported) };
            let value = downward::field(pod, &field.field_path, &facts)?;
            self.add(&item.path, value.as_bytes(), item.mode.or(default_mode))?;
        }
        Ok(())
    }

    fn add(&mut self, path: &str, bytes: &[u8], mode: Option<i32>) -> Result<(), SetUpError> {
        let parts: Vec<Component<'_>> = Path::new(path).components().collect();
        let is_plain = !parts.is_empty() && parts.iter().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || path.starts_with("..") {
            return Err(SetUpError::Path(path.to_owned()));
        }
        let mode = u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0) & 0o777;
        self.files.insert(path.to_owned(), File { bytes: bytes.to_vec(), mode });
        Ok(())
    }

    /// Makes the volume hold these files and no others. With a group, its members can read them, as Kubernetes has it.
    pub(super) fn write(&self, volume: &Path, group: Option<u32>) -> io::Result<()> {
        std::fs::create_dir_all(volume)?;
        std::fs::set_permissions(volume, std::fs::Permissions::from_mode(0o755))?;
        let old = std::fs::read_link(volume.join(DATA)).ok();
        if old.is_some() && self.is_in(&volume.join(DATA)) {
            return Ok(());
        }
        let name = next_name(volume)?;
        self.write_files(&volume.join(&name), group)?;
        match std::fs::remove_file(volume.join(NEXT_DATA)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        symlink(&name, volume.join(NEXT_DATA))?;
        std::fs::rename(volume.join(NEXT_DATA), volume.join(DATA))?;
        self.link_names(volume)?;
        remove_others(volume, &name)
    }

    fn is_in(&self, directory: &Path) -> bool {
        let same = |(path, file): (&String, &File)| std::fs::read(directory.join(path)).is_ok_and(|b| b == file.bytes);
        count_files(directory).is_ok_and(|count| count == self.files.len()) && self.files.iter().all(same)
    }

    fn write_files(&self, directory: &Path, group: Option<u32>) -> io::Result<()> {
        let for_group = if group.is_some() { 0o440 } else { 0 };
        std::fs::create_dir(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
        for (path, file) in &self.files {
            let path = directory.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&path, &file.bytes)?;
            chown(&path, None, group)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode | for_group))?;
        }
        Ok(())
    }

    /// Every file's first directory, or the file itself, becomes a link through `..data`.
    fn link_names(&self, volume: &Path) -> io::Result<()> {
        for name in self.top_names() {
            let link = volume.join(name);
            match symlink(Path::new(DATA).join(name), &link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        for entry in std::fs::read_dir(volume)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with("..") && !self.top_names().any(|known| known == name) {
                std::fs::remove_file(volume.join(name.as_ref()))?;
            }
        }
        Ok(())
    }

    fn top_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().filter_map(|path| path.split('/').next())
    }
}

impl Source<'_> {
    fn entries(self, references: &References) -> Result<BTreeMap<&str, &[u8]>, MissingReference> {
        match self {
            Self::ConfigMap(name) => references.config_map(name),
            Self::Secret(name) => references.secret(name),
        }
    }

    fn missing_key(self, key: &str) -> SetUpError {
        match self {
            Self::ConfigMap(_) => SetUpError::ConfigMapKey(key.to_owned()),
            Self::Secret(_) => SetUpError::SecretKey(key.to_owned()),
        }
    }
}

/// A name that no directory of the volume has.
fn next_name(volume: &Path) -> io::Result<String> {
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for number in 0_u32.. {
        let name = format!("{stamp}.{number}");
        if !volume.join(&name).try_exists()? {
            return Ok(name);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn remove_others(volume: &Path, kept: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_old = name.to_string_lossy().starts_with("..") && name != *kept && name != *DATA;
        if is_old && entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path: PathBuf = entry.path();
        count += if entry.file_type()?.is_dir() { count_files(&path)? } else { 1 };
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::{Value, json};

    fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn payload(mut volume: Value, data: Value) -> Result<Payload, String> {
        let pod: Pod = parsed(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}}));
        volume["name"] = json!("v");
        let volume: Volume = parsed(volume);
        let config_map: ConfigMap = parsed(json!({"metadata": {"name": "settings"}, "data": data}));
        let secret: Secret = parsed(json!({"metadata": {"name": "keys"}, "data": {"s": "aGlkZGVu"}}));
        let references = References::holding([config_map], [secret]);
        Payload::of(&pod, &volume, &references, &Tokens::new(), "box").map_err(|error| error.to_string())
    }

    fn shown(volume: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(volume)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_update_replaces_all_files_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("v");
        let of = |data| payload(json!({"configMap": {"name": "settings"}}), data).unwrap();
        of(json!({"a": "1", "b": "2"})).write(&volume, None).unwrap();
        assert_eq!(shown(&volume), ["a", "b"]);
        let first = std::fs::read_link(volume.join(DATA)).unwrap();
        assert_eq!(std::fs::read_link(volume.join("a")).unwrap(), Path::new("..data/a"));

        of(json!({"a": "1", "b": "2"})).write(&volume, None).unwrap();
        assert_eq!(std::fs::read_link(volume.join(DATA)).unwrap(), first);

        of(json!({"b": "3", "c": "4"})).write(&volume, None).unwrap();
        assert_eq!(shown(&volume), ["b", "c"]);
        assert_eq!(std::fs::read_to_string(volume.join("b")).unwrap(), "3");
        assert!(!volume.join(first).exists());
    }

    #[test]
    fn items_choose_paths_and_modes() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("v");
        let source = json!({"configMap": {"name": "settings", "defaultMode": 0o600, "items": [
            {"key": "a", "path": "deep/er/a"}, {"key": "b", "path": "b", "mode": 0o400},
        ]}});
        payload(source, json!({"a": "1", "b": "2", "c": "3"})).unwrap().write(&volume, None).unwrap();
        assert_eq!(shown(&volume), ["b", "deep"]);
        let mode = |path: &str| std::fs::metadata(volume.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("deep/er/a"), mode("b")), (0o600, 0o400));
    }

    #[test]
    fn sources_can_be_mixed() {
        let source = json!({"projected": {"sources": [
            {"configMap": {"name": "settings"}},
            {"secret": {"name": "keys", "items": [{"key": "s", "path": "secret"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}});
        let files = payload(source, json!({"a": "1"})).unwrap().files;
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, file)| (path.as_str(), &file.bytes[..])).collect();
        assert_eq!(files, [("a", &b"1"[..]), ("labels", b"a=\"b\""), ("secret", b"hidden")]);
    }

    #[test]
    fn what_is_missing_is_told_in_kubernetes_words() {
        let table = [
            (json!({"configMap": {"name": "none"}}), "configmap \"none\" not found"),
            (json!({"secret": {"secretName": "none"}}), "secret \"none\" not found"),
            (
                json!({"configMap": {"name": "settings", "items": [{"key": "x", "path": "x"}]}}),
                "references non-existent config key: x",
            ),
            (
                json!({"configMap": {"name": "settings", "items": [{"key": "a", "path": "../a"}]}}),
                "path \"../a\" must be relative and without '..'",
            ),
        ];
        for (volume, message) in table {
            assert_eq!(payload(volume, json!({"a": "1"})).unwrap_err(), message);
        }
        let optional = payload(json!({"configMap": {"name": "none", "optional": true}}), json!({})).unwrap();
        assert_eq!(optional, Payload::default());
    }
}
