//! RSA-PSS with a salt of any length.
//!
//! Go signs with the longest salt that fits and recovers the length when it verifies; the crypto library insists on a salt as long
//! as the hash. So this is written out: it works on public values alone, where time gives nothing away.

use aws_lc_rs::digest::{Context, SHA256, digest};
use x509_parser::num_bigint::BigUint;

use crate::der;

/// Checks a signature with SHA-256 for hash and mask by an RSA key (DER `RSAPublicKey`), whatever the length of the salt.
///
/// RFC 8017 sections 8.1.2 and 9.1.2, with the salt length taken from the signature.
pub(crate) fn verify_any_salt(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    check(key, message, signature).is_some()
}

fn check(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let numbers = der::read_only(key).ok()?.expect(der::SEQUENCE).ok()?;
    let [modulus, exponent] = &*der::elements(numbers).ok()? else {
        return None;
    };
    let modulus = BigUint::from_bytes_be(modulus.expect(der::INTEGER).ok()?);
    let exponent = BigUint::from_bytes_be(exponent.expect(der::INTEGER).ok()?);
    let bits = usize::try_from(modulus.bits()).ok()?;
    let odd = |number: &BigUint| number.bit(0);
    if !(MIN_BITS..=MAX_BITS).contains(&bits)
        || exponent.bits() > MAX_EXPONENT_BITS
        || !odd(&modulus)
        || !odd(&exponent)
    {
        return None;
    }
    if signature.len() != bits.div_ceil(8) {
        return None;
    }
    let signature = BigUint::from_bytes_be(signature);
    if signature >= modulus {
        return None;
    }
    let encoded = signature.modpow(&exponent, &modulus).to_bytes_be();

    // The encoded message has one bit less than the modulus, which may make it one byte shorter.
    let length = (bits - 1).div_ceil(8);
    let mut padded = vec![0; length.checked_sub(encoded.len())?];
    padded.extend(encoded);
    let (&trailer, rest) = padded.split_last()?;
    let (masked, hash) = rest.split_at_checked(rest.len().checked_sub(HASH_BYTES)?)?;
    let unused_bits = length * 8 - (bits - 1);
    let first_mask = 0xff_u8.checked_shr(u32::try_from(unused_bits).ok()?)?;
    if trailer != 0xbc || masked.first()? & !first_mask != 0 {
        return None;
    }
    let mut block = masked
        .iter()
        .zip(mask(hash, masked.len()))
        .map(|(byte, mask)| byte ^ mask)
        .collect::<Vec<_>>();
    *block.first_mut()? &= first_mask;
    let zeros = block.iter().take_while(|byte| **byte == 0).count();
    let (&separator, salt) = block.get(zeros..)?.split_first()?;
    if separator != 1 {
        return None;
    }
    let mut expected = Context::new(&SHA256);
    expected.update(&[0; 8]);
    expected.update(digest(&SHA256, message).as_ref());
    expected.update(salt);
    (expected.finish().as_ref() == hash).then_some(())
}

/// MGF1 with SHA-256.
fn mask(seed: &[u8], length: usize) -> Vec<u8> {
    let blocks = (0_u32..).map(|counter| {
        let mut context = Context::new(&SHA256);
        context.update(seed);
        context.update(&counter.to_be_bytes());
        context.finish()
    });
    let mut mask = Vec::with_capacity(length + HASH_BYTES);
    for block in blocks {
        if mask.len() >= length {
            break;
        }
        mask.extend_from_slice(block.as_ref());
    }
    mask.truncate(length);
    mask
}

