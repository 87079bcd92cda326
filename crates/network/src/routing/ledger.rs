//! What the data plane counted, kept by the engine: how much of what happened when. Proxies tell what they counted
//! since their start; the ledger keeps the differences, finely for minutes and coarsely for days. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use objects::traffic::{Counts, Drain, Period, Series, SeriesKey};

/// How long a span of time is kept apart from its neighbours, by its age; what is older than the last is forgotten.
const SPANS: [(SignedDuration, SignedDuration); 4] = [
    (SignedDuration::from_mins(2), SignedDuration::ZERO),
    (SignedDuration::from_mins(20), SignedDuration::from_secs(10)),
    (SignedDuration::from_hours(2), SignedDuration::from_mins(1)),
    (SignedDuration::from_hours(48), SignedDuration::from_mins(10)),
];

/// Proxies that are remembered: more than there may be at one time, with those that were killed.
const MOST_PROXIES: usize = 64;

/// What one proxy told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The proxy's number.
    pub(super) proxy: u64,
    pub(super) started: Timestamp,
    /// Whether a series that is left out is one that the proxy has forgotten.
    pub(super) is_complete: bool,
    pub(super) series: Vec<Series>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The last counts of each proxy, the one that told something last at the end.
    proxies: VecDeque<(u64, HashMap<SeriesKey, Known>)>,
    spans: VecDeque<Span>,
    drains: BTreeMap<Arc<SeriesKey>, (Timestamp, Drain)>,
    /// Until when everything is counted.
    until: Option<Timestamp>,
}

#[derive(Debug)]
struct Known {
    key: Arc<SeriesKey>,
    counts: Counts,
}

/// What came in a span of time.
#[derive(Debug)]
struct Span {
    from: Timestamp,
    until: Timestamp,
    counts: BTreeMap<Arc<SeriesKey>, Counts>,
}

impl Ledger {
    /// Enters what a proxy told; whether anything was new.
    pub(super) fn enter(&mut self, told: Told, now: Timestamp) -> bool {
        let is_known = self.proxies.iter().any(|(number, _)| *number == told.proxy);
        // The first word of a proxy is about everything since its start.
        let from = self.until.filter(|_| is_known).map_or(told.started, |until| until).min(now);
        let mut before = self.proxy(told.proxy);
        let (mut counts, mut known) = (BTreeMap::new(), HashMap::new());
        let mut has_drained = false;
        for Series { key, counts: total, drain } in told.series {
            let old = before.remove(&key);
            let shared = old.as_ref().map_or_else(|| Arc::new(key.clone()), |old| old.key.clone());
            let new = old.map_or_else(|| total.clone(), |old| total.since(&old.counts));
            if let Some(drain) = drain {
                has_drained |= self.enter_drain(&shared, drain, now);
            }
            if !new.is_empty() {
                counts.insert(shared.clone(), new);
            }
            known.insert(key, Known { key: shared, counts: total });
        }
        if !told.is_complete {
            known.extend(before);
        }
        self.proxies.push_back((told.proxy, known));
        self.until = Some(now);
        let is_new = !counts.is_empty() || has_drained;
        if !counts.is_empty() || self.spans.is_empty() {
            self.spans.push_back(Span { from, until: now, counts });
        }
        self.join_spans(now);
        is_new
    }

    /// Several proxies may have had work for the pod: it was drained when the last was done. Whether that is new.
    fn enter_drain(&mut self, key: &Arc<SeriesKey>, drain: Drain, now: Timestamp) -> bool {
        let known = self.drains.get(key).map(|(_, known)| *known);
        let longest = known.map_or(drain, |known| Drain {
            milliseconds: known.milliseconds.max(drain.milliseconds),
            requests: known.requests.max(drain.requests),
            long: known.long.max(drain.long),
        });
        let is_new = known != Some(longest);
        if is_new {
            self.drains.insert(key.clone(), (now, longest));
        }
        is_new
    }

    /// What was counted since a moment, or as early as the nearest one before it that is known; since ever without one.
    pub(super) fn since(&self, moment: Option<Timestamp>, holds: &dyn Fn(&SeriesKey) -> bool) -> Period {
        let until = self.until.unwrap_or(Timestamp::UNIX_EPOCH);
        let wanted = |time: Timestamp| moment.is_none_or(|moment| time > moment);
        let spans: Vec<&Span> = self.spans.iter().filter(|span| wanted(span.until)).collect();
        let first = spans.iter().map(|span| span.from).min();
        // Between two spans nothing happened, so counting may as well have begun at the moment itself.
        let since = match (first, moment) {
            (Some(first), Some(moment)) => first.min(moment.min(until)),
            (Some(first), None) => first,
            (None, Some(moment)) => moment.min(until),
            (None, None) => until,
        };
        let mut sums: BTreeMap<&Arc<SeriesKey>, Counts> = BTreeMap::new();
        for (key, counts) in spans.into_iter().flat_map(|span| &span.counts).filter(|(key, _)| holds(key)) {
            sums.entry(key).or_default().add(counts);
        }
        for (key, _) in self.drains.iter().filter(|(key, (time, _))| wanted(*time) && holds(key)) {
            sums.entry(key).or_default();
        }
        let drain = |key| self.drains.get(key).filter(|(time, _)| wanted(*time)).map(|(_, drain)| *drain);
        let series = sums.into_iter().map(|(key, counts)| Series { key: (**key).clone(), counts, drain: drain(key) });
        Period { since: self.begin().map_or(since, |begin| since.max(begin)), until, series: series.collect() }
    }

    fn begin(&self) -> Option<Timestamp> {
        self.spans.iter().map(|span| span.from).min()
    }

    fn proxy(&mut self, number: u64) -> HashMap<SeriesKey, Known> {
        let place = self.proxies.iter().position(|(known, _)| *known == number);
        if self.proxies.len() >= MOST_PROXIES && place.is_none() {
            self.proxies.pop_front();
        }
        place.and_then(|place| self.proxies.remove(place)).map(|(_, series)| series).unwrap_or_default()
    }

    fn join_spans(&mut self, now: Timestamp) {
        let mut joined: VecDeque<Span> = VecDeque::with_capacity(self.spans.len());
        for span in self.spans.drain(..) {
            let age = now.duration_since(span.until);
            let Some((_, length)) = SPANS.into_iter().find(|(oldest, _)| age < *oldest) else { continue };
            match joined.back_mut().filter(|last| span.until.duration_since(last.from) <= length) {
                Some(last) => last.append(span),
                None => joined.push_back(span),
            }
        }
        self.spans = joined;
        let begin = self.begin();
        self.drains.retain(|_, (time, _)| begin.is_none_or(|begin| *time >= begin));
    }
}

impl Span {
    fn append(&mut self, later: Self) {
        self.until = later.until;
        self.from = self.from.min(later.from);
        for (key, counts) in later.counts {
            self.counts.entry(key).or_default().add(&counts);
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
