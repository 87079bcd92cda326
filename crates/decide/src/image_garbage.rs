//! Which images go when the disk gets full? Those that nobody uses, the longest unused first; none that could not be had
//! again. The thresholds are the kubelet's.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::Decision;

/// From this share of the disk on, images are removed …
const HIGH_PERCENT: u64 = 85;
/// … until no more than this share is used.
const LOW_PERCENT: u64 = 80;
/// No image is removed that was used so recently: a pod may be about to use it.
const SPARED_FOR: SignedDuration = SignedDuration::from_mins(2);

/// The filesystem that holds the images, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub capacity: u64,
    pub available: u64,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Its canonical name.
    pub name: String,
    /// What removing it frees, if nothing else shares its layers.
    pub bytes: u64,
    /// When a pod was last seen to use it, or it was seen first.
    pub last_used: Timestamp,
    pub hold: Hold,
}

/// Why an image stays whatever the disk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    None,
    /// A pod names it.
    Used,
    /// It was loaded from an archive: no registry would give it again.
    Loaded,
}

/// An image to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remove {
    pub name: String,
}

/// Why no more is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Short {
    /// These bytes are missing, and nothing more may go.
    Of { missing: u64 },
}

/// Whether the disk is so full that images are looked at.
#[must_use]
pub fn is_due(disk: Disk) -> bool {
    disk.capacity > 0 && used(disk) * 100 >= disk.capacity * HIGH_PERCENT
}

/// What to remove now.
#[must_use]
pub fn next_steps(disk: Disk, images: &[StoredImage], now: Timestamp) -> Decision<Remove, Short> {
    let mut decision = Decision { steps: Vec::new(), waiting_on: Vec::new(), look_again_at: None };
    if !is_due(disk) {
        return decision;
    }
    let mut missing = used(disk).saturating_sub(disk.capacity / 100 * LOW_PERCENT);
    let may_go = |image: &&StoredImage| image.hold == Hold::None && now.duration_since(image.last_used) >= SPARED_FOR;
    let mut unused: Vec<&StoredImage> = images.iter().filter(may_go).collect();
    unused.sort_by(|one, other| (one.last_used, &one.name).cmp(&(other.last_used, &other.name)));
    for image in unused {
        if missing == 0 {
            return decision;
        }
        missing = missing.saturating_sub(image.bytes);
        decision.steps.push(Remove { name: image.name.clone() });
    }
    if missing > 0 {
        decision.waiting_on.push(Short::Of { missing });
    }
    decision
}

fn used(disk: Disk) -> u64 {
    disk.capacity.saturating_sub(disk.available)
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Of { missing } = self;
        write!(f, "{missing} bytes more should be freed, and every image that is left is used, recent or was loaded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, bytes: u64, unused_for: i64, hold: Hold) -> StoredImage {
        StoredImage { name: name.to_owned(), bytes, last_used: at(10_000 - unused_for), hold }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_longest_unused_go_first_and_only_as_many_as_are_needed() {
        let images = [
            image("recent", 50, 60, Hold::None),
            image("young", 30, 300, Hold::None),
            image("old", 4, 9000, Hold::None),
            image("used", 50, 9500, Hold::Used),
            image("loaded", 50, 9600, Hold::Loaded),
        ];
        let table: [(u64, &[&str], u64); 5] = [
            // available of 1,000 -> removed, missing
            (151, &[], 0),
            (150, &["old", "young"], 16),
            (170, &[], 0),
            (100, &["old", "young"], 66),
            (0, &["old", "young"], 166),
        ];
        for (available, removed, missing) in table {
            let decision = next_steps(Disk { capacity: 1000, available }, &images, at(10_000));
            let names: Vec<&str> = decision.steps.iter().map(|step| step.name.as_str()).collect();
            assert_eq!(names, removed, "{available}");
            let expected = (missing > 0).then_some(Short::Of { missing });
            assert_eq!(decision.waiting_on, Vec::from_iter(expected), "{available}");
        }
        let large = [image("large", 900, 500, Hold::None), image("larger", 900, 400, Hold::None)];
        assert_eq!(next_steps(Disk { capacity: 1000, available: 50 }, &large, at(10_000)).steps.len(), 1);
    }
}
