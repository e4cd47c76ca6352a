//! TLS towards orchestrators, which sign their own certificates, and towards servers that do not.
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use service::{tls_client, tls_to_peer};

/// How long a TCP connection may take.
const DIAL: std::time::Duration = std::time::Duration::from_secs(2);

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(DIAL));
    tcp
}

/// For HTTP: HTTP/2 where the peer offers it, HTTP/1.1 otherwise; TLS by the scheme.
pub(crate) fn http_connector() -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new()
        .with_tls_config(tls_to_peer(None))
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp())
}

/// For gRPC: HTTP/2 only; TLS by the scheme.
pub(crate) fn grpc_connector() -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new().with_tls_config(tls_to_peer(None)).https_or_http().enable_http2().wrap_connector(tcp())
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
    let config = tls_client().with_root_certificates(roots).with_no_client_auth();
    Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(tcp()))
}
