//! Whom a connection trusts: the authorities of a bundle or of the system, and a server that a
//! bundle names by its own certificate.
//!
//! Small installations have one self-signed certificate, which is the server's and its own
//! authority. `webpki` refuses an authority as a server whatever the bundle says; OpenSSL, and so
//! boto3, takes it. Here it is taken if the bundle holds exactly that certificate; its name and
//! its time are checked as those of any other.

use crate::cloud::CloudError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::path::Path;
use std::sync::Arc;

/// Makes the client side of TLS: `bundle` is a PEM file with all that is trusted, `None` takes
/// what the system trusts.
pub fn client_config(bundle: Option<&Path>) -> Result<ClientConfig, CloudError> {
    let trusted = match bundle {
        Some(path) => read_bundle(path)?,
        None => of_system()?,
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust_of(trusted)?))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn trust_of(trusted: Vec<CertificateDer<'static>>) -> Result<Trust, CloudError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
        .build()
        .map_err(|error| unusable(&error))?;
    Ok(Trust { chains, trusted })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn unusable(error: &dyn std::error::Error) -> CloudError {
    CloudError::new(format!("could not set up TLS: {error}"))
}

fn read_bundle(path: &Path) -> Result<Vec<CertificateDer<'static>>, CloudError> {
    let unusable = |reason: String| {
        CloudError::new(format!("could not read CA bundle \"{}\": {reason}", path.display()))
    };
    let pem = std::fs::read(path).map_err(|error| {
        let text = error.to_string();
        unusable(text.split(" (os error").next().unwrap_or(&text).to_lowercase())
    })?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate".into()));
    }
    Ok(certificates)
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` count, as for OpenSSL.
fn of_system() -> Result<Vec<CertificateDer<'static>>, CloudError> {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::debug!(%error, "a certificate of the system is not used");
    }
    if loaded.certs.is_empty() {
        return Err(CloudError::new("the system has no trusted certificates"));
    }
    Ok(loaded.certs)
}

/// Chains as `webpki` judges them, and certificates that are trusted themselves.
#[derive(Debug)]
struct Trust {
    chains: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Whether only its being an authority, or having none, stands against a certificate that is
    /// trusted itself. `webpki` looks at the time before it finds either.
    fn holds(&self, end_entity: &CertificateDer<'_>, error: &Error) -> bool {
        let alone = match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
            Error::InvalidCertificate(CertificateError::Other(other)) => {
                other.to_string().contains("CaUsedAsEndEntity")
            }
            _ => false,
        };
        alone && self.trusted.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref())
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.chains.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verdict {
            Err(error) if self.holds(end_entity, &error) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::trust::{client_config, trust_of};
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use std::time::Duration;

    /// `openssl req -x509 … -subj /CN=minio -addext subjectAltName=DNS:minio.example`: an
    /// authority, as openssl makes them, good from 2026-11-28 to 2027-11-28.
    const MINIO: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBjzCCATWgAwIBAgIUOHYl+3I51XuDlWzBed0JHapHAHkwCgYIKoZIzj0EAwIw\n\
EDEOMAwGA1UEAwwFbWluaW8wHhcNMjYxMTI4MTYyNDUxWhcNMjcxMTI4MTYyNDUx\n\
WjAQMQ4wDAYDVQQDDAVtaW5pbzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJCU\n\
WJxZT+bo1k7ojl5/qiWP6qIYY0rwUMRZZ2Aknm747gu4GdyNWJ7mT/3xXYAQz8Hf\n\
EwTU7W2CO6yyetEJFnSjbTBrMB0GA1UdDgQWBBQEtIIfl2FO3TlfAr9o5xBPOzp8\n\
+zAfBgNVHSMEGDAWgBQEtIIfl2FO3TlfAr9o5xBPOzp8+zAPBgNVHRMBAf8EBTAD\n\
AQH/MBgGA1UdEQQRMA+CDW1pbmlvLmV4YW1wbGUwCgYIKoZIzj0EAwIDSAAwRQIh\n\
ALzghnJBOwM/BeMr18UFEsS/I4Remz1LGvrJ7NsBNyy8AiAxGtdgFqaX8/OcODz2\n\
Y8r2m7j6WlBqgQJNjxLW0XVytA==\n\
-----END CERTIFICATE-----\n\
";
    /// The same names, another key.
    const STRANGER: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBjzCCATWgAwIBAgIUfI+BaqlrR0su/mFfQmwOnZeJH4kwCgYIKoZIzj0EAwIw\n\
EDEOMAwGA1UEAwwFbWluaW8wHhcNMjYxMTI4MTYyNDUxWhcNMjcxMTI4MTYyNDUx\n\
WjAQMQ4wDAYDVQQDDAVtaW5pbzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLIs\n\
c3T7yn+4/x+fT1W/L7kWmG9awz7ahaKS390dw+pvuHTYsAJq0/M/J+mWROimC21T\n\
3vNdBRI9ShuO5DoH2qijbTBrMB0GA1UdDgQWBBTIsf1UOJCmcVAL2vC4YRw9+CjL\n\
jzAfBgNVHSMEGDAWgBTIsf1UOJCmcVAL2vC4YRw9+CjLjzAPBgNVHRMBAf8EBTAD\n\
AQH/MBgGA1UdEQQRMA+CDW1pbmlvLmV4YW1wbGUwCgYIKoZIzj0EAwIDSAAwRQIh\n\
ALCOEyelAJqkNhkgrSitHRY7qMdAIJYA7WC0xRuav93MAiAVqfz237u58UUTnI43\n\
GqDs1nCU7KBV7tT4xfQI+NDImg==\n\
-----END CERTIFICATE-----\n\
";
    /// Signed by an authority that is not in the bundle.
    const LEAF: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBeTCCASCgAwIBAgIUSyoruPb3PzXDiM6cOItKOovs81MwCgYIKoZIzj0EAwIw\n\
DTELMAkGA1UEAwwCY2EwHhcNMjYxMTI4MTYyNDUxWhcNMjcxMTI4MTYyNDUxWjAP\n\
MQ0wCwYDVQQDDARsZWFmMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEITkORy0l\n\
uE8fe/X+VCcOr6W5cXczCJ2v6HhTihlGN9y+tq7awgMw8dSRg3dQ9zX9DIoSznJL\n\
ksDyyx+gwxKFbaNcMFowGAYDVR0RBBEwD4INbWluaW8uZXhhbXBsZTAdBgNVHQ4E\n\
FgQUg0jATC9hqNRBJQNk32gM3ZX2oD4wHwYDVR0jBBgwFoAUoWMhM0eWyZglGp2+\n\
wiNRC3j74MAwCgYIKoZIzj0EAwIDRwAwRAIgbkVyepLs685Wfh3UufjkRmZsCmf7\n\
eV/8do/CjtaUI9UCIFY++ybaMmi9pd6r6P1n+BgSmkik9WIUKgyi0IO5DyK+\n\
-----END CERTIFICATE-----\n\
";
    const GOOD: u64 = 1_800_000_000;
    const EXPIRED: u64 = 1_830_000_000;
    const NOT_YET: u64 = 1_790_000_000;

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    /// What is said about a server that shows `shown`, with `bundle` trusted.
    fn verdict(bundle: &str, shown: &str, name: &'static str, now: u64) -> Result<(), String> {
        let trust = trust_of(vec![certificate(bundle)]).expect("trust");
        let name = ServerName::try_from(name).expect("a name");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let verdict = trust.verify_server_cert(&certificate(shown), &[], &name, &[], now);
        verdict.map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_is_trusted_whose_very_certificate_the_bundle_holds() {
        for pem in [MINIO, LEAF] {
            assert_eq!(verdict(pem, pem, "minio.example", GOOD), Ok(()));
        }
    }

    #[test]
    fn its_name_and_its_time_are_checked_like_any_others() {
        for pem in [MINIO, LEAF] {
            let refused = |name, now| verdict(pem, pem, name, now).expect_err("refused");
            let text = refused("other.example", GOOD);
            assert!(text.contains("not valid for name"), "{text}");
            let text = refused("minio.example", EXPIRED);
            assert!(text.contains("expired"), "{text}");
            let text = refused("minio.example", NOT_YET);
            assert!(text.contains("not valid yet"), "{text}");
        }
    }

    #[test]
    fn another_certificate_with_the_same_names_is_a_stranger() {
        for (bundle, shown) in [(MINIO, STRANGER), (STRANGER, MINIO), (MINIO, LEAF), (LEAF, MINIO)]
        {
            verdict(bundle, shown, "minio.example", GOOD).expect_err("a stranger");
        }
    }

    #[test]
    fn a_bundle_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let refused = || client_config(Some(&path)).expect_err("refused").message;
        assert!(refused().ends_with("ca.pem\": no such file or directory"), "{}", refused());
        std::fs::write(&path, "nothing").expect("write");
        assert!(refused().ends_with("ca.pem\": it holds no certificate"), "{}", refused());
    }
}
