//! Concatenated certificates are refused, or they are the concatenation of the SVID they make.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_types::bundle::X509Authority;
use spiffe_types::svid::x509::{X509Svid, concatenate, parse_der_sequence};

fuzz_target!(|der: &[u8]| {
    let Ok(chain) = parse_der_sequence(der) else {
        return;
    };
    assert_eq!(concatenate(&chain), der);
    if let Ok(svid) = X509Svid::parse(chain.clone()) {
        assert_eq!(svid.chain_der(), der);
        assert!(!svid.id().path().is_empty());
    }
    for certificate in chain {
        drop(X509Authority::parse(certificate, false));
    }
});
