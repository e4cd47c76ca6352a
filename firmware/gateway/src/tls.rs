//! TLS towards orchestrators, which sign their own certificates: any certificate will do.
//!
//! Authenticity comes from Ethereum signatures. The handshake's own signatures are still checked, so the peer
//! at least owns the key it shows. This is the only verifier of its kind.
use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// How long a TCP connection may take.
const DIAL: std::time::Duration = std::time::Duration::from_secs(2);

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn config() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth()
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(DIAL));
    tcp
}

/// For HTTP: HTTP/2 where the peer offers it, HTTP/1.1 otherwise; TLS by the scheme.
pub(crate) fn http_connector() -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new().with_tls_config(config()).https_or_http().enable_all_versions().wrap_connector(tcp())
}

/// For gRPC: HTTP/2 only; TLS by the scheme.
pub(crate) fn grpc_connector() -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new().with_tls_config(config()).https_or_http().enable_http2().wrap_connector(tcp())
}

/// Where distributions keep the authorities they trust.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// For servers that are no orchestrators: certificates are checked against the system's authorities.
pub(crate) fn checked_connector(needed: bool) -> std::io::Result<HttpsConnector<HttpConnector>> {
    let mut roots = RootCertStore::empty();
    if needed {
        let certificates = CertificateDer::pem_file_iter(AUTHORITIES).map_err(std::io::Error::other)?;
        roots.add_parsable_certificates(certificates.flatten());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(tcp()))
}
