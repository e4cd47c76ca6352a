//! TLS towards orchestrators, which sign their own certificates: any will do, unless the operator pinned one.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring;
use rustls::{ClientConfig, Error, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use service::{tls_client, tls_to_peer};

use crate::config::{Fingerprint, Target};

/// How long a TCP connection may take.
const DIAL: Duration = Duration::from_secs(5);
/// A peer that is silent for so long is asked whether it is there …
const KEEPALIVE: Duration = Duration::from_secs(30);
/// … this often …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// … and so many times.
const KEEPALIVE_TIMES: u32 = 3;

/// Why a pinned certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file holds no certificate.
    #[error("ca_file {path} holds no usable certificate: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library refused.
    #[error("TLS: {0}")]
    Rustls(#[from] Error),
}

/// Whose certificate is believed.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Anybody's.
    Anybody,
    /// This one.
    Pinned(Fingerprint),
    /// Those this verifier accepts.
    Authority(Arc<WebPkiServerVerifier>),
}

impl Trust {
    pub(crate) fn of(target: &Target) -> Result<Self, TrustError> {
        let Some(path) = &target.ca_file else {
            return Ok(target.certificate_sha256.map_or(Self::Anybody, Self::Pinned));
        };
        let fault = |reason: String| TrustError::File { path: path.clone(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))? {
            let added = roots.add(certificate.map_err(|error| fault(error.to_string()))?);
            added.map_err(|error| fault(error.to_string()))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self::Authority(verifier.map_err(|error| fault(error.to_string()))?))
    }
}

fn config(trust: Trust) -> ClientConfig {
    match trust {
        Trust::Anybody => tls_to_peer(None),
        Trust::Pinned(Fingerprint(pinned)) => tls_to_peer(Some(pinned)),
        Trust::Authority(verifier) => tls_client().with_webpki_verifier(verifier).with_no_client_auth(),
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(DIAL));
    // Go's HTTP/2 servers may answer many pings with the end of the connection; the kernel's probes offend nobody.
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_TIMES));
    tcp.set_tcp_user_timeout(Some(KEEPALIVE_EVERY * KEEPALIVE_TIMES));
    tcp
}

/// For segments: HTTP/2 where the peer offers it, HTTP/1.1 otherwise; TLS by the scheme.
pub(crate) fn any_http(trust: Trust) -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new()
        .with_tls_config(config(trust))
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp())
}

/// For registration and results: HTTP/2 over TLS and nothing else, as the network does it.
pub(crate) fn http2(trust: Trust) -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new().with_tls_config(config(trust)).https_only().enable_http2().wrap_connector(tcp())
}
