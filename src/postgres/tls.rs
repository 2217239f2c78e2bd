//! TLS as `sslmode` and its companions ask for it.
//!
//! Source: PostgreSQL documentation, "libpq, SSL Support", and
//! src/interfaces/libpq/fe-secure-openssl.c.

use crate::postgres::PostgresError;
use crate::postgres::conninfo::Settings;
use crate::postgres::options::choose;
use crate::postgres::tls_verify::{NameCheck, Unverified, Verified};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_postgres::config::SslNegotiation;

/// How much the connection is protected; `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    /// TLS only where the server does not let us in without.
    Allow,
    /// TLS where the server offers it.
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    pub mode: SslMode,
    pub negotiation: SslNegotiation,
    /// `None`: the roots that the system trusts (`sslrootcert=system`).
    pub root_file: Option<PathBuf>,
    /// `None`: send no client certificate.
    pub certificate_file: Option<PathBuf>,
    /// The private key of the client certificate, in PEM.
    pub key_file: Option<PathBuf>,
    pub revocation_file: Option<PathBuf>,
    pub revocation_directory: Option<PathBuf>,
    /// Files that were not named by the user may be absent.
    pub named_files: NamedFiles,
    pub server_name_indication: ServerNameIndication,
    /// Newest last; a non-empty part of 1.2, 1.3.
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

/// Which of the files the user named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedFiles {
    pub certificate: bool,
    pub revocation: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerNameIndication {
    Send,
    Omit,
}

impl TlsOptions {
    pub(crate) fn resolve(settings: &Settings, home: Option<&Path>) -> Result<Self, PostgresError> {
        let file = |name: &str, default: &str| {
            let named = settings.non_empty(name).map(PathBuf::from);
            named.or_else(|| home.map(|home| home.join(".postgresql").join(default)))
        };
        let from_system = settings.get("sslrootcert") == Some("system");
        let mode = ssl_mode(settings, from_system)?;
        let sends_certificate = client_certificate_mode(settings)?;
        Ok(Self {
            mode,
            negotiation: negotiation(settings, mode)?,
            root_file: file("sslrootcert", "root.crt").filter(|_| !from_system),
            certificate_file: file("sslcert", "postgresql.crt").filter(|_| sends_certificate),
            key_file: file("sslkey", "postgresql.key"),
            revocation_file: file("sslcrl", "root.crl"),
            revocation_directory: settings.non_empty("sslcrldir").map(PathBuf::from),
            named_files: NamedFiles {
                certificate: settings.non_empty("sslcert").is_some(),
                revocation: settings.non_empty("sslcrl").is_some(),
            },
            server_name_indication: server_name_indication(settings)?,
            versions: versions(settings)?,
        })
    }

    /// Reads the files and makes the client side of TLS.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.versions)
            .map_err(|error| error.to_string())?
            .dangerous();
        let builder = match self.trust()? {
            Some(trust) => {
                builder.with_custom_certificate_verifier(self.verifier(trust, provider)?)
            }
            None => builder.with_custom_certificate_verifier(Arc::new(Unverified::new(provider))),
        };
        let mut config = match self.identity()? {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("cannot use the client certificate: {error}"))?,
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.server_name_indication == ServerNameIndication::Send;
        if self.negotiation == SslNegotiation::Direct {
            // Direct TLS is refused by the server without it.
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(config)
    }

    /// The certificates to check the server against; `None` when nothing is checked.
    fn trust(&self) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
        let Some(file) = &self.root_file else {
            return self.root_store_missing_or_system();
        };
        if file.exists() {
            return read_certificates(file).map(Some);
        }
        if self.mode >= SslMode::VerifyCa {
            return Err(format!(
                "root certificate file \"{}\" does not exist; provide it, use the system's trusted \
                 roots with sslrootcert=system, or choose an sslmode without verification",
                file.display()
            ));
        }
        // Without a root file "require" and weaker check nothing; with one they do.
        Ok(None)
    }

    fn root_store_missing_or_system(&self) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
        if self.mode < SslMode::VerifyCa {
            return Ok(None);
        }
        let loaded = rustls_native_certs::load_native_certs();
        if loaded.certs.is_empty() {
            return Err("the system has no trusted root certificates".into());
        }
        Ok(Some(loaded.certs))
    }

    fn verifier(
        &self,
        trust: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<Verified>, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trust.iter().cloned());
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let revocations = self.revocations()?;
        if !revocations.is_empty() {
            // As OpenSSL does with X509_V_FLAG_CRL_CHECK: a list for each issuer is needed.
            builder = builder.with_crls(revocations);
        }
        let inner = builder.build().map_err(|error| error.to_string())?;
        let names = match self.mode {
            SslMode::VerifyFull => NameCheck::Required,
            _ => NameCheck::Skipped,
        };
        Ok(Arc::new(Verified::new(inner, trust, names)))
    }

    fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
        let mut lists = Vec::new();
        if let Some(file) = &self.revocation_file
            && (self.named_files.revocation || file.exists())
        {
            lists.extend(read_revocations(file)?);
        }
        if let Some(directory) = &self.revocation_directory {
            let entries = std::fs::read_dir(directory).map_err(|error| {
                format!("could not read directory \"{}\": {error}", directory.display())
            })?;
            for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
                lists.extend(read_revocations(&entry.path())?);
            }
        }
        Ok(lists)
    }

    /// The client certificate chain and key, when there is a certificate.
    fn identity(
        &self,
    ) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, String> {
        let Some(file) = &self.certificate_file else { return Ok(None) };
        if !self.named_files.certificate && !file.exists() {
            return Ok(None);
        }
        let chain = read_certificates(file)?;
        let key_file = self.key_file.as_ref().ok_or_else(|| {
            format!("certificate present in \"{}\", but no private key file", file.display())
        })?;
        check_key_permissions(key_file)?;
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
            format!(
                "could not load private key file \"{}\": {error} (encrypted keys are not supported)",
                key_file.display()
            )
        })?;
        Ok(Some((chain, key)))
    }
}

