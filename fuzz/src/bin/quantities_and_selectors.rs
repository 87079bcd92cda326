#![no_main]

use objects::quantity;
use objects::selector::Selector;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = Selector::parse(text);
    if let Ok(canonical) = quantity::canonical(text) {
        assert_eq!(quantity::canonical(&canonical), Ok(canonical.clone()), "the canonical form of {text:?}");
    }
});
