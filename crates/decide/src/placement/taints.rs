//! Which taints of a node keep a pod away?

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

const CORDON: &str = "node.kubernetes.io/unschedulable";

/// The first taint that forbids placing and that the pod doesn't tolerate.
pub(super) fn untolerated<'a>(pod: &Pod, taints: &'a [Taint]) -> Option<&'a Taint> {
    taints.iter().find(|taint| taint.effect != "PreferNoSchedule" && !is_tolerated(pod, taint))
}

/// A cordoned node counts as one with a taint of that name.
pub(super) fn tolerates_cordon(pod: &Pod) -> bool {
    let cordon = Taint { key: CORDON.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    is_tolerated(pod, &cordon)
}

fn is_tolerated(pod: &Pod, taint: &Taint) -> bool {
    let mut tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.any(|toleration| tolerates(toleration, taint))
}

/// An absent effect or key stands for every one.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let same_effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let same_key = given(&toleration.key).is_none_or(|key| key == taint.key);
    let same_value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        Some(_) | None => given(&toleration.key).is_some() && given(&toleration.value) == given(&taint.value),
    };
    same_effect && same_key && same_value
}
