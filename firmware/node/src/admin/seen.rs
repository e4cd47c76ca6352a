//! Questions about the node.
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use orchestrator::info::VERSION;
use orchestrator::prices::Today;
use serde::Serialize;
use service::status::NodeStatus;

use super::{Admin, Answer, Refusal, json, plain};
use crate::metrics::{self, Beside};

/// `/status` as the stock node tells it, and our own status below `Millrace`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status<'a> {
    /// Streams with playlists, which only a gateway has.
    manifests: BTreeMap<String, ()>,
    internal_manifests: BTreeMap<String, ()>,
    stream_info: BTreeMap<String, ()>,
    /// Orchestrators a gateway works with.
    orchestrator_pool: [String; 0],
    orchestrator_pool_infos: Option<()>,
    version: &'static str,
    /// There is none; the stock command line shows what stands here.
    golang_runtime_version: &'static str,
    #[serde(rename = "GOArch")]
    arch: &'static str,
    #[serde(rename = "GOOS")]
    os: &'static str,
    registered_transcoders_number: usize,
    registered_transcoders: Vec<Registered<'a>>,
    local_transcoding: bool,
    broadcaster_prices: BTreeMap<String, String>,
    millrace: &'a NodeStatus,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Registered<'a> {
    address: &'a str,
    capacity: u32,
}

pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Answer {
    let status = admin.status.borrow().clone();
    let boxes = status.transcoders.iter();
    json(&Status {
        manifests: BTreeMap::new(),
        internal_manifests: BTreeMap::new(),
        stream_info: BTreeMap::new(),
        orchestrator_pool: [],
        orchestrator_pool_infos: None,
        version: VERSION,
        golang_runtime_version: "none",
        arch: architecture(),
        os: std::env::consts::OS,
        registered_transcoders_number: status.transcoders.len(),
        registered_transcoders: boxes.map(|one| Registered { address: &one.address, capacity: one.capacity }).collect(),
        local_transcoding: true,
        broadcaster_prices: admin.base_prices(),
        millrace: &status,
    })
}

/// The architecture in the words of the stock node.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Admin {
    /// The prices before overhead, as fractions of wei per pixel: of single gateways by address, of all others under
    /// `default`.
    fn base_prices(&self) -> BTreeMap<String, String> {
        let Some(till) = self.node.as_ref().and_then(|node| node.till()) else { return BTreeMap::new() };
        let prices = till.prices();
        let own = prices.gateways().into_iter().map(|gateway| (gateway.to_string().to_lowercase(), gateway));
        let all = own.chain([("default".to_owned(), livepeer::address::Address::NULL)]);
        all.filter_map(|(name, gateway)| Some((name, fraction(prices.of(gateway).ok()?)))).collect()
    }

    /// What is asked of gateways without a price of their own, before overhead.
    pub(super) fn base_price(&self) -> Option<String> {
        let till = self.node.as_ref()?.till()?;
        till.prices().of(livepeer::address::Address::NULL).ok().map(fraction)
    }
}

/// A price as a fraction: `1200` or `7/2`.
fn fraction(today: Today) -> String {
    match today.base.parts() {
        (wei, 1) => wei.to_string(),
        (wei, pixels) => format!("{wei}/{pixels}"),
    }
}

pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Answer {
    let beside = admin.chain.as_ref().map_or_else(Beside::default, |chain| {
        let bounds = chain.broker.gas_bounds();
        Beside {
            endpoints: chain.broker.endpoints(),
            gas_bounds: Some((bounds.min.to_string(), bounds.max.map(|max| max.to_string()))),
        }
    });
    let status = admin.status.borrow().clone();
    let text = metrics::text(&admin.origin, &status, &beside, &admin.measures);
    let text = text.map_err(|error| Refusal::fault(&error))?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Does the node take newcomers, with nothing critically wrong? 200, or 503 with the reasons.
pub(super) async fn healthz(State(admin): State<Arc<Admin>>) -> Response {
    let status = admin.status.borrow();
    let mode = (status.mode != "run").then(|| format!("mode: {}", status.mode));
    let critical = status.alarms.iter().filter(|alarm| alarm.severity == "crit");
    let wrong: Vec<String> = mode.into_iter().chain(critical.map(|one| format!("{}: {}", one.id, one.text))).collect();
    match wrong.is_empty() {
        true => "ok\n".into_response(),
        false => Refusal(StatusCode::SERVICE_UNAVAILABLE, wrong.join("\n")).into_response(),
    }
}

/// Always empty, as on a stock orchestrator: only gateways have streams of their own.
pub(super) async fn local_streams() -> Answer {
    json(&[(); 0])
}

pub(super) async fn is_orchestrator(State(admin): State<Arc<Admin>>) -> Answer {
    plain(admin.node.is_some())
}

/// An orchestrator redeems its own tickets; a redeemer is a node that does nothing else.
pub(super) async fn is_redeemer() -> Answer {
    plain(false)
}

pub(super) async fn log_level() -> Answer {
    plain(service::log_filter())
}

/// The chain's id; 0 off-chain.
pub(super) async fn chain_id(State(admin): State<Arc<Admin>>) -> Answer {
    plain(admin.chain.as_ref().map_or(0, |chain| chain.broker.config().chain_id))
}
