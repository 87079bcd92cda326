//! What the story may say about itself: every claim is computed from what was observed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use objects::pods::is_terminating;
use serde::Serialize;

use super::Images;
use crate::load::Report;

/// The document asks for three replicas and none unavailable.
const FLOOR: usize = 3;

/// What happened during the story.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub report: Report,
    pub rollouts: Vec<Rollout>,
    /// The lowest number of ready pods from the first rollout's end to the end of the story.
    pub lowest_ready: usize,
    pub claims: Vec<Claim>,
}

/// One rollout and its length, from the change to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rollout {
    pub name: &'static str,
    pub length: Duration,
}

/// Something the story says, and whether it was so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    pub sentence: &'static str,
    pub holds: bool,
}

pub(super) struct Observed {
    pub(super) report: Report,
    pub(super) rollouts: Vec<Rollout>,
    pub(super) lowest_ready: usize,
    /// Before and after the broken version was given up, and at the end.
    pub(super) before: Vec<Standing>,
    pub(super) after: Vec<Standing>,
    pub(super) end: Vec<Standing>,
}

/// A pod as far as anybody could have replaced or restarted it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    uid: String,
    image: String,
    restarts: i32,
    going: Going,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Going {
    Stays,
    Terminating,
}

impl Standing {
    pub(super) fn of(pod: &Pod) -> Standing {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        Standing {
            uid: pod.uid().unwrap_or_default(),
            image: containers.filter_map(|container| container.image.clone()).collect(),
            restarts: statuses.map(|status| status.restart_count).sum(),
            going: if is_terminating(pod) { Going::Terminating } else { Going::Stays },
        }
    }
}

impl Observed {
    pub(super) fn judge(self, images: &Images) -> Outcome {
        let Images { first, second, broken } = images;
        let staying = |pods: &[Standing]| of_image(pods, &second.reference);
        let claims = vec![
            claim("no request failed", self.report.failures() == 0),
            claim(
                "both good versions took traffic",
                [first, second].iter().all(|image| self.report.served_by(&image.version) > 0),
            ),
            claim("the broken version took no traffic", self.report.served_by(&broken.version) == 0),
            claim(
                "the broken version replaced nobody",
                staying(&self.before) == staying(&self.after) && staying(&self.after).len() == FLOOR,
            ),
            claim(
                "the undo left exactly the good version",
                staying(&self.end).len() == FLOOR && of_image(&self.end, &broken.reference).is_empty(),
            ),
            claim("never fewer than 3 pods were ready", self.lowest_ready >= FLOOR),
        ];
        Outcome { report: self.report, rollouts: self.rollouts, lowest_ready: self.lowest_ready, claims }
    }
}

fn of_image(pods: &[Standing], image: &str) -> BTreeSet<Standing> {
    pods.iter().filter(|pod| pod.image == image && pod.going == Going::Stays).cloned().collect()
}

fn claim(sentence: &'static str, holds: bool) -> Claim {
    Claim { sentence, holds }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.report)?;
        for Rollout { name, length } in &self.rollouts {
            writeln!(f, "{name:<32}{:>8.1} s", length.as_secs_f64())?;
        }
        writeln!(f, "{:<32}{:>10}\n", "fewest ready pods", self.lowest_ready)?;
        for Claim { sentence, holds } in &self.claims {
            writeln!(f, "[{}] {sentence}", if *holds { "yes" } else { "NO" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::demo::Image;
    use crate::load::Failure;

    fn images() -> Images {
        let image = |version: &str| Image { reference: format!("app:{version}"), version: version.to_owned() };
        Images { first: image("v1"), second: image("v2"), broken: image("v3") }
    }

    fn pods(image: &str, uids: std::ops::Range<u8>) -> Vec<Standing> {
        uids.map(|uid| Standing { uid: uid.to_string(), image: image.to_owned(), restarts: 0, going: Going::Stays })
            .collect()
    }

    fn good() -> Observed {
        let by_version = BTreeMap::from([("v1".to_owned(), 9), ("v2".to_owned(), 9)]);
        let stuck = [pods("app:v2", 0..3), pods("app:v3", 3..4)].concat();
        Observed {
            report: Report { sent: 18, ok: 18, by_version, ..Report::default() },
            rollouts: Vec::new(),
            lowest_ready: 3,
            before: pods("app:v2", 0..3),
            after: stuck,
            end: pods("app:v2", 0..3),
        }
    }

    fn broken_claims(change: impl FnOnce(&mut Observed)) -> Vec<&'static str> {
        let mut observed = good();
        change(&mut observed);
        let outcome = observed.judge(&images());
        outcome.claims.into_iter().filter(|claim| !claim.holds).map(|claim| claim.sentence).collect()
    }

    #[test]
    fn every_claim_can_be_untrue() {
        assert_eq!(broken_claims(|_| ()), [""; 0]);
        type Change = fn(&mut Observed);
        let cases: [(Change, &str); 7] = [
            (|seen| seen.report.failed = BTreeMap::from([(Failure::Reset, 1)]), "no request failed"),
            (|seen| seen.report.by_version.retain(|version, _| version != "v2"), "both good versions took traffic"),
            (|seen| seen.report.by_version.extend([("v3".to_owned(), 1)]), "the broken version took no traffic"),
            (|seen| seen.after[0].restarts = 1, "the broken version replaced nobody"),
            (|seen| seen.after[0].going = Going::Terminating, "the broken version replaced nobody"),
            (|seen| seen.end = pods("app:v3", 0..3), "the undo left exactly the good version"),
            (|seen| seen.lowest_ready = 2, "never fewer than 3 pods were ready"),
        ];
        for (change, claim) in cases {
            assert_eq!(broken_claims(change), [claim]);
        }
    }

    #[test]
    fn the_table_says_no_to_what_was_not_so() {
        let table = Observed { lowest_ready: 2, ..good() }.judge(&images()).to_string();
        assert!(table.contains("[NO] never fewer than 3 pods were ready"), "{table}");
        assert!(table.contains("[yes] no request failed"), "{table}");
    }
}
