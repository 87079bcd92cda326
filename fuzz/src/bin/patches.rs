#![no_main]

use objects::patch::{json_patch, merge, strategic};
use serde_json::Value;

// An object, a NUL, and a patch of it.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let mut next = || serde_json::from_slice::<Value>(parts.next()?).ok();
    let (Some(current), Some(patch)) = (next(), next()) else { return };
    assert_eq!(merge(&merge(&current, &patch), &patch), merge(&current, &patch), "merged twice");
    let _ = json_patch(&current, &patch);
    let _ = strategic("io.k8s.api.core.v1.PodSpec", &current, &patch);
});
