//! One HTTP client for every endpoint: pooled connections, certificates checked, answers bounded.
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{RpcError, TransportFault};

pub(super) struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient {
    /// Trusts nobody: for endpoints without TLS.
    pub(super) fn plain() -> Self {
        Self::new(RootCertStore::empty())
    }

    /// Trusts the authorities in a PEM file.
    pub(super) fn with_tls(ca_file: &Path) -> Result<Self, RpcError> {
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
        Ok(Self::new(roots))
    }

    fn new(roots: RootCertStore) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Sends a body and takes an answer of at most `limit` bytes. The caller sets the time limit.
    pub(super) async fn post(&self, uri: &Uri, body: Bytes, limit: usize) -> Result<Bytes, TransportFault> {
        let request = Request::post(uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|e| TransportFault::Unreachable(e.into()))?;
        let response = self.0.request(request).await.map_err(|e| TransportFault::Unreachable(e.into()))?;
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
