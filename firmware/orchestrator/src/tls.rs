//! The certificate of the one port: the operator's, or a self-signed one that outlives restarts.
//!
//! Peers of this network do not check certificates; signatures prove who is who. A lasting key still lets
//! them pin one, and costs nothing.
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// The TLS side of a port.
pub use rustls::ServerConfig as TlsConfig;

/// File of the self-made certificate in the state directory.
const CERTIFICATE_FILE: &str = "tls-cert.pem";
/// File of its key.
const KEY_FILE: &str = "tls-key.pem";

/// Why there is no certificate to serve.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("TLS file {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("TLS file {path} holds no usable PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A certificate could not be made.
    #[error("making a certificate for {host}")]
    Make {
        /// For this name.
        host: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// Certificate and key do not work together.
    #[error("TLS certificate and key")]
    Rustls(#[from] rustls::Error),
}

/// The TLS side of the port: ring, TLS 1.2 and 1.3, ALPN h2 and http/1.1.
///
/// # Errors
/// [`TlsError`] when certificate and key cannot be read, made or used.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_chain(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem { path: key.to_owned(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The self-made certificate and key in the state directory; made when absent, remade with the same key when
/// the host changed.
///
/// # Errors
/// [`TlsError`] when the files cannot be read or written, or the key is damaged.
pub fn self_signed(state_dir: &Path, host: &str) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = (state_dir.join(CERTIFICATE_FILE), state_dir.join(KEY_FILE));
    let fault = |source| TlsError::Make { host: host.to_owned(), source };
    let pair = if key.exists() {
        let pem = std::fs::read_to_string(&key).map_err(|source| TlsError::Io { path: key.clone(), source })?;
        rcgen::KeyPair::from_pem(&pem).map_err(fault)?
    } else {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(fault)?;
        write(&key, &pair.serialize_pem())?;
        pair
    };
    if !names(&certificate, host) {
        let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).map_err(fault)?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        write(&certificate, &params.self_signed(&pair).map_err(fault)?.pem())?;
    }
    Ok((certificate, key))
}

/// Does this file hold a certificate for this host?
fn names(certificate: &Path, host: &str) -> bool {
    let Ok(chain) = read_chain(certificate) else { return false };
    let (Some(first), Ok(name)) = (chain.first(), ServerName::try_from(host)) else { return false };
    ParsedCertificate::try_from(first).is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok())
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |source| TlsError::Pem { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(fault)?.collect::<Result<_, _>>().map_err(fault)
}

/// Writes a file whole or not at all, for our eyes only.
fn write(path: &Path, text: &str) -> Result<(), TlsError> {
    let fresh = path.with_extension("new");
    let attempt = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    attempt().map_err(|source| TlsError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_survives_restarts_and_a_change_of_host() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (certificate, key) = self_signed(dir.path(), "127.0.0.1").unwrap();
        let first = (read(&certificate), read(&key));
        self_signed(dir.path(), "127.0.0.1").unwrap();
        assert_eq!((read(&certificate), read(&key)), first);
        self_signed(dir.path(), "node.example").unwrap();
        assert_ne!(read(&certificate), first.0);
        assert_eq!(read(&key), first.1);
        assert!(server_config(&certificate, &key).is_ok());
    }

    #[test]
    fn a_damaged_key_is_an_error_not_a_new_key() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KEY_FILE), "nonsense").unwrap();
        assert!(matches!(self_signed(dir.path(), "a.example"), Err(TlsError::Make { .. })));
        assert_eq!(std::fs::read_to_string(dir.path().join(KEY_FILE)).unwrap(), "nonsense");
    }
}
