//! A request is refused, or it proves possession of the key it names; keys and chains never end the process.
#![no_main]

use finial_pki::csr::{Csr, CsrError};
use finial_pki::key::PublicKey;
use finial_pki::software::SoftwareKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    match Csr::parse(der) {
        Ok(csr) => {
            let spki = csr.public_key().spki_der();
            assert_eq!(PublicKey::from_spki_der(spki).as_ref(), Ok(csr.public_key()));
        }
        Err(CsrError::Malformed { .. } | CsrError::PublicKey { .. } | CsrError::BadSignature) => {}
    }
    drop(PublicKey::from_spki_der(der));
    drop(SoftwareKey::from_pkcs8_der(der));
});
