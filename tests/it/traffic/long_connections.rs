use std::time::{Duration, SystemTime};

use end_to_end::document::Document;
use end_to_end::machine::Machine;
use tools::streams::{End, Plan, Protocol, Stream};

const WEB_SOCKETS: u16 = 50;
const EVENT_STREAMS: u16 = 50;
const DEADLINE: Duration = Duration::from_secs(20);
/// So long before their deadline connections are told that it comes (0003).
const LAST_CALL: Duration = Duration::from_secs(3);
/// Timestamps are in whole seconds, and the machine is busy.
const INACCURACY: Duration = Duration::from_secs(2);

#[test]
fn long_connections_stay_until_the_deadline_of_their_pod_and_come_back_to_the_new_version() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    document.annotate_pods("segue.dev/long-connection-deadline", &DEADLINE.as_secs().to_string());
    document.settled();
    let plan = Plan { target: (document.address(), 80).into(), web_sockets: WEB_SOCKETS, event_streams: EVENT_STREAMS };
    let all = u64::from(WEB_SOCKETS + EVENT_STREAMS);
    let mut streams = machine.outside().follow(&plan);
    streams.counted(all);

    let began = SystemTime::now();
    document.roll_to("v2");
    let rolled_out_after = began.elapsed().expect("the clock goes forward");
    assert!(rolled_out_after < DEADLINE, "the rollout waited for long connections: {rolled_out_after:?}");
    let deletions = document.deletions();
    assert_eq!(deletions.len(), 3, "each old pod still has connections: {deletions:?}");
    document.settled();
    let settled_at = SystemTime::now();
    let last = *deletions.values().max().expect("three") + DEADLINE + INACCURACY * 2;
    assert!(settled_at <= last, "a pod stayed after its deadline: {deletions:?}, {settled_at:?}");
    streams.counted(2 * all);
    let report = streams.stop();

    let (old, new): (Vec<_>, Vec<_>) = report.streams.iter().partition(|stream| stream.version == "v1");
    assert_eq!((old.len() as u64, new.len() as u64), (all, all), "each came back once:\n{report}");
    for stream in old {
        assert_eq!(stream.end, goodbye(stream.protocol), "{stream}");
        assert_ended_in_time(stream, deletions[&stream.pod]);
    }
    for stream in new {
        assert_eq!((stream.version.as_str(), &stream.end), ("v2", &End::Stopped), "{stream}");
    }
    machine.down();
}

fn goodbye(protocol: Protocol) -> End {
    match protocol {
        Protocol::WebSocket => End::Closed(1012),
        Protocol::Events => End::Complete,
    }
}

fn assert_ended_in_time(stream: &Stream, deleted: SystemTime) {
    let last_call = deleted + DEADLINE - LAST_CALL;
    let in_time = last_call..deleted + DEADLINE + INACCURACY;
    assert!(in_time.contains(&stream.ended), "not in {in_time:?}: {:?}, {stream}", stream.ended);
    let least = last_call.duration_since(stream.opened).unwrap_or_default().as_millis() / 1000;
    assert!(u128::from(stream.messages) >= least, "hardly a message came: {stream}");
}
