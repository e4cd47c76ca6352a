//! Orders, campaigns and claims: what is carried, how far it is, who may come.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use fleet_protocol::api::{
    Campaign as Shown, CampaignList, CampaignRing, Claim, ClaimList, NewClaim, Order, OrderBox, OrderList,
};
use fleet_protocol::campaign::pacer::{self, Counts};
use fleet_protocol::campaign::{Campaign, Pace};
use fleet_protocol::command::Command;
use serde::Deserialize;
use serde_json::Value;

use super::{Api, Refusal};
use crate::ingest::{Ask, Told};
use crate::store::{Reader, StoreError, StoredCampaign, StoredOrder};

/// Answers shown of a campaign.
const ANSWERS_MAX: usize = 1000;
/// Failed boxes shown of a campaign.
const FAILED_MAX: usize = 100;

type Shared = State<Arc<Api>>;

impl Api {
    async fn ask(&self, ask: Ask) -> Result<Told, Refusal> {
        self.asks.ask(ask).await.map_err(Refusal::Asked)
    }

    async fn order(self: &Arc<Self>, cid: String) -> Result<Order, Refusal> {
        let mut found = self.read(move |reader| show_orders(reader, Some(&cid))).await?;
        found.pop().ok_or(Refusal::UnknownOrder)
    }

    async fn campaign(self: &Arc<Self>, name: String) -> Result<Shown, Refusal> {
        let shown = self.read(|reader| show_campaigns(reader, wall_ms())).await?;
        shown.into_iter().find(|shown| shown.name == name).ok_or(Refusal::Broken)
    }
}

pub(super) async fn orders(State(api): Shared) -> Result<Json<OrderList>, Refusal> {
    Ok(Json(OrderList { orders: api.read(|reader| show_orders(reader, None)).await? }))
}

pub(super) async fn order(State(api): Shared, Path(cid): Path<String>) -> Result<Json<Order>, Refusal> {
    Ok(Json(api.order(cid).await?))
}

pub(super) async fn carry(
    State(api): Shared,
    Json(envelope): Json<Value>,
) -> Result<(StatusCode, Json<Order>), Refusal> {
    let Told::Order(cid) = api.ask(Ask::Order(envelope.to_string().into_bytes())).await? else {
        return Err(Refusal::Broken);
    };
    Ok((StatusCode::ACCEPTED, Json(api.order(cid).await?)))
}

pub(super) async fn campaigns(State(api): Shared) -> Result<Json<CampaignList>, Refusal> {
    let campaigns = api.read(|reader| show_campaigns(reader, wall_ms())).await?;
    let pacer = api.shared(|shared| shared.pacer.clone());
    Ok(Json(CampaignList { pacer, campaigns }))
}

pub(super) async fn begin(
    State(api): Shared,
    Json(envelope): Json<Value>,
) -> Result<(StatusCode, Json<Shown>), Refusal> {
    let Told::Campaign(name) = api.ask(Ask::Campaign(envelope.to_string().into_bytes())).await? else {
        return Err(Refusal::Broken);
    };
    Ok((StatusCode::ACCEPTED, Json(api.campaign(name).await?)))
}

/// Body of a halt.
#[derive(Debug, Deserialize)]
pub(super) struct Why {
    #[serde(default)]
    why: Option<String>,
}

pub(super) async fn halt(
    State(api): Shared,
    Path(name): Path<String>,
    Json(why): Json<Why>,
) -> Result<Json<Shown>, Refusal> {
    let halt = Some(why.why.unwrap_or_else(|| "halted by hand".to_owned()));
    api.ask(Ask::Pace { name: name.clone(), halt }).await?;
    Ok(Json(api.campaign(name).await?))
}

pub(super) async fn resume(
    State(api): Shared,
    Path(name): Path<String>,
    Json(_): Json<Why>,
) -> Result<Json<Shown>, Refusal> {
    api.ask(Ask::Pace { name: name.clone(), halt: None }).await?;
    Ok(Json(api.campaign(name).await?))
}

pub(super) async fn claims(State(api): Shared) -> Result<Json<ClaimList>, Refusal> {
    Ok(Json(ClaimList { claims: api.read(Reader::claims).await? }))
}

pub(super) async fn claim(State(api): Shared, Json(wanted): Json<NewClaim>) -> Result<Json<Claim>, Refusal> {
    match api.ask(Ask::Claim(wanted)).await? {
        Told::Claim(claim) => Ok(Json(claim)),
        Told::Order(_) | Told::Campaign(_) | Told::Enrolled(_) => Err(Refusal::Broken),
    }
}

fn show_orders(reader: &Reader, only: Option<&str>) -> Result<Vec<Order>, StoreError> {
    let mut shown = Vec::new();
    for (cid, at_ms, envelope) in reader.orders(only)? as Vec<StoredOrder> {
        let Ok(command) = Command::unverified(&envelope) else { continue };
        let boxes = reader.standings(&cid)?;
        let Command { op, by, exp, args, why, .. } = command;
        shown.push(Order { cid, op, by: by.to_string(), at_ms, exp_ms: exp, args, why, boxes });
    }
    Ok(shown)
}

fn show_campaigns(reader: &Reader, now_ms: i64) -> Result<Vec<Shown>, StoreError> {
    let mut shown = Vec::new();
    for (at_ms, plan, pace, state) in reader.campaigns()? as Vec<StoredCampaign> {
        let (Ok(plan), Ok(pace)) = (Campaign::unverified(&plan), serde_json::from_str::<Pace>(&pace)) else { continue };
        let known = reader.known(&plan.cid)?;
        let rings = pacer::tally(&plan, &pace, &known, now_ms);
        let rings = plan.rings.iter().zip(rings).enumerate().map(|(index, (ring, tally))| CampaignRing {
            name: ring.name.to_string(),
            opened_ms: pace.opened.get(index).copied(),
            boxes: tally.boxes(),
            waiting: tally.waiting,
            running: tally.running,
            done: tally.done,
            failed: tally.failed,
            absent: tally.absent,
        });
        let rings = rings.collect();
        let answers = reader.standings(&plan.cid)?;
        let failed = known.iter().filter(|known| pacer::counts(&plan, &pace, known, now_ms) == Counts::Failed);
        let failed = failed.take(FAILED_MAX).map(|known| {
            let answer = answers.iter().find(|answer| answer.id == known.id.as_str());
            answer.cloned().unwrap_or_else(|| OrderBox {
                id: known.id.to_string(),
                st: "silent".to_owned(),
                pct: None,
                code: None,
                reason: None,
                at_ms: known.seen_ms.unwrap_or(0),
            })
        });
        let failed = failed.collect();
        shown.push(Shown {
            name: plan.name.to_string(),
            cid: plan.cid.clone(),
            version: plan.version.to_string(),
            state,
            why: pace.why.clone(),
            at_ms,
            exp_ms: plan.exp,
            rings,
            failed,
            answers: answers.into_iter().take(ANSWERS_MAX).collect(),
        });
    }
    Ok(shown)
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
