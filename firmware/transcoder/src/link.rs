//! The connection to one orchestrator: dial, register, listen, and again.
//!
//! Walk 5, step 1.
//!
//! ```text
//!              preferred ones            no word of
//!              tried in vain             refusal for 3 s
//!   Standby ───────────────► Connecting ────────────────► Attached
//!      ▲                         │                          │  │
//!      │  wait (1 s … 60 s)      │ failed                   │  │ a preferred one has us: listen no more,
//!      └──────── Waiting ◄───────┴───────────◄──────────────┘  │ finish what is in hand
//!      └──────── Refused (5 min) ◄── wrong secret …            ▼
//!                                                           Standby
//! ```
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use livepeer::wire::{capabilities_to_wire, net};
use orchestrator::info::VERSION;
use orchestrator::pool::{SESSION_QUEUE, Transcoder};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Endpoint;

use self::generated::transcoder_client::TranscoderClient;
use crate::backoff::Backoff;
use crate::board::{Board, State};
use crate::config::Address;
use crate::job::Bench;
use crate::tls::{self, Trust};

#[expect(unreachable_pub, reason = "generated from livepeer.proto")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/net.rs"));
}

/// How long a connection may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// A stock orchestrator says nothing until it has a segment: who was not refused for so long is taken.
const SETTLED: Duration = Duration::from_secs(3);
/// A connection that lasted for so long was a good one.
const LASTED: Duration = Duration::from_secs(60);
/// How long an orchestrator that refused us is left alone, give or take a fifth: a person must act there, or here.
const REFUSED: Duration = Duration::from_secs(300);
/// Seldom enough for Go's servers; TCP is asked more often.
const PING: Duration = Duration::from_secs(300);
/// How long a ping may be without an answer.
const PONG: Duration = Duration::from_secs(20);
/// Largest notice.
const MAX_NOTICE: usize = 256 << 10;
/// Notices served at the same time beyond what the sessions can queue: refusals, mostly.
const SPARE: usize = 16;

/// One orchestrator of the list.
pub(crate) struct Link<T> {
    pub(crate) address: Address,
    pub(crate) trust: Trust,
    pub(crate) capacity: usize,
    pub(crate) bench: Arc<Bench<T>>,
    pub(crate) board: Board,
    /// Segments in hand, of all orchestrators.
    pub(crate) work: TaskTracker,
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// We are stopping.
    Stopping,
    /// A preferred orchestrator has us.
    Outranked,
    /// It broke, or never came to be.
    Lost(String),
    /// The orchestrator does not want us.
    Refused(String),
}

