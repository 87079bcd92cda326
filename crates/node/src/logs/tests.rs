use std::io::Write;

use serde_json::{Value, json};

use super::*;
use crate::cri_log::rotated;

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c"}]},
        "status": {"containerStatuses": [status]},
    }))
    .unwrap()
}

fn running(restarts: i32) -> Pod {
    pod(json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": restarts,
        "state": {"running": {}}, "lastState": if restarts > 0 { json!({"terminated": {"exitCode": 1}}) } else { json!({}) }}))
}

fn record(second: i64, tag: &str, text: &str) -> String {
    let time = Timestamp::from_second(second).unwrap();
    format!("{time:.9} stdout {tag} {text}\n")
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

async fn all(settings: &Settings, pod: &Pod, options: &LogOptions) -> String {
    let mut stream = read(settings, pod, "c", options).unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_log_is_read_across_its_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::below(directory.path());
    let path = settings.log_path("u", "c", 0);
    write(&rotated(&path, 2), &record(1, "F", "one"));
    write(&rotated(&path, 1), &format!("{}{}", record(2, "F", "two"), record(3, "P", "thr")));
    write(&path, &format!("{}{}", record(3, "F", "ee"), record(4, "F", "four")));
    let read = async |options: LogOptions| all(&settings, &running(0), &options).await;

    assert_eq!(read(LogOptions::default()).await, "one\ntwo\nthree\nfour\n");
    let tail = |lines| LogOptions { tail_lines: Some(lines), ..LogOptions::default() };
    assert_eq!(read(tail(2)).await, "three\nfour\n");
    assert_eq!(read(tail(0)).await, "");
    assert_eq!(read(tail(9)).await, "one\ntwo\nthree\nfour\n");
    let since_time = Some(Timestamp::from_second(3).unwrap());
    assert_eq!(read(LogOptions { since_time, ..LogOptions::default() }).await, "three\nfour\n");
    assert_eq!(read(LogOptions { limit_bytes: Some(5), ..LogOptions::default() }).await, "one\nt");
    let shown = read(LogOptions { timestamps: Timestamps::Shown, tail_lines: Some(2), ..LogOptions::default() }).await;
    assert_eq!(shown, "1970-01-01T00:00:03.000000000Z three\n1970-01-01T00:00:04.000000000Z four\n");
}

#[tokio::test]
async fn the_previous_run_has_a_log_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::below(directory.path());
    write(&settings.log_path("u", "c", 1), &record(1, "F", "before"));
    write(&settings.log_path("u", "c", 2), &record(2, "F", "now"));
    let previous = LogOptions { run: Run::Previous, ..LogOptions::default() };
    assert_eq!(all(&settings, &running(2), &LogOptions::default()).await, "now\n");
    assert_eq!(all(&settings, &running(2), &previous).await, "before\n");
    let crashing = pod(json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 2,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}));
    assert_eq!(all(&settings, &crashing, &LogOptions::default()).await, "now\n");
    assert_eq!(all(&settings, &crashing, &previous).await, "now\n");
}

#[tokio::test]
async fn what_cannot_be_read_is_told_in_kubernetes_words() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::below(directory.path());
    let error = |pod: &Pod, container: &str, run: Run| {
        read(&settings, pod, container, &LogOptions { run, ..LogOptions::default() }).err().unwrap().to_string()
    };
    let creating = pod(json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}}}));
    assert_eq!(
        error(&creating, "c", Run::Current),
        "container \"c\" in pod \"p\" is waiting to start: ContainerCreating"
    );
    assert_eq!(error(&running(0), "x", Run::Current), "container x is not valid for pod p");
    assert_eq!(error(&running(0), "c", Run::Previous), "previous terminated container \"c\" in pod \"p\" not found");
}

/// A follower sees every line once, in order, while the writer rotates under it.
#[tokio::test]
async fn a_followed_log_loses_nothing_to_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logs/0.log");
    write(&path, &record(0, "F", "0"));
    let files = Files::open(&path).unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (tell, mut hear) = mpsc::channel(1);
    let lines = Lines::new(&LogOptions::default(), None);
    let reader = tokio::spawn(async move {
        let ended = async { drop(ended.await) };
        pump(files, lines, Follow::UntilTheContainerEnds, ended, &tell).await.unwrap();
    });
    let mut text = Vec::new();
    for number in 1..60 {
        if number % 7 == 0 {
            for generation in (1..5).rev() {
                let _ = std::fs::rename(rotated(&path, generation - 1), rotated(&path, generation));
            }
        }
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        file.write_all(record(number, "F", &number.to_string()).as_bytes()).unwrap();
        let expected: String = (0..=number).map(|line| format!("{line}\n")).collect();
        while text.len() < expected.len() {
            text.extend_from_slice(&hear.recv().await.unwrap().unwrap());
        }
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
    end.send(()).unwrap();
    reader.await.unwrap();
    assert!(hear.recv().await.is_none());
}

#[test]
fn only_old_logs_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["0.log", "0.log.1", "1.log", "2.log", "2.log.1", "notes"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    remove_older(directory.path(), 2).unwrap();
    let mut left: Vec<String> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["2.log", "2.log.1", "notes"]);
}
