//! The step with the network: a key of our own, one request to whoever answers for the fleet, its answer on disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet_protocol::api::Problem;
use fleet_protocol::enrol::{Answer, MESSAGE_MAX, PATH, PORT, Request, proof, token_key};
use fleet_protocol::site::{Controller, Proxy};
use http::Uri;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioExecutor;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{EnrolError, Places, get, put, read_site, shape};

/// How long one controller may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Durable on return; asks nobody when the answer is there.
pub(super) async fn ask(places: &Places, controller: Option<&str>) -> Result<(), EnrolError> {
    let answer_path = places.own("answer.json");
    let site = read_site(&places.handed("site.json"))?;
    let fleet = site.controller.as_ref().ok_or(EnrolError::NoFleet)?;
    if answer_path.exists() {
        let answer: Answer = serde_json::from_slice(&get(&answer_path)?).map_err(|error| shape(&answer_path, error))?;
        let key = Zeroizing::new(get(&places.own("device-key"))?);
        return fits(&answer, &key, fleet).map(drop);
    }
    let key = own_key(places)?;
    let serial = String::from_utf8_lossy(&get(&places.handed("serial"))?).into_owned();
    let token = Zeroizing::new(get(&places.handed("claim-token"))?);
    let request = request(&key, &serial, &token)?;
    let mut last = EnrolError::NoFleet;
    for base in addresses(fleet, controller) {
        match exchange(&base, fleet, site.proxy, &request).await {
            Ok(answer) => {
                fits(&answer, key.serialize_pem().as_bytes(), fleet)?;
                let text = serde_json::to_vec(&answer).map_err(|error| shape(&answer_path, error))?;
                return put(&answer_path, &text, 0o600);
            }
            // Another one would say the same.
            Err(refused @ EnrolError::Refused(..)) => return Err(refused),
            Err(error) => {
                tracing::warn!(reason = service::with_causes(&error), "enrolment was not answered");
                last = error;
            }
        }
    }
    Err(last)
}

/// The one that is there, or a new one: on disk before anybody hears of it.
fn own_key(places: &Places) -> Result<KeyPair, EnrolError> {
    let path = places.own("device-key");
    if path.exists() {
        let text = Zeroizing::new(get(&path)?);
        return KeyPair::from_pem(&String::from_utf8_lossy(&text)).map_err(EnrolError::Key);
    }
    let key = KeyPair::generate().map_err(EnrolError::Key)?;
    put(&path, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
    Ok(key)
}

fn request(key: &KeyPair, serial: &str, token: &[u8]) -> Result<Request, EnrolError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, serial);
    let csr = params.serialize_request(key).and_then(|csr| csr.pem()).map_err(EnrolError::Key)?;
    let key = token_key(&String::from_utf8_lossy(token));
    let proof = proof(&key, serial, &csr);
    Ok(Request { v: 1, serial: serial.to_owned(), csr, proof })
}

/// Where to ask: where we are told, else where the brokers are.
fn addresses(fleet: &Controller, controller: Option<&str>) -> Vec<String> {
    if let Some(controller) = controller {
        return vec![controller.trim_end_matches('/').to_owned()];
    }
    let mut addresses: Vec<String> = Vec::new();
    for broker in &fleet.brokers {
        let host = if broker.host.contains(':') { format!("[{}]", broker.host) } else { broker.host.clone() };
        let address = format!("https://{host}:{PORT}");
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Nothing but the fleet's own authority is trusted.
fn roots(fleet: &Controller) -> Result<RootCertStore, EnrolError> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(fleet.ca_pem.as_bytes()) {
        let authority = authority.map_err(|error| EnrolError::Authority(Box::new(error)))?;
        roots.add(authority).map_err(|error| EnrolError::Authority(Box::new(error)))?;
    }
    Ok(roots)
}

async fn exchange(
    base: &str,
    fleet: &Controller,
    proxy: Option<Proxy>,
    request: &Request,
) -> Result<Answer, EnrolError> {
    let unreachable = |why: String| EnrolError::Unreachable(base.to_owned(), why);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring supports tls 1.3")
        .with_root_certificates(roots(fleet)?)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1();
    let body = serde_json::to_vec(request).map_err(|error| unreachable(error.to_string()))?;
    let asked = http::Request::post(format!("{base}{PATH}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::from(Bytes::from(body)))
        .map_err(|error| unreachable(error.to_string()))?;
    let builder = Client::builder(TokioExecutor::new());
    let response = async {
        match proxy {
            Some(proxy) => {
                let proxy: Uri = proxy.to_string().parse().expect("an address and a port are a URI");
                let client = builder.build(connector.wrap_connector(Tunnel::new(proxy, tcp)));
                client.request(asked).await
            }
            None => builder.build::<_, Full<Bytes>>(connector.wrap_connector(tcp)).request(asked).await,
        }
    };
    let whole = async {
        let response = response.await.map_err(|error| unreachable(service::with_causes(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MESSAGE_MAX).collect().await;
        Ok::<_, EnrolError>((status, body.map_err(|error| unreachable(error.to_string()))?.to_bytes()))
    };
    let late = |_| unreachable(format!("nothing within {PATIENCE:?}"));
    let (status, body) = tokio::time::timeout(PATIENCE, whole).await.map_err(late)??;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| unreachable(error.to_string()));
    }
    let said = serde_json::from_slice::<Problem>(&body).map_or_else(|_| status.to_string(), |problem| problem.error);
    if status == http::StatusCode::FORBIDDEN {
        return Err(EnrolError::Refused(base.to_owned(), said));
    }
    Err(unreachable(said))
}

/// Whether certificate and key belong together and can be used.
fn fits(answer: &Answer, key: &[u8], fleet: &Controller) -> Result<Arc<ClientConfig>, EnrolError> {
    let foreign = |error: Box<dyn std::error::Error + Send + Sync>| EnrolError::Foreign(error);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(answer.chain.as_bytes()).collect();
    let chain = chain.map_err(|error| foreign(Box::new(error)))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| foreign(Box::new(error)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring supports tls 1.3")
        .with_root_certificates(roots(fleet)?)
        .with_client_auth_cert(chain, key)
        .map_err(|error| foreign(Box::new(error)))?;
    Ok(Arc::new(config))
}
