//! A text is refused, or it is the text of the id it makes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_types::SpiffeId;

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
        assert_eq!(SpiffeId::from_path(&id.trust_domain(), id.path()), Ok(id));
    }
});
