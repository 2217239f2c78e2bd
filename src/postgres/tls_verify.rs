//! The two ways of judging a server's certificate that rustls does not have by itself.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;

/// Whether the certificate must be made out to the host we asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameCheck {
    Required,
    Skipped,
}

/// Checks the chain (`verify-ca`), and the name too (`verify-full`).
#[derive(Debug)]
pub(crate) struct Verified {
    inner: Arc<WebPkiServerVerifier>,
    trust: Vec<CertificateDer<'static>>,
    names: NameCheck,
}

/// Checks nothing but that the server holds the key of the certificate it shows, which is
/// what channel binding rests on.
#[derive(Debug)]
pub(crate) struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl Verified {
    pub(crate) fn new(
        inner: Arc<WebPkiServerVerifier>,
        trust: Vec<CertificateDer<'static>>,
        names: NameCheck,
    ) -> Self {
        Self { inner, trust, names }
    }

    /// Whether the root file names this very certificate and only its being a root too
    /// stands against it: the usual self-signed `server.crt`, which OpenSSL accepts.
    ///
    /// webpki checks the validity period before it finds that, so an expired certificate
    /// fails with its own error.
    fn is_trusted_itself(&self, end_entity: &CertificateDer<'_>, error: &Error) -> bool {
        let is_a_root = matches!(
            error,
            Error::InvalidCertificate(CertificateError::Other(other))
                if other.to_string().contains("CaUsedAsEndEntity")
        );
        is_a_root && self.trust.iter().any(|root| root.as_ref() == end_entity.as_ref())
    }
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verdict {
            // The name is checked last, when the chain is already found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.names == NameCheck::Skipped => Ok(ServerCertVerified::assertion()),
            Err(error) if self.is_trusted_itself(end_entity, &error) => {
                if self.names == NameCheck::Required {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl Unverified {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
