//! `millrace fleet`: the boxes, as the controller sees them, and what they are ordered to do.
mod campaign;
mod claim;
mod order;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args as ClapArgs, Subcommand};
use fleet_protocol::api::{BoxDetail, BoxList, BoxSummary, Problem};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{self, Code, Failure, Outcome};
use crate::{table, text};

/// How long the controller may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer read.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Rows of history shown.
const ROWS: usize = 10;

/// Look at the fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List all boxes
    #[command(
        after_help = "Examples:\n  millrace fleet ls\n  millrace fleet ls --controller http://10.0.0.5:8095 --json"
    )]
    Ls {
        /// Where the controller is
        #[command(flatten)]
        controller: Controller,
    },
    /// Show one box
    #[command(after_help = "Example:\n  millrace fleet show box-0123456789abcdef")]
    Show {
        /// Its id, as `millrace fleet ls` shows it
        #[arg(value_name = "BOX")]
        id: String,
        /// Where the controller is
        #[command(flatten)]
        controller: Controller,
    },
    /// Order boxes to install a version
    #[command(after_help = order::UPDATE_EXAMPLES)]
    Update(order::UpdateArgs),
    /// Order a box to destroy its keys and leave the fleet; its hot account must be empty
    #[command(after_help = order::DECOMMISSION_EXAMPLES)]
    Decommission(order::DecommissionArgs),
    /// Add a signature to an order or a campaign that somebody else began
    #[command(after_help = "Example:\n  millrace fleet sign order.json --key bob.key")]
    Sign(order::SignArgs),
    /// Give a signed order or campaign to the controller
    #[command(after_help = "Example:\n  millrace fleet send order.json")]
    Send(order::SendArgs),
    /// Show the orders the controller carries, or one of them on every box
    #[command(
        after_help = "Examples:\n  millrace fleet orders\n  millrace fleet orders 019ab000-0000-7000-8000-000000000001 --wait"
    )]
    Orders(order::OrdersArgs),
    /// Bring a version to the whole fleet, ring after ring
    #[command(subcommand, arg_required_else_help = true)]
    Campaign(campaign::Command),
}

pub(crate) use claim::Command as ClaimCommand;
pub(crate) use claim::run as claim;

#[derive(Debug, ClapArgs)]
pub(crate) struct Controller {
    /// The controller's URL
    #[arg(long, value_name = "URL", env = "MILLRACE_CONTROLLER", default_value = "http://127.0.0.1:8095")]
    controller: Uri,
    /// Certificate authority of an https controller, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command) -> failure::Result {
    match command {
        Command::Ls { controller } => {
            let list: BoxList = controller.get("/api/boxes").await?;
            controller.show(&list, print_list)
        }
        Command::Show { id, controller } => {
            if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err(Failure::new(Code::Usage, format!("{id:?} is no box: ids look like box-0123456789abcdef")));
            }
            let detail: BoxDetail = controller.get(&format!("/api/boxes/{id}")).await?;
            controller.show(&detail, print_detail)
        }
        Command::Update(args) => order::update(args).await,
        Command::Decommission(args) => order::decommission(args).await,
        Command::Sign(args) => order::sign(&args),
        Command::Send(args) => order::send(args).await,
        Command::Orders(args) => order::orders(args).await,
        Command::Campaign(command) => campaign::run(command).await,
    }
}

