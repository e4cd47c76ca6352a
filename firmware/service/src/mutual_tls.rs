//! Mutual TLS to the broker: the fleet's own authority and nothing else is trusted, TLS 1.3 only, ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use serde::Deserialize;

/// Why the credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is missing, unreadable or not PEM of the needed kind.
    #[error("tls file {path}: {reason}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not fit, or an authority is malformed.
    #[error("tls credentials: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Credentials of one end of the fleet's broker, PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MutualTls {
    /// The fleet's authority.
    pub ca: PathBuf,
    /// Our certificate; its common name is who we are.
    pub cert: PathBuf,
    /// Its key, readable by its owner only.
    pub key: PathBuf,
}

impl MutualTls {
    /// Reads the files and builds the client side.
    ///
    /// # Errors
    /// [`TlsError`] naming the file that cannot be used, or when certificate and key do not fit.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.ca)? {
            roots.add(authority)?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(unusable(&self.key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&self.cert)?, key)?;
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unusable(path))?;
    if list.is_empty() {
        return Err(TlsError::Pem { path: path.to_owned(), reason: "holds no certificate".to_owned() });
    }
    Ok(list)
}

fn unusable(path: &Path) -> impl FnOnce(rustls_pki_types::pem::Error) -> TlsError + '_ {
    move |error| TlsError::Pem { path: path.to_owned(), reason: error.to_string() }
}