fn ssl_mode(settings: &Settings, from_system: bool) -> Result<SslMode, PostgresError> {
    let modes = [
        ("prefer", SslMode::Prefer),
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
    if !from_system {
        return choose(settings, "sslmode", &modes);
    }
    // Any public authority can certify any name, so only the full check means something.
    match settings.non_empty("sslmode") {
        None | Some("verify-full") => Ok(SslMode::VerifyFull),
        Some(weak) => Err(PostgresError::malformed(format!(
            "weak sslmode \"{weak}\" may not be used with sslrootcert=system (use \"verify-full\")"
        ))),
    }
}

fn negotiation(settings: &Settings, mode: SslMode) -> Result<SslNegotiation, PostgresError> {
    let ways = [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
    let negotiation = choose(settings, "sslnegotiation", &ways)?;
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        return Err(PostgresError::malformed(
            "a weak sslmode may not be used with sslnegotiation=direct (use \"require\", \
             \"verify-ca\", or \"verify-full\")",
        ));
    }
    Ok(negotiation)
}

/// Whether a client certificate is sent when there is one.
fn client_certificate_mode(settings: &Settings) -> Result<bool, PostgresError> {
    if settings.non_empty("sslcertmode") == Some("require") {
        let reason = "parameter \"sslcertmode\" asks for what this program does not support";
        return Err(PostgresError::malformed(reason));
    }
    choose(settings, "sslcertmode", &[("allow", true), ("disable", false)])
}

fn server_name_indication(settings: &Settings) -> Result<ServerNameIndication, PostgresError> {
    let choices = [("1", ServerNameIndication::Send), ("0", ServerNameIndication::Omit)];
    choose(settings, "sslsni", &choices)
}

fn versions(settings: &Settings) -> Result<Vec<&'static SupportedProtocolVersion>, PostgresError> {
    let names = [("TLSv1", 0), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];
    let bound = |name, default| match settings.non_empty(name) {
        Some(_) => choose(settings, name, &names),
        None => Ok(default),
    };
    let (min, max) = (bound("ssl_min_protocol_version", 2)?, bound("ssl_max_protocol_version", 3)?);
    let supported = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)];
    let wanted = supported.into_iter().filter(|(number, _)| (min..=max).contains(number));
    let versions: Vec<_> = wanted.map(|(_, version)| version).collect();
    if versions.is_empty() {
        return Err(PostgresError::malformed(
            "no TLS version is left between ssl_min_protocol_version and ssl_max_protocol_version \
             (TLSv1.2 and TLSv1.3 are supported)",
        ));
    }
    Ok(versions)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: rustls::pki_types::pem::Error| {
        format!("could not read certificate file \"{}\": {error}", file.display())
    };
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(format!("certificate file \"{}\" holds no certificate", file.display()));
    }
    Ok(certificates)
}

fn read_revocations(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let failed = |error: rustls::pki_types::pem::Error| {
        format!("could not read certificate revocation list \"{}\": {error}", file.display())
    };
    CertificateRevocationListDer::pem_file_iter(file)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)
}

/// Source: `initialize_SSL`: ours and private, or root's and readable by a group.
fn check_key_permissions(file: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(file).map_err(|error| {
        format!("could not read private key file \"{}\": {error}", file.display())
    })?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & forbidden != 0 {
        return Err(format!(
            "private key file \"{}\" has group or world access; permissions must be u=rw (0600) \
             or less, or u=rw,g=r (0640) or less if owned by root",
            file.display()
        ));
    }
    Ok(())
}