impl Controller {
    fn show<T: Serialize>(&self, answer: &T, print: impl Fn(&T)) -> failure::Result {
        if self.json {
            table::json(answer)?;
        } else {
            print(answer);
        }
        Ok(Outcome::Done)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> failure::Result<T> {
        self.call(path, None).await
    }

    /// Ask for something to be done.
    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> failure::Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::from_error(Code::Software, &error))?;
        self.call(path, Some(body)).await
    }

    async fn call<T: DeserializeOwned>(&self, path: &str, body: Option<Vec<u8>>) -> failure::Result<T> {
        let base = self.controller.to_string();
        let uri = format!("{}{path}", base.trim_end_matches('/'));
        let unreachable = |why: String| {
            Failure::new(Code::Unavailable, format!("no answer from the controller at {base}: {why}"))
                .advise("is millrace-controller running there? --controller URL names another")
        };
        let usage = |error: http::Error| Failure::new(Code::Usage, format!("{uri} is no URL: {error}"));
        let asks = body.is_some();
        let request: Result<Request<Full<Bytes>>, http::Error> = match body {
            None => Request::get(&uri).body(Full::default()),
            Some(body) => Request::post(&uri)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(Full::from(Bytes::from(body))),
        };
        let request = request.map_err(usage)?;
        let client = Client::builder(TokioExecutor::new()).build(self.connector()?);
        let exchange = async {
            let response = client.request(request).await.map_err(|error| unreachable(service::with_causes(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
            Ok((status, body))
        };
        let late = |_| unreachable(format!("nothing within {PATIENCE:?}"));
        let (status, body) = tokio::time::timeout(PATIENCE, exchange).await.map_err(late)??;
        if !status.is_success() {
            let problem = serde_json::from_slice::<Problem>(&body).map(|problem| problem.error);
            let text = problem.unwrap_or_else(|_| format!("the controller answered with status {status}"));
            // What was asked for makes no sense to it, or it could not do it.
            let code = if asks && status.is_client_error() { Code::Data } else { Code::Unavailable };
            let failure = Failure::new(code, text);
            return Err(if asks { failure } else { failure.advise("`millrace fleet ls` lists the boxes it knows") });
        }
        serde_json::from_slice(&body).map_err(|error| {
            let text = format!("the controller's answer cannot be read: {error}");
            Failure::new(Code::Unavailable, text).advise("are both of the same version?")
        })
    }

    fn connector(&self) -> failure::Result<hyper_rustls::HttpsConnector<HttpConnector>> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            add_roots(&mut roots, path)?;
        } else if self.controller.scheme_str() == Some("https") {
            return Err(Failure::new(
                Code::Usage,
                "an https controller is only believed with its certificate authority",
            )
            .advise("name its file: --ca FILE"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build())
    }
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> failure::Result<()> {
    let wrong = |why: String| Failure::new(Code::NoInput, format!("cannot use {}: {why}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("it holds no certificate".to_owned())) } else { Ok(()) }
}

fn print_list(list: &BoxList) {
    if !list.broker_connected {
        println!("The controller does not hear the broker: what follows is history.\n");
    }
    let rows: Vec<_> = list.boxes.iter().map(row).collect();
    table::print(
        &["box", "presence", "seen", "mode", "health", "sessions", "segments", "real time", "alarms", "paid"],
        &rows,
    );
    println!("\n{} boxes", list.boxes.len());
}

fn row(summary: &BoxSummary) -> Vec<String> {
    let count = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let alarms = match &summary.top_alarm {
        Some(top) => format!("{} ({top})", summary.open_alarms),
        None => summary.open_alarms.to_string(),
    };
    vec![
        summary.id.clone(),
        summary.presence.key().to_owned(),
        summary.age_s.map_or_else(|| "-".to_owned(), |age| format!("{age:.0} s ago")),
        summary.mode.clone().unwrap_or_else(|| "-".to_owned()),
        summary.ok.map_or_else(|| "-".to_owned(), |ok| format!("{ok:.0}")),
        format!("{}/{}", count(summary.sessions_active), count(summary.sessions_capacity)),
        count(summary.segments_ok),
        summary.rtr_p50.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}")),
        alarms,
        summary.earnings.as_ref().map_or_else(|| "-".to_owned(), |earned| text::money(&earned.value_redeemed_wei)),
    ]
}

fn print_detail(detail: &BoxDetail) {
    let summary = &detail.summary;
    let or_empty = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    table::facts(&[
        ("box", summary.id.clone()),
        ("fleet", summary.fleet.clone()),
        ("presence", summary.presence.key().to_owned()),
        ("last proof of life", summary.age_s.map(|age| format!("{age:.0} s ago")).unwrap_or_default()),
        ("mode", summary.mode.clone().unwrap_or_default()),
        ("firmware", summary.fw.clone().unwrap_or_default()),
        ("ring", summary.ring.clone().unwrap_or_default()),
        ("decommissioned", if summary.decommissioned { "yes: its keys are gone".to_owned() } else { String::new() }),
        ("health", summary.ok.map(|ok| format!("{ok:.0} of 100")).unwrap_or_default()),
        ("segments", or_empty(summary.segments_ok)),
        ("segments failed", or_empty(summary.segments_failed)),
        ("boot", or_empty(detail.boot)),
        ("connection", or_empty(detail.connection)),
        ("epoch", detail.epoch.clone().unwrap_or_default()),
    ]);
    if let Some(earned) = &summary.earnings {
        println!();
        let row = |name: &str, count: u64, wei: &str| vec![name.to_owned(), count.to_string(), text::money(wei)];
        table::print(
            &["tickets", "number", "worth"],
            &[
                row("received", earned.tickets_received, &earned.value_received_wei),
                row("won", earned.tickets_won, &earned.value_won_wei),
                row("waiting", earned.tickets_pending, &earned.value_pending_wei),
                row("redeemed", earned.tickets_redeemed, &earned.value_redeemed_wei),
            ],
        );
    }
    for (class, last) in &detail.last {
        println!("\n{class}");
        let values: Vec<(&str, String)> = last.m.iter().map(|(key, value)| (key.as_str(), value.to_string())).collect();
        table::facts(&values);
    }
    if !detail.events.is_empty() {
        println!();
        let row = |event: &fleet_protocol::api::EventRow| {
            let state = if event.open { "open" } else { "over" };
            vec![
                event.id.clone(),
                event.sev.clone(),
                event.op.clone(),
                state.to_owned(),
                event.inst.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = detail.events.iter().take(ROWS).map(row).collect();
        table::print(&["event", "severity", "what", "state", "about"], &rows);
    }
    if !detail.presence_log.is_empty() {
        println!();
        let row = |change: &fleet_protocol::api::PresenceRow| {
            vec![change.presence.key().to_owned(), change.why.clone(), change.at_ms.to_string()]
        };
        let rows: Vec<_> = detail.presence_log.iter().take(ROWS).map(row).collect();
        table::print(&["presence", "why", "at (unix ms)"], &rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A controller that gives one answer; returns what it was asked.
    async fn controller(status: &'static str, body: &'static str) -> (Controller, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).lines().next().unwrap().to_owned()
        });
        (Controller { controller: url.parse().unwrap(), ca: None, json: false }, asked)
    }

    #[tokio::test]
    async fn boxes_are_listed_and_unknown_fields_skipped() {
        let body = r#"{"broker_connected":true,"boxes":[{"box":"box-00000000000000d0","fleet":"f","presence":"ONLINE",
            "open_alarms":0,"from_the_future":1}]}"#;
        let (controller, asked) = controller("200 OK", body).await;
        let list: BoxList = controller.get("/api/boxes").await.unwrap();
        assert_eq!(asked.await.unwrap(), "GET /api/boxes HTTP/1.1");
        assert_eq!(row(&list.boxes[0])[..2], ["box-00000000000000d0", "ONLINE"]);
    }

    #[tokio::test]
    async fn the_controllers_own_words_are_shown() {
        let (controller, _asked) = controller("404 Not Found", r#"{"error":"no box of that name"}"#).await;
        let failure = controller.get::<BoxDetail>("/api/boxes/box-1").await.unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        assert!(failure.to_string().contains("no box of that name"));
    }

    #[tokio::test]
    async fn a_controller_that_is_away_or_not_proved_is_named() {
        let at = |url: &str| Controller { controller: url.parse().unwrap(), ca: None, json: false };
        let away = at("http://127.0.0.1:1").get::<BoxList>("/api/boxes").await.unwrap_err();
        assert!(away.to_string().contains("is millrace-controller running there?"));
        let unproved = at("https://127.0.0.1:1").get::<BoxList>("/api/boxes").await.unwrap_err();
        assert_eq!(unproved.code, Code::Usage);
    }
}
