use objects::traffic::Cell;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(pod: &str) -> SeriesKey {
    SeriesKey {
        namespace: "default".to_owned(),
        service: "web".to_owned(),
        port: 80,
        pod_uid: format!("uid-{pod}"),
        pod: pod.to_owned(),
        version: "v1".to_owned(),
    }
}

fn series(pod: &str, retries: u64) -> Series {
    let mut numbers = [0; Cell::COUNT];
    numbers[Cell::Retries.index()] = retries;
    Series { key: key(pod), counts: Counts::from_places(&numbers), drain: None }
}

fn told(proxy: u64, started: i64, series: Vec<Series>) -> Told {
    Told { proxy, started: at(started), is_complete: false, series }
}

/// Retries since a second, over everything, and the second since which they are counted.
fn since(ledger: &Ledger, second: Option<i64>) -> (u64, i64) {
    let period = ledger.since(second.map(at), &|_| true);
    let retries = period.series.iter().map(|series| series.counts.get(Cell::Retries)).sum();
    (retries, period.since.duration_since(at(0)).as_secs())
}

#[test]
fn what_came_since_a_moment_is_told() {
    let mut ledger = Ledger::default();
    ledger.enter(told(1, 0, vec![]), at(1));
    for second in 2..=60 {
        assert!(ledger.enter(told(1, 0, vec![series("a", second as u64)]), at(second)));
    }
    assert_eq!(since(&ledger, None), (60, 0));
    assert_eq!(since(&ledger, Some(50)), (10, 50));
    assert_eq!(since(&ledger, Some(60)), (0, 60));
    assert_eq!(since(&ledger, Some(-5)), (60, 0));
}

#[test]
fn what_is_told_again_is_not_new() {
    let mut ledger = Ledger::default();
    assert!(ledger.enter(told(1, 0, vec![series("a", 5)]), at(1)));
    assert!(!ledger.enter(told(1, 0, vec![series("a", 5)]), at(2)));
    assert!(!ledger.enter(told(1, 0, vec![]), at(3)));
    assert_eq!(since(&ledger, None), (5, 0));
    assert_eq!(ledger.since(None, &|_| true).until, at(3));
}

#[test]
fn a_new_proxy_counts_from_nothing() {
    let mut ledger = Ledger::default();
    ledger.enter(told(1, 0, vec![series("a", 5)]), at(1));
    ledger.enter(told(2, 10, vec![series("a", 3)]), at(11));
    ledger.enter(told(1, 0, vec![series("a", 6)]), at(12));
    ledger.enter(told(2, 10, vec![series("a", 4)]), at(13));
    assert_eq!(since(&ledger, None), (10, 0));
    assert_eq!(since(&ledger, Some(11)), (2, 11));
}

#[test]
fn an_engine_that_came_later_knows_since_when_its_proxy_counts() {
    let mut ledger = Ledger::default();
    ledger.enter(told(1, 0, vec![series("a", 500)]), at(1000));
    assert_eq!(since(&ledger, Some(990)), (500, 0));
    ledger.enter(told(1, 0, vec![series("a", 510)]), at(1001));
    assert_eq!(since(&ledger, Some(1000)), (10, 1000));
}

#[test]
fn the_first_word_of_a_proxy_is_about_everything_since_its_start() {
    let mut ledger = Ledger::default();
    ledger.enter(told(2, 19, vec![]), at(20));
    ledger.enter(told(1, -1000, vec![series("a", 500)]), at(21));
    assert_eq!(since(&ledger, Some(20)), (500, -1000));
    ledger.enter(told(1, -1000, vec![series("a", 510)]), at(22));
    assert_eq!(since(&ledger, Some(21)), (10, 21));
}

#[test]
fn a_pod_is_drained_when_the_last_proxy_is_done_with_it() {
    let mut ledger = Ledger::default();
    let drained = |milliseconds| {
        let drain = Some(Drain { milliseconds, requests: 0, long: 0 });
        vec![Series { drain, ..series("a", 1) }]
    };
    assert!(ledger.enter(told(2, 0, drained(0)), at(1)));
    assert!(ledger.enter(told(1, 0, drained(8000)), at(2)));
    assert!(!ledger.enter(told(2, 0, drained(0)), at(3)));
    assert_eq!(ledger.since(None, &|_| true).series[0].drain.unwrap().milliseconds, 8000);
}

#[test]
fn older_spans_are_coarser_and_nothing_in_them_is_lost() {
    let mut ledger = Ledger::default();
    for second in 1..=10_000 {
        ledger.enter(told(1, 0, vec![series("a", second as u64)]), at(second));
    }
    assert!(ledger.spans.len() < 500, "{}", ledger.spans.len());
    assert_eq!(since(&ledger, None), (10_000, 0));
    let (retries, begun) = since(&ledger, Some(5000));
    assert!((4940..=5000).contains(&begun), "{begun}");
    assert_eq!(retries as i64, 10_000 - begun);
}

#[test]
fn what_is_too_old_is_forgotten() {
    let mut ledger = Ledger::default();
    ledger.enter(told(1, 0, vec![series("a", 5)]), at(1));
    let later = 49 * 3600;
    ledger.enter(told(1, 0, vec![series("a", 6)]), at(later));
    assert_eq!(since(&ledger, None).0, 1);
}

#[test]
fn a_series_that_a_proxy_forgot_is_forgotten_here() {
    let mut ledger = Ledger::default();
    ledger.enter(told(1, 0, vec![series("a", 5), series("b", 1)]), at(1));
    ledger.enter(Told { is_complete: true, ..told(1, 0, vec![series("b", 1)]) }, at(2));
    assert_eq!(ledger.proxies[0].1.len(), 1);
    assert_eq!(since(&ledger, None).0, 6);
}

#[test]
fn a_drain_belongs_to_the_period_in_which_it_ended() {
    let mut ledger = Ledger::default();
    let drain = Drain { milliseconds: 40, requests: 0, long: 1 };
    ledger.enter(told(1, 0, vec![series("a", 5)]), at(1));
    assert!(ledger.enter(told(1, 0, vec![Series { drain: Some(drain), ..series("a", 5) }]), at(5)));
    assert!(!ledger.enter(told(1, 0, vec![Series { drain: Some(drain), ..series("a", 5) }]), at(6)));
    assert_eq!(ledger.since(Some(at(4)), &|_| true).series[0].drain, Some(drain));
    assert!(ledger.since(Some(at(5)), &|_| true).series.is_empty());
}

#[test]
fn counts_are_chosen_by_what_they_belong_to() {
    let mut ledger = Ledger::default();
    ledger.enter(told(1, 0, vec![series("a", 5), series("b", 1)]), at(1));
    let period = ledger.since(None, &|key| key.pod == "b");
    assert_eq!(period.series.len(), 1);
    assert_eq!(period.series[0].counts.get(Cell::Retries), 1);
}
