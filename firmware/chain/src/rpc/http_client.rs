//! One HTTP client for every endpoint: pooled connections, certificates checked, answers bounded.
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{RpcError, TransportFault};

pub(super) enum HttpClient {
    Straight(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
    /// Every connection is a tunnel through the proxy; TLS is spoken inside it.
    Proxied(Client<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>),
}

impl HttpClient {
    /// Trusts nobody: for endpoints without TLS.
    pub(super) fn plain(proxy: Option<&Uri>) -> Self {
        Self::new(RootCertStore::empty(), proxy)
    }

    /// Trusts the authorities in a PEM file.
    pub(super) fn with_tls(ca_file: &Path, proxy: Option<&Uri>) -> Result<Self, RpcError> {
        let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| RpcError::Tls {
            path: ca_file.display().to_string(),
            source,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|e| unreadable(e.into()))? {
            // The system's bundle may hold certificates this library does not know how to read; they trust nobody.
            let _ = roots.add(certificate.map_err(|e| unreadable(e.into()))?);
        }
        if roots.is_empty() {
            return Err(unreadable("no certificate in it".into()));
        }
        Ok(Self::new(roots, proxy))
    }

    fn new(roots: RootCertStore, proxy: Option<&Uri>) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new());
        let Some(proxy) = proxy else { return Self::Straight(client.build(connector.build())) };
        let tunnel = Tunnel::new(proxy.clone(), HttpConnector::new());
        Self::Proxied(client.build(connector.wrap_connector(tunnel)))
    }

    /// Sends a body and takes an answer of at most `limit` bytes. The caller sets the time limit.
    pub(super) async fn post(&self, uri: &Uri, body: Bytes, limit: usize) -> Result<Bytes, TransportFault> {
        let request = Request::post(uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|e| TransportFault::Unreachable(e.into()))?;
        let answer = match self {
            Self::Straight(client) => client.request(request),
            Self::Proxied(client) => client.request(request),
        };
        let response = answer.await.map_err(|e| TransportFault::Unreachable(e.into()))?;
        let status = response.status();
        if !status.is_success() {
            return Err(TransportFault::Status(status.as_u16()));
        }
        let collected = Limited::new(response.into_body(), limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                TransportFault::TooLarge(limit)
            } else {
                TransportFault::Unreachable(error)
            }
        })?;
        Ok(collected.to_bytes())
    }
}
