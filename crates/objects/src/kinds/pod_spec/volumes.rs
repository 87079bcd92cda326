//! Mistakes in volumes and where they are mounted.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::{dns_label_faults, dns_subdomain_faults};
use crate::quantity;
use crate::validation::{At, Cause, check_one_of};

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The volumes of a pod by name.
pub(super) type VolumeNames<'a> = BTreeSet<&'a str>;

/// Mistakes in a pod's volumes; the answer is what mounts may refer to.
pub(super) fn check<'a>(volumes: &At<'a>, causes: &mut Vec<Cause>) -> VolumeNames<'a> {
    let mut names = VolumeNames::new();
    for volume in volumes.items() {
        let name = volume.field("name");
        if name.is_empty() {
            causes.push(name.required(""));
        } else {
            causes.extend(name.invalid_for(dns_label_faults(name.text())));
            if !names.insert(name.text()) {
                causes.push(name.duplicate());
            }
        }
        check_sources(&volume, causes);
    }
    names
}

/// Mistakes in a container's mounts.
pub(super) fn check_mounts(container: &At<'_>, volumes: &VolumeNames<'_>, causes: &mut Vec<Cause>) {
    let mut paths = BTreeSet::new();
    for mount in container.field("volumeMounts").items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.is_empty() {
            causes.push(name.required(""));
        } else if !volumes.contains(name.text()) {
            causes.push(name.not_found());
        }
        if path.is_empty() {
            causes.push(path.required(""));
        } else if !paths.insert(path.text()) {
            causes.push(path.invalid("must be unique"));
        }
        if path.text().contains(':') {
            causes.push(path.invalid("must not contain ':'"));
        }
        for field in ["subPath", "subPathExpr"] {
            check_inner_path(&mount.field(field), causes);
        }
        if !mount.field("subPath").is_empty() && !mount.field("subPathExpr").is_empty() {
            causes.push(mount.field("subPathExpr").invalid("subPathExpr and subPath are mutually exclusive"));
        }
        check_one_of(&mount.field("mountPropagation"), &["Bidirectional", "HostToContainer", "None"], causes);
    }
}

fn check_sources(volume: &At<'_>, causes: &mut Vec<Cause>) {
    let mut sources: BTreeMap<&str, At<'_>> = BTreeMap::new();
    for name in
        volume.value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).filter(|name| *name != "name")
    {
        sources.insert(name, volume.field(name));
    }
    if sources.is_empty() {
        causes.push(volume.required("must specify a volume type"));
    }
    // The type that counts is the first in the order in which Kubernetes declares them.
    let order =
        ["emptyDir", "hostPath", "secret", "nfs", "persistentVolumeClaim", "downwardAPI", "configMap", "projected"];
    let rank = |name: &str| order.iter().position(|known| *known == name).unwrap_or(order.len());
    let mut ranked: Vec<_> = sources.values().collect();
    ranked.sort_by_key(|source| rank(source.path.rsplit('.').next().unwrap_or_default()));
    for extra in ranked.iter().skip(1) {
        causes.push(extra.forbidden("may not specify more than 1 volume type"));
    }
    for (name, source) in &sources {
        check_source(name, source, causes);
    }
}

fn check_source(kind: &str, source: &At<'_>, causes: &mut Vec<Cause>) {
    let mut require = |name: &str| {
        if source.field(name).is_empty() {
            causes.push(source.field(name).required(""));
        }
    };
    match kind {
        "configMap" => require("name"),
        "secret" => require("secretName"),
        "hostPath" => require("path"),
        "persistentVolumeClaim" => require("claimName"),
        "nfs" => ["server", "path"].into_iter().for_each(require),
        _ => {}
    }
    check_files(kind, source, causes);
    match kind {
        "hostPath" => {
            check_one_of(&source.field("type"), &HOST_PATH_TYPES, causes);
            check_no_backsteps(&source.field("path"), causes);
        }
        "emptyDir" => {
            let limit = source.field("sizeLimit");
            if quantity::parse(limit.text()).is_ok_and(quantity::Amount::is_negative) {
                causes.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "projected" => source.field("sources").items().for_each(|part| check_projection(&part, causes)),
        _ => {}
    }
}

fn check_projection(part: &At<'_>, causes: &mut Vec<Cause>) {
    for kind in ["configMap", "secret"] {
        let source = part.field(kind);
        if source.is_given() {
            let name = source.field("name");
            if name.is_empty() {
                causes.push(name.required(""));
            } else {
                causes.extend(name.invalid_for(dns_subdomain_faults(name.text())));
            }
            check_files(kind, &source, causes);
        }
    }
    if part.field("downwardAPI").is_given() {
        check_files("downwardAPI", &part.field("downwardAPI"), causes);
    }
    let token = part.field("serviceAccountToken");
    if token.is_given() {
        let path = token.field("path");
        if path.is_empty() {
            causes.push(path.required(""));
        }
        check_inner_path(&path, causes);
        let seconds = token.field("expirationSeconds");
        if seconds.value.as_i64().is_some_and(|seconds| seconds < 600) {
            causes.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        } else if seconds.value.as_i64().is_some_and(|seconds| seconds > 1 << 32) {
            causes.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
    }
}

/// Modes and paths of the files that a source is turned into.
fn check_files(kind: &str, source: &At<'_>, causes: &mut Vec<Cause>) {
    check_mode(&source.field("defaultMode"), causes);
    for item in source.field("items").items() {
        if kind != "downwardAPI" && item.field("key").is_empty() {
            causes.push(item.field("key").required(""));
        }
        let path = item.field("path");
        if path.is_empty() {
            causes.push(path.required(""));
        }
        check_inner_path(&path, causes);
        check_mode(&item.field("mode"), causes);
    }
}

fn check_mode(mode: &At<'_>, causes: &mut Vec<Cause>) {
    if mode.number().is_some_and(|number| !(0..=0o777).contains(&number)) {
        causes.push(mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// A path inside a volume, which may not lead out of it.
fn check_inner_path(path: &At<'_>, causes: &mut Vec<Cause>) {
    if path.text().starts_with('/') {
        causes.push(path.invalid("must be a relative path"));
    }
    check_no_backsteps(path, causes);
}

fn check_no_backsteps(path: &At<'_>, causes: &mut Vec<Cause>) {
    if path.text().split('/').any(|part| part == "..") {
        causes.push(path.invalid("must not contain '..'"));
    }
}
