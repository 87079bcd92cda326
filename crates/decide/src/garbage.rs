//! Which objects go because their owners are gone or going? Owners wait for dependents under foreground deletion and
//! leave them behind under orphaning, each through a finalizer of its own.

mod step;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::Decision;
use crate::object::{AnyObject, KindName};
use crate::owners;

pub use step::{Propagation, Step, WaitingOn};

/// Finalizer of an object that stays until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents are to be left without it.
pub const ORPHAN: &str = "orphan";

/// All objects. They are not read at one instant: an owner that is missing here must have been asked for by name before
/// it is left out, or a dependent would be deleted that was created with its owner in between.
#[derive(Clone, Debug)]
pub struct Garbage {
    /// The kinds that were read. An owner of another kind counts as being there.
    pub kinds: BTreeSet<KindName>,
    pub objects: Vec<AnyObject>,
}

/// What is to be deleted or let go now.
#[must_use]
pub fn next_steps(garbage: &Garbage) -> Decision<Step, WaitingOn> {
    let seen = Family::of(garbage);
    let mut steps = Vec::new();
    let mut waiting_on = Vec::new();
    for object in &garbage.objects {
        if !owners::is_going(&object.meta) {
            steps.extend(seen.collect(object));
        } else if object.has_finalizer(ORPHAN) {
            steps.extend(seen.orphan_dependents(object));
        } else if object.has_finalizer(FOREGROUND) {
            match seen.blockers(object) {
                0 => steps.push(without_finalizer(object, FOREGROUND)),
                dependents => waiting_on.push(WaitingOn::Dependents { owner: object.target(), dependents }),
            }
        }
    }
    Decision { steps, waiting_on, look_again_at: None }
}

/// Objects by their uids, and the dependents of each.
struct Family<'a> {
    kinds: BTreeSet<(&'a str, &'a str)>,
    by_uid: BTreeMap<&'a str, &'a AnyObject>,
    dependents: BTreeMap<&'a str, Vec<&'a AnyObject>>,
}

enum Owner {
    Present,
    /// Deleted, and waiting for its dependents to go first.
    Waiting,
    Absent,
}

impl<'a> Family<'a> {
    fn of(garbage: &'a Garbage) -> Self {
        let mut dependents: BTreeMap<&str, Vec<&AnyObject>> = BTreeMap::new();
        for object in &garbage.objects {
            for reference in object.meta.owner_references.iter().flatten() {
                dependents.entry(reference.uid.as_str()).or_default().push(object);
            }
        }
        Self {
            kinds: garbage.kinds.iter().map(|it| (it.group(), it.kind.as_str())).collect(),
            by_uid: garbage.objects.iter().filter_map(|it| Some((it.meta.uid.as_deref()?, it))).collect(),
            dependents,
        }
    }

    /// An object with no owner left goes; one with some left forgets the others.
    fn collect(&self, object: &AnyObject) -> Option<Step> {
        let references = object.meta.owner_references.as_deref().filter(|references| !references.is_empty())?;
        let mut present = Vec::new();
        let mut waiting = false;
        for reference in references {
            match self.owner(object, reference) {
                Owner::Present => present.push(reference.clone()),
                Owner::Waiting => waiting = true,
                Owner::Absent => {}
            }
        }
        if present.len() == references.len() {
            return None;
        }
        if !present.is_empty() {
            return Some(Step::SetOwners { object: object.target(), owner_references: present });
        }
        let has_dependents = self.dependents_of(object).next().is_some();
        let propagation = match propagation(object) {
            Propagation::Background if waiting && has_dependents => Propagation::Foreground,
            chosen @ (Propagation::Background | Propagation::Foreground | Propagation::Orphan) => chosen,
        };
        Some(Step::Delete { object: object.target(), propagation })
    }

    /// Dependents forget the owner first; then it may go.
    fn orphan_dependents(&self, owner: &AnyObject) -> Vec<Step> {
        let forget = |dependent: &AnyObject| Step::SetOwners {
            object: dependent.target(),
            owner_references: owners::without_references_to(&dependent.meta, &owner.meta),
        };
        let steps: Vec<_> = self.dependents_of(owner).map(forget).collect();
        if steps.is_empty() { vec![without_finalizer(owner, ORPHAN)] } else { steps }
    }

    fn blockers(&self, owner: &AnyObject) -> usize {
        let blocks = |dependent: &&AnyObject| {
            let references = dependent.meta.owner_references.iter().flatten();
            let mut to_owner = references.filter(|reference| Some(&reference.uid) == owner.meta.uid.as_ref());
            to_owner.any(|reference| reference.block_owner_deletion == Some(true))
        };
        self.dependents_of(owner).filter(blocks).count()
    }

    fn dependents_of(&self, owner: &AnyObject) -> impl Iterator<Item = &'a AnyObject> {
        let all = owner.meta.uid.as_deref().and_then(|uid| self.dependents.get(uid));
        let reachable = |it: &&AnyObject| owner.meta.namespace.is_none() || owner.meta.namespace == it.meta.namespace;
        let reachable: Vec<_> = all.into_iter().flatten().copied().filter(reachable).collect();
        reachable.into_iter()
    }

    fn owner(&self, dependent: &AnyObject, reference: &OwnerReference) -> Owner {
        let kind = KindName { api_version: reference.api_version.clone(), kind: reference.kind.clone() };
        if !self.kinds.contains(&(kind.group(), kind.kind.as_str())) {
            return Owner::Present;
        }
        let found = self.by_uid.get(reference.uid.as_str()).filter(|owner| {
            let reachable = owner.meta.namespace.is_none() || owner.meta.namespace == dependent.meta.namespace;
            reachable && owner.kind.kind == kind.kind && owner.kind.group() == kind.group()
        });
        match found {
            None => Owner::Absent,
            Some(owner) if owners::is_going(&owner.meta) && owner.has_finalizer(FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Present,
        }
    }
}

fn propagation(object: &AnyObject) -> Propagation {
    if object.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if object.has_finalizer(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    }
}

fn without_finalizer(object: &AnyObject, name: &str) -> Step {
    let others = object.meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != name);
    Step::SetFinalizers { object: object.target(), finalizers: others.cloned().collect() }
}

#[cfg(test)]
mod tests;
