//! A text is refused, or it is the text of the selector it makes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_types::selector::Selector;

fuzz_target!(|text: &str| {
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string(), text);
        assert!(!selector.kind().contains(':'));
    }
});
