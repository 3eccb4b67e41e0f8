//! A text is refused, or it is the name, or an id, of the trust domain it makes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_types::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    if let Ok(trust_domain) = TrustDomain::parse(text) {
        let from_id = SpiffeId::parse(text).map(|id| id.trust_domain());
        assert!(trust_domain.as_str() == text || from_id == Ok(trust_domain.clone()));
        assert_eq!(TrustDomain::parse(trust_domain.as_str()), Ok(trust_domain.clone()));
        assert_eq!(SpiffeId::parse(trust_domain.id().as_str()), Ok(trust_domain.id()));
    }
});
