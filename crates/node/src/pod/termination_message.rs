//! What a container says last: the file it may write for that, or the end of its log when it failed without a word.
//! Limits are those of Kubernetes ("Customizing the termination message").

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::container_id;
use crate::agent::Settings;
use crate::container::{Mount, MountAccess, MountSource};
use crate::cri_log;

const DEFAULT_PATH: &str = "/dev/termination-log";
const LONGEST: usize = 4096;
/// Of all containers of a pod together.
const LONGEST_OF_POD: usize = 12 * 1024;
const LONGEST_OF_LOG: usize = 2048;
const MOST_LINES_OF_LOG: usize = 80;
/// A record's head is this long at most, and its text is cut at a length of its own.
const LONGEST_RECORD: usize = cri_log::MAX_LINE_BYTES + 64;

/// The file on the machine.
fn path(settings: &Settings, uid: &str, id: &str) -> PathBuf {
    settings.pod_data_dir(uid).join("containers").join(id).join("termination-log")
}

/// Makes the file, which whoever the container runs as may write.
pub(crate) fn prepare(settings: &Settings, uid: &str, id: &str) -> io::Result<()> {
    let path = path(settings, uid, id);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    File::create(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o666))
}

/// The file in the container, unless it wants none.
pub(super) fn mount(settings: &Settings, uid: &str, container: &Container, id: &str) -> Option<Mount> {
    let target = container.termination_message_path.as_deref().unwrap_or(DEFAULT_PATH);
    let source = MountSource::Bind { path: path(settings, uid, id) };
    (!target.is_empty()).then(|| Mount {
        target: target.into(),
        source,
        sub_path: None,
        access: MountAccess::ReadWrite,
    })
}

/// What a run that ended with this code said last.
pub(crate) fn read(settings: &Settings, pod: &Pod, container: &Container, attempt: i32, code: i32) -> Option<String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let longest = LONGEST.min(LONGEST_OF_POD / containers.max(1));
    // Who has said nothing, and whose file is gone, is the same to whoever reads.
    let said = read_end(&path(settings, uid, &container_id(&container.name, attempt)), longest).unwrap_or_default();
    let falls_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
    let said = match falls_back && said.is_empty() {
        true => last_lines(&settings.log_path(uid, &container.name, attempt)),
        false => said,
    };
    (!said.is_empty()).then(|| String::from_utf8_lossy(&said).into_owned())
}

fn read_end(path: &Path, longest: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(longest as u64)))?;
    let mut end = Vec::new();
    file.take(longest as u64).read_to_end(&mut end)?;
    Ok(end)
}

fn last_lines(log: &Path) -> Vec<u8> {
    // As many of the shortest records as there may be fit, and one of the longest does.
    let end = read_end(log, LONGEST_RECORD + MOST_LINES_OF_LOG * 128).unwrap_or_default();
    let mut texts = Vec::new();
    for record in end.split_inclusive(|byte| *byte == b'\n').filter_map(cri_log::parse) {
        texts.push(record.text.to_vec());
        if record.tag == cri_log::Tag::Full {
            texts.push(b"\n".to_vec());
        }
    }
    let text = texts.concat();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let kept = lines[lines.len().saturating_sub(MOST_LINES_OF_LOG)..].concat();
    kept[kept.len().saturating_sub(LONGEST_OF_LOG)..].to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(policy: &str, written: &str, log: &str, code: i32) -> String {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::below(directory.path());
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "terminationMessagePolicy": policy}]},
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        prepare(&settings, "u", "c-0").unwrap();
        fs::write(path(&settings, "u", "c-0"), written).unwrap();
        let log_path = settings.log_path("u", "c", 0);
        fs::create_dir_all(log_path.parent().unwrap()).unwrap();
        fs::write(log_path, log).unwrap();
        read(&settings, &pod, container, 0, code).unwrap_or_default()
    }

    #[test]
    fn the_file_is_read_and_the_log_only_when_asked_and_failed() {
        let log =
            "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:02Z stderr F o \n";
        let table = [
            ("File", "bye", 0, "bye"),
            ("File", "", 1, ""),
            ("FallbackToLogsOnError", "bye", 1, "bye"),
            ("FallbackToLogsOnError", "", 1, "one\ntwo \n"),
            ("FallbackToLogsOnError", "", 0, ""),
        ];
        for (policy, written, code, expected) in table {
            assert_eq!(said(policy, written, log, code), expected, "{policy} {written:?} {code}");
        }
    }

    #[test]
    fn long_messages_lose_their_beginning() {
        let long = "a".repeat(LONGEST) + "b";
        let kept = said("File", &long, "", 0);
        assert_eq!((kept.len(), kept.ends_with("ab")), (LONGEST, true));
        let lines: String = (0..100).map(|number| format!("2026-01-01T00:00:00Z stdout F {number}\n")).collect();
        let kept = said("FallbackToLogsOnError", "", &lines, 1);
        assert_eq!((kept.lines().next(), kept.lines().count()), (Some("20"), MOST_LINES_OF_LOG));
    }
}
