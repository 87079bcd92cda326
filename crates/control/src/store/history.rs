//! The changes of one resource that are kept for watches that come back, and for lists that go on. The last are kept as
//! they are, for everybody who follows; older ones only as text, which takes a tenth of the memory, and are made again
//! for the few who ask.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::{Change, ChangeKind, Name, Object};

/// Changes kept; whoever is further behind lists anew (410 Gone).
const KEPT: usize = 4_096;
/// So many bytes of text at most; of large objects that change often fewer changes are kept.
const KEPT_BYTES: usize = 32 * 1024 * 1024;
/// So many of them as they are.
const KEPT_WHOLE: usize = 128;

#[derive(Default)]
pub(super) struct History {
    older: VecDeque<Text>,
    recent: VecDeque<Change>,
    /// Of the text of `older`.
    bytes: usize,
    /// The last revision that was dropped.
    pub(super) compacted: u64,
}

/// A change, of which it may take a while to make what it was.
pub(super) enum Kept {
    Whole(Change),
    Text(Text),
}

/// A change as text.
#[derive(Clone)]
pub(super) struct Text {
    kind: ChangeKind,
    name: Name,
    revision: u64,
    object: Bytes,
    previous: Option<(u64, Bytes)>,
}

impl History {
    pub(super) fn push(&mut self, change: Change) {
        self.recent.push_back(change);
        if self.recent.len() > KEPT_WHOLE
            && let Some(change) = self.recent.pop_front()
        {
            let text = Text::of(&change);
            self.bytes += text.bytes();
            self.older.push_back(text);
        }
        while (self.older.len() + KEPT_WHOLE > KEPT || self.bytes > KEPT_BYTES)
            && let Some(dropped) = self.older.pop_front()
        {
            self.bytes -= dropped.bytes();
            self.compacted = dropped.revision;
        }
    }

    /// The changes after a revision, oldest first.
    pub(super) fn since(&self, revision: u64) -> impl DoubleEndedIterator<Item = Kept> {
        let older = self.older.partition_point(|change| change.revision <= revision);
        let recent = self.recent.partition_point(|change| change.object.revision <= revision);
        let older = self.older.range(older..).cloned().map(Kept::Text);
        older.chain(self.recent.range(recent..).cloned().map(Kept::Whole))
    }
}

impl Kept {
    pub(super) fn change(self) -> Change {
        match self {
            Self::Whole(change) => change,
            Self::Text(text) => text.change(),
        }
    }

    /// What was there before the change, under which name.
    pub(super) fn before(self) -> (Name, Option<Arc<Object>>) {
        match self {
            Self::Whole(change) => (change.name(), change.previous),
            Self::Text(text) => (text.name.clone(), text.previous()),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        match self {
            Self::Whole(change) => change.object.revision,
            Self::Text(text) => text.revision,
        }
    }
}

impl Text {
    fn of(change: &Change) -> Self {
        let previous = change.previous.as_ref().map(|previous| (previous.revision, previous.json()));
        let (name, revision) = (change.name(), change.object.revision);
        Self { kind: change.kind, name, revision, object: change.object.json(), previous }
    }

    fn bytes(&self) -> usize {
        self.object.len() + self.previous.as_ref().map_or(0, |(_, json)| json.len())
    }

    fn previous(&self) -> Option<Arc<Object>> {
        self.previous.as_ref().map(|(revision, json)| Arc::new(Object::of_json(*revision, json)))
    }

    fn change(&self) -> Change {
        let object = Arc::new(Object::of_json(self.revision, &self.object));
        Change { kind: self.kind, object, previous: self.previous() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_too_old_is_dropped_and_said() {
        let change = |revision| Change {
            kind: ChangeKind::Modified,
            object: Arc::new(Object::new(revision, json!({"metadata": {"name": "a"}}))),
            previous: None,
        };
        let mut history = History::default();
        let last = KEPT as u64 + 10;
        (1..=last).for_each(|revision| history.push(change(revision)));
        assert_eq!(history.compacted, 10);
        let kept: Vec<u64> = history.since(10).map(|kept| kept.change().object.revision).collect();
        assert_eq!(kept, (11..=last).collect::<Vec<_>>());
        assert_eq!(history.since(last).count(), 0);
    }

    #[test]
    fn large_objects_take_no_more_than_their_share_of_memory() {
        let mut history = History::default();
        let mut previous = None;
        let last = KEPT_WHOLE as u64 + 100;
        for revision in 1..=last {
            let object = json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(1024 * 1024)}});
            let object = Arc::new(Object::new(revision, object));
            history.push(Change {
                kind: ChangeKind::Modified,
                object: object.clone(),
                previous: previous.replace(object),
            });
        }
        assert!(history.bytes <= KEPT_BYTES && history.older.len() >= 10, "{}", history.older.len());
        assert_eq!(history.compacted, last - KEPT_WHOLE as u64 - history.older.len() as u64);
    }
}
