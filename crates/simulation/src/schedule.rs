//! What may happen, and how often.

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::machine::{Behaviour, Delays};
use crate::rng::Rng;

/// Images that are declared in turn; declaring an earlier one again undoes.
pub(crate) const IMAGES: &[&str] = &["app:1", "app:2", "app:3", "app:4"];

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Happening {
    LookAtDeployment,
    LookAtReplicaSet,
    ApplyRolloutStep,
    ApplyReplicasStep,
    /// A step that was applied before arrives once more.
    RepeatStep,
    /// Time passes until the next thing of the machine is due.
    PassTime,
    PassSeconds(i64),
    EngineCrash,
    /// The machine gets slow, or quick again.
    SetPace(i64),
    HoldAcknowledgements,
    ReleaseAcknowledgements,
    Disturbance(Disturbance),
}

/// What users do, and accidents: it may excuse what was decided before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Disturbance {
    SetImage(&'static str),
    Scale(i32),
    Pause,
    Resume,
    SetLimits(Limits),
    Pod(Accident),
}

/// What happens to a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Accident {
    /// Its container dies and is started again.
    Crash,
    /// It ends for good.
    Failure,
    /// Somebody deletes it.
    Deletion,
}

/// Surge and unavailability, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) surge: &'static str,
    pub(crate) unavailable: &'static str,
}

const LIMITS: &[Limits] = &[
    Limits { surge: "1", unavailable: "0" },
    Limits { surge: "0", unavailable: "1" },
    Limits { surge: "25%", unavailable: "25%" },
    Limits { surge: "2", unavailable: "1" },
    Limits { surge: "100%", unavailable: "0" },
    Limits { surge: "0", unavailable: "0" },
    Limits { surge: "50%", unavailable: "50%" },
];

/// The next thing to happen. Controllers act most of the time, or nothing would be under way when something else
/// happens.
pub(crate) fn next(rng: &mut Rng) -> Happening {
    match rng.between(1, 100) {
        1..=17 => Happening::LookAtDeployment,
        18..=34 => Happening::LookAtReplicaSet,
        35..=50 => Happening::ApplyRolloutStep,
        51..=68 => Happening::ApplyReplicasStep,
        69..=71 => Happening::RepeatStep,
        72..=85 => Happening::PassTime,
        86 => Happening::PassSeconds(rng.between(1, 700)),
        87..=88 => Happening::EngineCrash,
        _ => disturbance(rng),
    }
}

fn disturbance(rng: &mut Rng) -> Happening {
    Happening::Disturbance(match rng.between(1, 22) {
        1..=6 => Disturbance::SetImage(rng.pick(IMAGES).unwrap_or(IMAGES[0])),
        7..=9 => Disturbance::Scale(i32::try_from(rng.between(0, 8)).unwrap_or(0)),
        10 => Disturbance::Pause,
        11 => Disturbance::Resume,
        12 => Disturbance::SetLimits(limits(rng)),
        13..=14 => Disturbance::Pod(Accident::Crash),
        15 => Disturbance::Pod(Accident::Failure),
        16..=17 => Disturbance::Pod(Accident::Deletion),
        18..=19 => return Happening::SetPace(rng.between(1, 10)),
        20 => return Happening::HoldAcknowledgements,
        _ => return Happening::ReleaseAcknowledgements,
    })
}

pub(crate) fn limits(rng: &mut Rng) -> Limits {
    rng.pick(LIMITS).unwrap_or(LIMITS[0])
}

/// Writes the limits into a spec.
pub(crate) fn set_limits(spec: &mut DeploymentSpec, limits: Limits) {
    let value = |text: &str| match text.parse() {
        Ok(number) => IntOrString::Int(number),
        Err(_) => IntOrString::String(text.to_owned()),
    };
    let rolling_update = RollingUpdateDeployment {
        max_surge: Some(value(limits.surge)),
        max_unavailable: Some(value(limits.unavailable)),
    };
    let type_ = Some("RollingUpdate".to_owned());
    spec.strategy = Some(DeploymentStrategy { type_, rolling_update: Some(rolling_update) });
}

/// How long things take on a machine that is this many times slower than a good one.
pub(crate) fn delays(pace: i64) -> Delays {
    Delays {
        start: (0, 2 * pace),
        ready: (0, 3 * pace),
        acknowledge: (0, pace),
        withdraw: (0, pace),
        finish_requests: (0, 8 * pace),
        exit: (0, 2 * pace),
    }
}

/// What a version does; the first always works, so that there is something to go back to.
pub(crate) fn behaviour(rng: &mut Rng, image: &str) -> Behaviour {
    match rng.between(1, 10) {
        _ if image == IMAGES[0] => Behaviour::Works,
        1..=2 => Behaviour::NeverReady,
        3 => Behaviour::Crashes,
        _ => Behaviour::Works,
    }
}

/// Longer than anything in a world whose events have stopped takes.
pub(crate) const CALM: SignedDuration = SignedDuration::from_hours(2);
