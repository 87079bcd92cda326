//! Is a container's image pulled, used as it is, or refused, and when is a failed pull tried again?
//! Knows nothing of registries and disks: what is present and what failed is told to it.

mod reference;

use jiff::{SignedDuration, Timestamp};

pub use reference::{ImageReference, InvalidImageName};

/// How long a pull waits after its first failure, as the kubelet does.
pub const FIRST_BACK_OFF: SignedDuration = SignedDuration::from_secs(10);

/// The longest wait between two pulls: a registry that comes back is noticed within five minutes.
pub const LONGEST_BACK_OFF: SignedDuration = SignedDuration::from_secs(300);

/// After this long without a failure the next one starts again at [`FIRST_BACK_OFF`].
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// `imagePullPolicy` of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// A word that is no `imagePullPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPullPolicy(pub String);

/// Whether the image store has the image. When this is old, a pull finds the image already there and is cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Present,
    Absent,
}

/// What is done about the image of a container that is about to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageStep {
    UsePresent,
    Pull,
    /// The image is absent and may not be pulled: the container waits with `ErrImageNeverPull`.
    Refuse,
    /// The last pull failed and the next one is not due before this time.
    BackOffUntil(Timestamp),
}

/// The last failure of pulling one image for one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedPull {
    pub at: Timestamp,
    pub back_off: SignedDuration,
}

/// Why a container has no image yet, as its `state.waiting` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageWaiting {
    InvalidImageName {
        image: String,
        cause: InvalidImageName,
    },
    /// The pull that has just been tried failed.
    ErrImagePull {
        error: String,
    },
    /// An earlier pull failed with this error and the next one is not due yet.
    ImagePullBackOff {
        image: String,
        error: String,
    },
    ErrImageNeverPull {
        image: String,
    },
}

/// Pulls, uses or refuses an image by policy; what must be pulled waits for its back-off.
pub fn next_step(policy: PullPolicy, presence: Presence, failed: Option<&FailedPull>, now: Timestamp) -> ImageStep {
    match (policy, presence) {
        (PullPolicy::IfNotPresent | PullPolicy::Never, Presence::Present) => ImageStep::UsePresent,
        (PullPolicy::Never, Presence::Absent) => ImageStep::Refuse,
        (PullPolicy::Always, Presence::Present | Presence::Absent) | (PullPolicy::IfNotPresent, Presence::Absent) => {
            match failed {
                Some(failed) if now < failed.retry_at() => ImageStep::BackOffUntil(failed.retry_at()),
                Some(_) | None => ImageStep::Pull,
            }
        }
    }
}

impl PullPolicy {
    /// The policy a container states, or else Kubernetes' default: `Always` for `:latest`, `IfNotPresent` for
    /// other tags and for digests.
    pub fn of(stated: Option<&str>, image: &ImageReference) -> Result<PullPolicy, UnknownPullPolicy> {
        match stated {
            Some("Always") => Ok(PullPolicy::Always),
            Some("IfNotPresent") => Ok(PullPolicy::IfNotPresent),
            Some("Never") => Ok(PullPolicy::Never),
            Some(other) => Err(UnknownPullPolicy(other.to_owned())),
            None if image.digest().is_none() && image.tag() == Some("latest") => Ok(PullPolicy::Always),
            None => Ok(PullPolicy::IfNotPresent),
        }
    }
}

impl std::fmt::Display for UnknownPullPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let UnknownPullPolicy(word) = self;
        write!(f, "unknown imagePullPolicy {word:?}; use Always, IfNotPresent or Never")
    }
}

impl std::error::Error for UnknownPullPolicy {}

impl FailedPull {
    /// Records a failure at `now`: each one in a row doubles the wait, up to [`LONGEST_BACK_OFF`].
    pub fn after(previous: Option<&FailedPull>, now: Timestamp) -> FailedPull {
        let back_off = match previous {
            Some(previous) if now.duration_since(previous.at) <= FORGOTTEN_AFTER => {
                (previous.back_off * 2).clamp(FIRST_BACK_OFF, LONGEST_BACK_OFF)
            }
            Some(_) | None => FIRST_BACK_OFF,
        };
        FailedPull { at: now, back_off }
    }

    /// When the next pull is due.
    pub fn retry_at(&self) -> Timestamp {
        self.at.saturating_add(self.back_off).unwrap_or(Timestamp::MAX)
    }
}