impl<T: Transcoder> Link<T> {
    /// Keeps the connection until we stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (rank, address) = (self.bench.rank, self.address.to_string());
        let (mut backoff, mut rng) = (Backoff::default(), StdRng::from_entropy());
        loop {
            self.board.set(rank, State::Standby, None);
            tokio::select! {
                () = self.board.my_turn(rank) => {}
                () = stop.cancelled() => return,
            }
            self.board.set(rank, State::Connecting, None);
            let began = Instant::now();
            let end = tokio::select! {
                end = self.attach() => end,
                () = self.board.outranked(rank) => End::Outranked,
                () = stop.cancelled() => End::Stopping,
            };
            self.leave_sessions();
            if began.elapsed() >= LASTED {
                backoff.reset();
            }
            let pause = match end {
                End::Stopping => return,
                End::Outranked => {
                    tracing::info!(orchestrator = address, "left for a preferred orchestrator");
                    continue;
                }
                End::Lost(reason) => {
                    let pause = backoff.wait(&mut rng);
                    tracing::warn!(orchestrator = address, reason, again_in = ?pause, "not attached");
                    self.board.set(rank, State::Waiting, Some(reason));
                    pause
                }
                End::Refused(reason) => {
                    let pause = REFUSED.mul_f64(rng.gen_range(0.8..=1.2));
                    tracing::error!(orchestrator = address, reason, again_in = ?pause, "orchestrator does not take us");
                    self.board.set(rank, State::Refused, Some(reason));
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn attach(&self) -> End {
        let mut client = match self.connect().await {
            Ok(client) => client,
            Err(reason) => return End::Lost(reason),
        };
        let can = crate::job::with_the_orchestrators_own(&(self.bench.can)());
        let request = net::RegisterRequest {
            secret: String::from_utf8_lossy(self.bench.secret.expose()).into_owned(),
            capacity: i64::try_from(self.capacity).unwrap_or(i64::MAX),
            capabilities: Some(capabilities_to_wire(&can, VERSION)),
        };
        // Neither silence nor the stream's beginning is a yes: stock sends nothing before the first segment, others send
        // the beginning before the refusal.
        let mut listening = pin!(async {
            let mut notices = client.register_transcoder(request).await?.into_inner();
            let first = notices.message().await?;
            Ok((notices, first))
        });
        let early = tokio::time::timeout(SETTLED, listening.as_mut()).await;
        if let Ok(Err(status)) = &early {
            return refused(status);
        }
        tracing::info!(orchestrator = %self.address, capacity = self.capacity, "attached");
        self.board.set(self.bench.rank, State::Attached, None);
        let listened = match early {
            Ok(listened) => listened,
            Err(_) => listening.await,
        };
        let (mut notices, mut next) = match listened {
            Ok(listened) => listened,
            Err(status) => return refused(&status),
        };
        let hands = Arc::new(Semaphore::new(self.capacity.saturating_mul(SESSION_QUEUE + 1).saturating_add(SPARE)));
        while let Some(notice) = next {
            if notice.url.is_empty() {
                self.end_session(&notice);
            } else {
                // Who has no hand free reads no notice: flow control holds the orchestrator back.
                let hand = Arc::clone(&hands).acquire_owned().await.expect("the semaphore is never closed");
                let (bench, board) = (Arc::clone(&self.bench), self.board.clone());
                self.work.spawn(async move {
                    let _hand = hand;
                    let ok = bench.serve(notice).await;
                    board.count(bench.rank, ok);
                });
            }
            next = match notices.message().await {
                Ok(next) => next,
                Err(status) => return refused(&status),
            };
        }
        End::Lost("the orchestrator ended the connection".to_owned())
    }

    async fn connect(&self) -> Result<TranscoderClient<tonic::transport::Channel>, String> {
        let uri = format!("https://{}", self.address).parse::<http::Uri>().map_err(|error| error.to_string())?;
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true);
        let connecting = endpoint.connect_with_connector(tls::http2(self.trust.clone()));
        let channel =
            tokio::time::timeout(CONNECT, connecting).await.map_err(|_| "no connection in time".to_owned())?;
        let channel = channel.map_err(|error| service::with_causes(&error))?;
        Ok(TranscoderClient::new(channel).max_decoding_message_size(MAX_NOTICE))
    }

    fn end_session(&self, notice: &net::NotifySegment) {
        let token = notice.seg_data.as_ref().and_then(|data| data.auth_token.as_ref());
        if let Some(token) = token {
            let ended = self.bench.session_name(&token.session_id);
            self.bench.sessions.close(|name| name == ended);
        }
    }

    /// Whoever has us next knows nothing of these sessions.
    fn leave_sessions(&self) {
        let ours = self.bench.session_name("");
        self.bench.sessions.close(|name| name.starts_with(&ours));
    }
}

/// What a refusal means: words on which a person must act, or trouble on the way.
fn refused(status: &tonic::Status) -> End {
    let text = reason_of(status);
    let for_a_person = ["invalid secret", "zero capacity", "takes no remote transcoders", "unknown service"];
    if for_a_person.iter().any(|words| text.contains(words)) { End::Refused(text) } else { End::Lost(text) }
}

fn reason_of(status: &tonic::Status) -> String {
    let text: String = status.message().chars().filter(|c| !c.is_control()).take(200).collect();
    let cause = std::error::Error::source(status).map(service::with_causes).filter(|cause| !cause.contains(&text));
    match cause {
        Some(cause) => format!("{text}: {cause}"),
        None if text.is_empty() => status.code().to_string(),
        None => text,
    }
}
