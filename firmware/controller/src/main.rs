//! `millrace-controller`: the reference fleet controller. Hears boxes over MQTT, keeps what they say, tells them what
//! is kept, and answers over HTTP. Never signs an order.

mod asks;
mod config;
mod cursor;
mod enrol;
mod http;
mod ingest;
mod limit;
mod mqtt;
mod store;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use service::{Exit, ExitReason, Heartbeats, Shutdown};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use asks::Asks;
use config::Config;
use ingest::{Ingest, Issuer, Keys, Pacer, Shared};
use mqtt::Wire;
use store::{Reader, Store};

/// Messages on their way to the broker; more are dropped, all of them are said again later.
const OUTPUTS: usize = 1024;
/// A task that does not beat for this long hangs.
const HANG: Duration = Duration::from_secs(120);
/// The wire may take this long to say goodbye.
const DRAIN: Duration = Duration::from_secs(8);

/// Keep a fleet of boxes in view: ingest, store, answer.
#[derive(Debug, Parser)]
#[command(name = "millrace-controller", version, after_long_help = config::EXAMPLE)]
struct Arguments {
    /// Configuration file, TOML; `--help` shows every key.
    #[arg(long, default_value = "/etc/millrace/controller.toml")]
    config: PathBuf,
    /// Check the configuration and the TLS files, then exit.
    #[arg(long)]
    check: bool,
}

fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            let _ = error.print();
            return if usage { Exit::because(ExitReason::Usage, "called wrongly") } else { Exit::stopped() };
        }
    };
    service::init_crypto();
    service::init_journal("millrace-controller");
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => return Exit::because(ExitReason::Config, error),
    };
    let tls = match config.tls.client_config() {
        Ok(tls) => tls,
        Err(error) => return Exit::because(ExitReason::Config, error),
    };
    let keys = match keys(&config) {
        Ok(keys) => keys,
        Err(error) => return Exit::because(ExitReason::Config, error),
    };
    if arguments.check {
        tracing::info!(path = %arguments.config.display(), "configuration is valid");
        return Exit::stopped();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config, tls, keys)),
        Err(error) => Exit::because(ExitReason::Software, error),
    }
}

/// A key of the controller's own cannot be used.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(transparent)]
    Pacer(#[from] ingest::PacerError),
    #[error(transparent)]
    Issuer(#[from] ingest::IssuerError),
}

/// The two keys that are this program's own: neither signs an order.
fn keys(config: &Config) -> Result<Keys, KeyError> {
    let pacer = config.campaigns.pacer_key.as_deref().map(Pacer::read).transpose()?;
    let issuer = config.enrol.as_ref().map(Issuer::read).transpose()?;
    Ok(Keys { pacer, issuer })
}

async fn run(config: Config, tls: Arc<rustls::ClientConfig>, keys: Keys) -> Exit {
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return Exit::because(ExitReason::Software, error),
    };
    let opened = Store::open(&config.database).and_then(|store| Ok((store, Reader::open(&config.database)?)));
    let (store, reader) = match opened {
        Ok(opened) => opened,
        Err(error) => return Exit::because(ExitReason::Unavailable, error),
    };
    let listener = match TcpListener::bind(config.listen).await {
        Ok(listener) => listener,
        Err(error) => return Exit::because(ExitReason::Unavailable, error),
    };
    if !config.listen.ip().is_loopback() {
        tracing::warn!(listen = %config.listen, "the api has no access control and is not on loopback");
    }
    let shared = Arc::new(Mutex::new(Shared::default()));
    let (outputs, to_wire) = mpsc::channel(OUTPUTS);
    let (inputs, from_wire) = std::sync::mpsc::sync_channel(ingest::QUEUE);
    let ingest = match Ingest::new(config.clone(), store, keys, outputs, Arc::clone(&shared)) {
        Ok(ingest) => ingest,
        Err(error) => return Exit::because(ExitReason::Unavailable, error),
    };
    let (ended, mut ingest_ended) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("ingest".to_owned()).spawn(move || {
        // Dropped when the thread ends, however it ends.
        let _ended = ended;
        ingest.run(&from_wire);
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => return Exit::because(ExitReason::Software, error),
    };
    let address = listener.local_addr().unwrap_or(config.listen);
    tracing::info!(%address, fleet = %config.fleet, "controller started");

    let beats = Arc::new(Heartbeats::default());
    let beat = beats.register("wire", HANG);
    let asks = Arc::new(Asks::new(inputs.clone()));
    let endpoint = match &config.enrol {
        Some(enrol) => match enrol::Endpoint::open(enrol).await {
            Ok(endpoint) => Some(endpoint),
            Err(error) => return Exit::because(ExitReason::Unavailable, error),
        },
        None => None,
    };
    let enrolling = endpoint.map(|endpoint| tokio::spawn(endpoint.run(Arc::clone(&asks))));
    let fleet = config.fleet.to_string();
    let mut wire = tokio::spawn(Wire::new(config, tls, inputs).run(to_wire, beat, shutdown.token()));
    let api = http::routes(http::Api::new(reader, shared, Arc::clone(&asks), fleet));
    let mut api = tokio::spawn(async move { axum::serve(listener, api).await });
    service::notify_ready();

    let exit = tokio::select! {
        biased;
        () = shutdown.requested() => None,
        ended = &mut wire => Some(match ended {
            Ok(Ok(())) => Exit::because(ExitReason::Software, "the wire ended"),
            Ok(Err(error)) => Exit::because(ExitReason::Software, error),
            Err(error) => Exit::because(ExitReason::Software, error),
        }),
        ended = &mut api => Some(match ended {
            Ok(Ok(())) => Exit::because(ExitReason::Software, "the api ended"),
            Ok(Err(error)) => Exit::because(ExitReason::Software, error),
            Err(error) => Exit::because(ExitReason::Software, error),
        }),
        _ = &mut ingest_ended => Some(Exit::because(ExitReason::Software, "the ingesting thread ended")),
        () = beats.feed_watchdog() => Some(Exit::because(ExitReason::Software, "the watchdog feeder ended")),
    };
    service::notify_stopping();
    api.abort();
    if let Some(enrolling) = enrolling {
        enrolling.abort();
    }
    asks.close();
    if exit.is_none() && tokio::time::timeout(DRAIN, &mut wire).await.is_err() {
        tracing::warn!("broker did not take our leave in time");
    }
    // The wire holds the last sender: with it gone the thread commits what it has and ends.
    wire.abort();
    let deadline = tokio::time::Instant::now() + DRAIN;
    while !thread.is_finished() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ingested = if thread.is_finished() { thread.join().is_ok() } else { false };
    match exit {
        Some(exit) => exit,
        None if ingested => Exit::stopped(),
        None => Exit::because(ExitReason::Software, "the ingesting thread did not end well"),
    }
}
