use super::*;

fn note(stream: &mut Stream, message: &str) -> bool {
    stream.note(message).is_ok()
}

#[test]
fn only_the_next_message_of_the_same_pod_is_in_order() {
    let mut stream = Stream::new(Protocol::Events);
    assert!(note(&mut stream, "1 v1 app-1") && note(&mut stream, "2 v1 app-1"));
    for wrong in ["2 v1 app-1", "4 v1 app-1", "3 v1 app-2", "3 v2 app-1", "1 v1 app-1", ""] {
        assert!(!note(&mut stream, wrong), "{wrong:?}");
    }
    assert!(note(&mut stream, "3 v1 app-1"));
    assert_eq!((stream.version.as_str(), stream.pod.as_str(), stream.messages), ("v1", "app-1", 3));
    assert!(!note(&mut Stream::new(Protocol::Events), "2 v1 app-1"), "the first is 1");
}
