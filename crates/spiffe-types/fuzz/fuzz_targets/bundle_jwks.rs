//! A document is refused, or the bundle it makes reads back from its own document.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_types::TrustDomain;
use spiffe_types::bundle::jwks::{from_json, from_json_strict, to_json};

fuzz_target!(|text: &str| {
    let Ok(trust_domain) = TrustDomain::parse("example.org") else {
        return;
    };
    if let Ok(bundle) = from_json_strict(&trust_domain, text) {
        // What SPIRE takes, any consumer takes.
        let lenient = from_json(&trust_domain, text).expect("strictly read, hence readable");
        assert_eq!(lenient.x509_authorities, bundle.x509_authorities);
    }
    if let Ok(bundle) = from_json(&trust_domain, text) {
        let written = to_json(&bundle);
        let again = from_json(&trust_domain, &written).expect("written, hence readable");
        // Keys without a JWK form are left out, so compare what was written.
        assert_eq!(to_json(&again), written);
    }
});