const HASH_BYTES: usize = 32;
const MIN_BITS: usize = 1024;
/// Keys beyond this are a way to keep a server busy.
const MAX_BITS: usize = 16_384;
const MAX_EXPONENT_BITS: u64 = 31;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyKind, PublicKey, SignatureScheme};
    use crate::software::SoftwareKey;

    const MESSAGE: &[u8] = b"message to be signed";
    /// Made by OpenSSL, with the longest salt that a 2048-bit key has room for.
    const PUBLIC_KEY: &str = "30820122300d06092a864886f70d01010105000382010f003082010a0282010100b568dca346b9cba6ecf4d8425ab474cc90e050da80c956e0406f095e94bd23\
        0a27ce777f9aeead244b3c26a1f0807763c0354931f6bcf76a2db5687fdf511064a0959ece8c20b06bd6f65e2f6eb73eb441d6505d30e1cf54d345fca803b8bb\
        3640e8554e6e80b2714eb663746d9e61e4562ad3016664a92dd2e97f1ea256324e51b8007ee24b57b7a3dab4d66d37b2ea8eb0956faf969e4e8b1e809b65135a\
        cd53a36c64115f075767518593318354fd14a562c5fa29789f98e38cc00513741e13477f3954ce3cd49d8763ec3eded73d16ef19d75026f0570f31f6c96e398b\
        0c190bde64fe912d10767b6d0c2e28084c82670e1fc410094346fcf4b5b9a31fb50203010001";
    const SIGNATURE: &str = "227cbf11247521730525c1b0cff625ec497c8ba766a9f24ddc28c039ee70b80dde296757d7f3eb43d0c21653e1725030798f0594b1ebe135b83570ec4a75e38c\
        0a554861597e40cb8d23add3e9cd7da91f663f87caf8d407ae31e4e0cd12d7cd62ecc8b6caf2d555f3631365339e06ac0c32e8958b8ba2adcf87c5732a7cfa97\
        77f8e358d9225b9cb9f5cfd9f63d67fc69e6c6280d1ac833530b8cc0cef65cebf110e3716faeb8e3c36e140c69155efcf30c10d8fac2f3cf6f0134e2bccb0f52\
        2852be971e07478f7eddec85c555871f6153a9b98b468c32c7d15d41f93752c23f1b91a5a3a625ac0d51de38eccc6f1cf4200e8706935eebc5f242b1c981f16b";

    #[test]
    fn a_signature_with_the_longest_salt_is_good() {
        let key = PublicKey::from_spki_der(&hex::decode(PUBLIC_KEY).unwrap()).unwrap();
        let signature = hex::decode(SIGNATURE).unwrap();
        assert!(verify_any_salt(key.key_bits(), MESSAGE, &signature));
        assert!(
            key.verify(SignatureScheme::RsaPssSha256, MESSAGE, &signature)
                .is_err(),
            "the library wants 32 bytes"
        );
    }

    #[test]
    fn a_signature_with_a_salt_as_long_as_the_hash_is_good() {
        for kind in [KeyKind::Rsa2048, KeyKind::Rsa4096] {
            let key = SoftwareKey::generate(kind).unwrap();
            let signature = key
                .sign_now(SignatureScheme::RsaPssSha256, MESSAGE)
                .unwrap();
            assert!(verify_any_salt(
                key.public_key().key_bits(),
                MESSAGE,
                &signature
            ));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_other_message_or_key_is_bad() {
        let key = PublicKey::from_spki_der(&hex::decode(PUBLIC_KEY).unwrap()).unwrap();
        let signature = hex::decode(SIGNATURE).unwrap();
        assert!(!verify_any_salt(key.key_bits(), b"another", &signature));
        for position in 0..signature.len() {
            let mut broken = signature.clone();
            broken[position] ^= 1;
            assert!(!verify_any_salt(key.key_bits(), MESSAGE, &broken));
        }
        let other = SoftwareKey::generate(KeyKind::Rsa2048).unwrap();
        assert!(!verify_any_salt(
            other.public_key().key_bits(),
            MESSAGE,
            &signature
        ));
    }

    #[test]
    fn padding_of_another_kind_is_bad() {
        let key = SoftwareKey::generate(KeyKind::Rsa2048).unwrap();
        let signature = key
            .sign_now(SignatureScheme::RsaPkcs1Sha256, MESSAGE)
            .unwrap();
        assert!(!verify_any_salt(
            key.public_key().key_bits(),
            MESSAGE,
            &signature
        ));
        for nonsense in [&[][..], &[0; 256], &[0xff; 256], &[1; 255]] {
            assert!(!verify_any_salt(
                key.public_key().key_bits(),
                MESSAGE,
                nonsense
            ));
        }
    }
}
