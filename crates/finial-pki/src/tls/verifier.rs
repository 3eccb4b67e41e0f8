//! The verifier, for peers of either side.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use spiffe_types::id::SpiffeId;
use spiffe_types::svid::x509::X509Svid;
use webpki::KeyUsage;

use super::config::Authorize;
use super::store::BundleStore;
use crate::x509::{VerifyError, unknown_trust_domain, verify_path};

/// Believes a peer if an authority of its own trust domain vouches for it and its ID is wanted here.
pub(super) struct SpiffeVerifier {
    pub(super) trust: Trust,
    pub(super) authorize: Authorize,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Who vouches for peers.
pub(super) enum Trust {
    /// The authorities in the store.
    Bundles(BundleStore),
    /// Nobody: an ID is taken as it is presented. Only for a bootstrap that the operator has declared insecure.
    Unverified,
}

/// Why a peer was refused. TLS shows errors of this kind by their `Debug` form, so that is the text.
#[derive(thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SpiffeVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let chain = std::iter::once(leaf)
            .chain(intermediates)
            .map(|der| Bytes::copy_from_slice(der))
            .collect();
        let svid = X509Svid::parse(chain).map_err(|error| to_rustls(VerifyError::svid(&error)))?;
        if let Trust::Bundles(bundles) = &self.trust {
            let trust_domain = svid.id().trust_domain();
            let anchors = bundles
                .find(&trust_domain)
                .ok_or_else(|| to_rustls(unknown_trust_domain(&trust_domain)))?;
            verify_path(leaf, intermediates, &anchors, now, usage).map_err(to_rustls)?;
        }
        if (self.authorize)(svid.id()) {
            Ok(())
        } else {
            Err(unexpected(svid.id()))
        }
    }
}

fn unexpected(id: &SpiffeId) -> rustls::Error {
    refusal(format!("unexpected ID {:?}", id.as_str()))
}

fn refusal(text: String) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Refusal(text)))).into()
}

/// Keeps the variants for which TLS has an alert of its own.
fn to_rustls(error: VerifyError) -> rustls::Error {
    match error {
        VerifyError::UnknownAuthority => CertificateError::UnknownIssuer.into(),
        VerifyError::Expired => CertificateError::Expired.into(),
        VerifyError::NotValidYet => CertificateError::NotValidYet.into(),
        other @ (VerifyError::Svid { .. }
        | VerifyError::UnknownTrustDomain { .. }
        | VerifyError::Path { .. }) => refusal(other.to_string()),
    }
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false // some calls need no identity; each is judged on its own
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // authorities rotate, and one slot serves any server
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now, KeyUsage::client_auth())
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now, KeyUsage::server_auth())
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