impl ImageWaiting {
    /// The `reason` of the container's waiting state.
    pub fn reason(&self) -> &'static str {
        match self {
            ImageWaiting::InvalidImageName { .. } => "InvalidImageName",
            ImageWaiting::ErrImagePull { .. } => "ErrImagePull",
            ImageWaiting::ImagePullBackOff { .. } => "ImagePullBackOff",
            ImageWaiting::ErrImageNeverPull { .. } => "ErrImageNeverPull",
        }
    }

    /// The `message` of the container's waiting state.
    pub fn message(&self) -> String {
        match self {
            ImageWaiting::InvalidImageName { image, cause } => {
                format!("Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {cause}")
            }
            ImageWaiting::ErrImagePull { error } => error.clone(),
            ImageWaiting::ImagePullBackOff { image, error } => {
                format!("Back-off pulling image {image:?}: ErrImagePull: {error}")
            }
            ImageWaiting::ErrImageNeverPull { image } => {
                format!("Container image {image:?} is not present with pull policy of Never")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn policy_and_presence_decide_what_is_done() {
        use ImageStep::{Pull, Refuse, UsePresent};
        use Presence::{Absent, Present};
        use PullPolicy::{Always, IfNotPresent, Never};
        for (policy, presence, step) in [
            (Always, Present, Pull),
            (Always, Absent, Pull),
            (IfNotPresent, Present, UsePresent),
            (IfNotPresent, Absent, Pull),
            (Never, Present, UsePresent),
            (Never, Absent, Refuse),
        ] {
            assert_eq!(next_step(policy, presence, None, at(0)), step, "{policy:?} {presence:?}");
        }
    }

    #[test]
    fn a_failed_pull_waits_and_then_is_tried_again() {
        let failed = FailedPull::after(None, at(100));
        let step = |now| next_step(PullPolicy::IfNotPresent, Presence::Absent, Some(&failed), now);
        assert_eq!(step(at(109)), ImageStep::BackOffUntil(at(110)));
        assert_eq!(step(at(110)), ImageStep::Pull);
    }

    #[test]
    fn an_image_that_arrived_meanwhile_is_used_in_spite_of_the_back_off() {
        let failed = FailedPull::after(None, at(100));
        let step = next_step(PullPolicy::IfNotPresent, Presence::Present, Some(&failed), at(101));
        assert_eq!(step, ImageStep::UsePresent);
    }

    #[test]
    fn the_back_off_doubles_to_five_minutes() {
        let mut failed = None;
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let next = FailedPull::after(failed.as_ref(), now);
            waits.push(next.back_off.as_secs());
            now = next.retry_at();
            failed = Some(next);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn the_back_off_starts_again_after_ten_quiet_minutes() {
        let failed = FailedPull { at: at(0), back_off: LONGEST_BACK_OFF };
        assert_eq!(FailedPull::after(Some(&failed), at(600)).back_off, LONGEST_BACK_OFF);
        assert_eq!(FailedPull::after(Some(&failed), at(601)).back_off, FIRST_BACK_OFF);
    }

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        let digest = format!("app@sha256:{}", "a".repeat(64));
        let latest_by_digest = format!("app:latest@sha256:{}", "a".repeat(64));
        for (image, stated, policy) in [
            ("app", None, PullPolicy::Always),
            ("app:latest", None, PullPolicy::Always),
            ("app:1", None, PullPolicy::IfNotPresent),
            (digest.as_str(), None, PullPolicy::IfNotPresent),
            (latest_by_digest.as_str(), None, PullPolicy::IfNotPresent),
            ("app", Some("Never"), PullPolicy::Never),
            ("app:1", Some("Always"), PullPolicy::Always),
        ] {
            let reference = ImageReference::parse(image).unwrap();
            assert_eq!(PullPolicy::of(stated, &reference), Ok(policy), "{image}");
        }
    }

    #[test]
    fn an_unknown_policy_is_named() {
        let reference = ImageReference::parse("app").unwrap();
        let unknown = PullPolicy::of(Some("Sometimes"), &reference).unwrap_err();
        assert_eq!(unknown.to_string(), "unknown imagePullPolicy \"Sometimes\"; use Always, IfNotPresent or Never");
    }

    #[test]
    fn waiting_states_use_the_words_of_kubernetes() {
        let image = "local/no-such-image:1".to_owned();
        let never = ImageWaiting::ErrImageNeverPull { image: image.clone() };
        assert_eq!(never.reason(), "ErrImageNeverPull");
        assert_eq!(
            never.message(),
            "Container image \"local/no-such-image:1\" is not present with pull policy of Never"
        );
        let back_off = ImageWaiting::ImagePullBackOff { image, error: "no such host".to_owned() };
        assert_eq!(back_off.reason(), "ImagePullBackOff");
        assert_eq!(back_off.message(), "Back-off pulling image \"local/no-such-image:1\": ErrImagePull: no such host");
    }

    #[test]
    fn an_invalid_name_is_explained() {
        let image = "example.com/App:1".to_owned();
        let cause = ImageReference::parse(&image).unwrap_err();
        let waiting = ImageWaiting::InvalidImageName { image, cause };
        assert_eq!(waiting.reason(), "InvalidImageName");
        assert_eq!(
            waiting.message(),
            "Failed to apply default image tag \"example.com/App:1\": couldn't parse image name \
             \"example.com/App:1\": invalid reference format: repository name (App) must be lowercase"
        );
    }
}
