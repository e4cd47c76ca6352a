//! The HTTP API: JSON of `fleet_protocol::api`, and Prometheus text. Reads have a connection of their own; what is to be
//! done is asked of the ingesting thread, and answered when it is durable.

mod fleet;
mod metrics;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fleet_protocol::BoxId;
use fleet_protocol::api::{BoxList, BoxSummary, CursorRow, EventList, Health, Problem};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::asks::Asks;
use crate::ingest::{AskError, Shared};
use crate::store::{Reader, StoreError};

/// Requests read at once; more are told to come again.
const READERS: usize = 8;
/// How long a request may wait for its turn.
const TURN: Duration = Duration::from_secs(2);
/// Largest body of a request: a signed order.
const BODY: usize = 128 * 1024;
/// Rows of an events page when none are asked for.
const EVENTS: u32 = 200;

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Api {
    reader: Mutex<Reader>,
    shared: Arc<Mutex<Shared>>,
    turns: Semaphore,
    asks: Arc<Asks>,
    fleet: String,
}

impl Api {
    pub(crate) fn new(reader: Reader, shared: Arc<Mutex<Shared>>, asks: Arc<Asks>, fleet: String) -> Arc<Self> {
        Arc::new(Self { reader: Mutex::new(reader), shared, turns: Semaphore::new(READERS), asks, fleet })
    }

    /// Read from the database on a thread that may block.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let _turn = turn.ok().and_then(Result::ok).ok_or(Refusal::Busy)?;
        let api = Arc::clone(self);
        tokio::task::spawn_blocking(move || query(&api.reader.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
            .map_err(|_| Refusal::Broken)?
            .map_err(|error| {
                tracing::error!(%error, "query was not answered");
                Refusal::Broken
            })
    }

    fn shared<T>(&self, look: impl FnOnce(&Shared) -> T) -> T {
        look(&self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lay what is known live over stored rows.
    fn enliven(&self, boxes: &mut [BoxSummary]) -> bool {
        self.shared(|shared| {
            for summary in boxes {
                let view = BoxId::new(summary.id.as_str()).ok().and_then(|id| shared.boxes.get(&id));
                if let Some(view) = view {
                    summary.presence = view.presence;
                    summary.age_s = view.alive_at.map(|at| at.elapsed().as_secs_f64());
                }
            }
            shared.connected
        })
    }
}

/// Why a request was not answered.
#[derive(Debug)]
enum Refusal {
    UnknownBox,
    UnknownOrder,
    Asked(AskError),
    Busy,
    Broken,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Refusal::UnknownBox => (StatusCode::NOT_FOUND, "no box of this id is known"),
            Refusal::UnknownOrder => (StatusCode::NOT_FOUND, "no order of this id is known"),
            Refusal::Asked(error) => {
                let status = crate::asks::status(&error);
                return (status, Json(Problem { error: error.to_string() })).into_response();
            }
            Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many requests at once; try again"),
            Refusal::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "the database did not answer; see the log"),
        };
        (status, Json(Problem { error: error.to_owned() })).into_response()
    }
}

/// Every route. What changes something takes `application/json` only, which no page of another site can send.
pub(crate) fn routes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/api/boxes", get(boxes))
        .route("/api/boxes/{id}", get(one_box))
        .route("/api/events", get(events))
        .route("/api/orders", get(fleet::orders).post(fleet::carry))
        .route("/api/orders/{cid}", get(fleet::order))
        .route("/api/campaigns", get(fleet::campaigns).post(fleet::begin))
        .route("/api/campaigns/{name}/halt", post(fleet::halt))
        .route("/api/campaigns/{name}/resume", post(fleet::resume))
        .route("/api/claims", get(fleet::claims).post(fleet::claim))
        .route("/healthz", get(health))
        .route("/metrics", get(prometheus))
        .layer(axum::extract::DefaultBodyLimit::max(BODY))
        .with_state(api)
}

async fn boxes(State(api): State<Arc<Api>>) -> Result<Json<BoxList>, Refusal> {
    let mut boxes = api.read(|reader| reader.summaries(None)).await?;
    let broker_connected = api.enliven(&mut boxes);
    Ok(Json(BoxList { broker_connected, boxes }))
}

async fn one_box(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let id = BoxId::new(id).map_err(|_| Refusal::UnknownBox)?;
    let asked = id.clone();
    let mut detail = api.read(move |reader| reader.detail(asked.as_str())).await?.ok_or(Refusal::UnknownBox)?;
    api.enliven(std::slice::from_mut(&mut detail.summary));
    api.shared(|shared| {
        let Some(view) = shared.boxes.get(&id) else { return };
        for (class, acked) in &view.acked {
            let empty = CursorRow { stored: 0, acked: 0, ahead: 0 };
            detail.cursors.entry(class.letter().to_owned()).or_insert(empty).acked = *acked;
        }
        for (class, ahead) in &view.ahead {
            if let Some(row) = detail.cursors.get_mut(class.letter()) {
                row.ahead = u64::try_from(*ahead).unwrap_or(u64::MAX);
            }
        }
        detail.lost = view.lost.iter().map(|(class, lost)| ((*class).to_owned(), *lost)).collect();
    });
    Ok(Json(detail).into_response())
}

#[derive(Debug, Deserialize)]
struct EventQuery {
    #[serde(rename = "box")]
    id: Option<String>,
    #[serde(default)]
    open: bool,
    limit: Option<u32>,
}

async fn events(State(api): State<Arc<Api>>, Query(query): Query<EventQuery>) -> Result<Json<EventList>, Refusal> {
    let limit = query.limit.unwrap_or(EVENTS);
    let events = api.read(move |reader| reader.events(query.id.as_deref(), query.open, limit)).await?;
    Ok(Json(EventList { events }))
}

async fn health(State(api): State<Arc<Api>>) -> Response {
    let answers = api.read(|reader| Ok(reader.answers())).await.unwrap_or(false);
    let health = api.shared(|shared| Health {
        ok: shared.connected && shared.store_ok && answers,
        broker_connected: shared.connected,
        boxes: u64::try_from(shared.boxes.len()).unwrap_or(u64::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fleet: api.fleet.clone(),
    });
    let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn prometheus(State(api): State<Arc<Api>>) -> Result<Response, Refusal> {
    let mut boxes = api.read(|reader| reader.summaries(None)).await?;
    let connected = api.enliven(&mut boxes);
    let counters = api.shared(|shared| shared.counters);
    let text = metrics::render(&boxes, connected, counters);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
