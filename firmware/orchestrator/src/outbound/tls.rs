//! TLS of requests we make: certificates checked against the system's authorities, or, where what is exchanged
//! proves itself by a hash or a signature, any certificate.
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use service::{tls_client, tls_to_peer};

/// Trusts the authorities in a PEM file.
pub(super) fn checked(ca_file: &Path) -> Result<Arc<ClientConfig>, String> {
    let told = |reason: String| format!("authorities {} cannot be read: {reason}", ca_file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| told(error.to_string()))? {
        // A system's bundle may hold certificates that this library does not know how to read; they trust nobody.
        let _ = roots.add(certificate.map_err(|error| told(error.to_string()))?);
    }
    if roots.is_empty() {
        return Err(told("no certificate in it".to_owned()));
    }
    Ok(Arc::new(tls_client().with_root_certificates(roots).with_no_client_auth()))
}

/// Trusts nobody in particular: the handshake's own signatures are checked, the certificate's are not.
pub(super) fn unchecked() -> Arc<ClientConfig> {
    Arc::new(tls_to_peer(None))
}
