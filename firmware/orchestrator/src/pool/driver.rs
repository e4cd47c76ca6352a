//! The one task that owns the workers: it starts them, gives each session one, and cleans up after those
//! that do not come back.
//!
//! A request is a function elsewhere; here it is a line in a session's queue until its worker has answered,
//! its second worker has been lost too, or its deadline has passed. Nothing waits without a deadline.
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sandbox::launch::Interrupter;
use sandbox::memfd::Sealed;
use sandbox::message::{Done, Job, Limits};
use service::RestartState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::spawn::{self, Assignment, Hand, News, WorkerId};
use super::state::{Action, Event, JobId, Phase, WorkerState};
use super::{
    Ended, Order, Output, PoolConfig, PoolStatus, SESSION_QUEUE, TranscodeError, TranscodeRequest, Transcoded,
};

mod staff;

/// News of workers that wait for the driver; each worker has at most a few under way.
const NEWS: usize = 64;
/// Times a segment is tried.
const TRIES: u32 = 2;
/// Longest pause of the driver.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Why the pool ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Workers do not start; a person must act.
    #[error("workers do not start, the last one for: {last}")]
    GaveUp {
        /// Why the last one did not.
        last: String,
    },
}

/// What a request is answered with.
type Answer = Result<Transcoded, TranscodeError>;

/// A request that is not answered yet.
#[derive(Debug)]
struct Pending {
    session: String,
    request: TranscodeRequest,
    segment: Arc<Sealed>,
    arrived: Instant,
    deadline: Instant,
    tries: u32,
    reply: oneshot::Sender<Answer>,
}

#[derive(Debug, Default)]
struct Session {
    worker: Option<WorkerId>,
    waiting: VecDeque<JobId>,
    running: Option<JobId>,
    ended: bool,
}

#[derive(Debug)]
struct Member {
    state: WorkerState,
    /// Dropped to let the thread go.
    hand: Option<Hand>,
    interrupter: Option<Interrupter>,
    session: Option<String>,
    /// The job whose answer is to come.
    job: Option<JobId>,
}

/// Owns the workers; see [`Driver::run`].
#[derive(Debug)]
pub struct Driver {
    config: PoolConfig,
    inbox: mpsc::Receiver<Order>,
    ended: Arc<Ended>,
    publish: watch::Sender<PoolStatus>,
    news: mpsc::Receiver<(WorkerId, News)>,
    newsroom: mpsc::Sender<(WorkerId, News)>,
    workers: BTreeMap<WorkerId, Member>,
    sessions: HashMap<String, Session>,
    pending: BTreeMap<JobId, Pending>,
    next: u64,
    /// To be sent with the next status.
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    status: PoolStatus,
    restart: RestartState,
    rng: StdRng,
    epoch: Instant,
    /// No worker is started before this.
    start_after: Instant,
    stopping: bool,
}

impl Driver {
    pub(super) fn new(
        config: PoolConfig,
        inbox: mpsc::Receiver<Order>,
        ended: Arc<Ended>,
        publish: watch::Sender<PoolStatus>,
    ) -> Self {
        let (newsroom, news) = mpsc::channel(NEWS);
        let now = Instant::now();
        Self {
            restart: RestartState::new(config.restart),
            config,
            inbox,
            ended,
            publish,
            news,
            newsroom,
            workers: BTreeMap::new(),
            sessions: HashMap::new(),
            pending: BTreeMap::new(),
            next: 1,
            answers: Vec::new(),
            status: PoolStatus::default(),
            // Only spreads retries over time.
            rng: StdRng::seed_from_u64(u64::from(std::process::id())),
            epoch: now,
            start_after: now,
            stopping: false,
        }
    }

    /// Runs until `stop`; then finishes the segments in hand (each under its own deadline), refuses all
    /// others, and ends the workers.
    ///
    /// # Errors
    /// [`PoolError::GaveUp`] when workers keep failing to start; the process should end.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PoolError> {
        self.write_registry().await;
        loop {
            self.move_on()?;
            if self.stopping && self.pending.is_empty() {
                break;
            }
            let wake = self.next_wake();
            tokio::select! {
                // Each arm only takes from a queue or waits, so that losing the race loses nothing.
                Some(order) = self.inbox.recv(), if !self.stopping => self.take(order),
                Some((id, news)) = self.news.recv() => self.hear(id, news)?,
                () = self.ended.news.notified() => self.forget_sessions(),
                () = tokio::time::sleep_until(wake) => self.tick()?,
                () = stop.cancelled(), if !self.stopping => self.begin_stop(),
            }
        }
        self.end_workers().await;
        Ok(())
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Puts a request in its session's queue, or turns it away.
    fn take(&mut self, order: Order) {
        let known = self.sessions.contains_key(&order.session);
        if !known && self.sessions.len() >= self.config.sessions {
            return self.turn_away(order.reply);
        }
        let queued = self.sessions.get(&order.session).map_or(0, |session| session.waiting.len());
        if queued >= SESSION_QUEUE {
            return self.turn_away(order.reply);
        }
        let job = self.number();
        let deadline = order.arrived + order.request.deadline;
        let segment = match order.request.segment.try_clone() {
            Ok(segment) => Arc::new(segment),
            Err(error) => {
                let cause = spawn::with_sources(&error);
                self.answers.push((order.reply, Err(TranscodeError::WorkerLost { cause })));
                return;
            }
        };
        let pending = Pending {
            session: order.session.clone(),
            request: order.request,
            segment,
            arrived: order.arrived,
            deadline,
            tries: 0,
            reply: order.reply,
        };
        self.pending.insert(job, pending);
        let session = self.sessions.entry(order.session).or_default();
        session.ended = false;
        session.waiting.push_back(job);
    }

    fn turn_away(&mut self, reply: oneshot::Sender<Answer>) {
        self.status.turned_away += 1;
        self.answers.push((reply, Err(TranscodeError::Busy)));
    }

    /// Takes in what a worker's thread says.
    fn hear(&mut self, id: WorkerId, news: News) -> Result<(), PoolError> {
        match news {
            News::Started { pid, interrupter } => {
                tracing::debug!(worker = pid, "worker started");
                let Some(member) = self.workers.get_mut(&id) else { return Ok(()) };
                if member.state.phase() == Phase::Dead {
                    interrupter.interrupt();
                }
                member.interrupter = Some(interrupter);
                Ok(())
            }
            News::Ready(ready) => {
                tracing::info!(
                    worker = id,
                    engine = ready.engine,
                    proved = ready.proved.join(" "),
                    layers = ready.layers.join(" "),
                    "worker ready"
                );
                for (layer, reason) in &ready.missing_layers {
                    tracing::warn!(worker = id, layer, reason, "worker's jail lacks a layer");
                }
                self.status.proved = Some(*ready);
                self.act(id, Event::Ready, None)
            }
            News::Answered { job, memory, answer } => self.act(id, Event::Answered { job, memory }, Some(answer)),
            News::Gone { cause, timed_out } => {
                let expected = self.workers.get(&id).is_none_or(|member| member.state.phase() == Phase::Dead);
                if !expected {
                    tracing::warn!(worker = id, reason = cause, "worker lost");
                    self.status.last_loss = Some(cause);
                    if timed_out && let Some(job) = self.workers.get(&id).and_then(|member| member.job) {
                        self.finish(job, Err(TranscodeError::Timeout));
                    }
                }
                let acted = self.act(id, Event::Died, None);
                self.workers.remove(&id);
                acted
            }
        }
    }

    /// Steps one worker and obeys.
    fn act(&mut self, id: WorkerId, event: Event, mut answered: Option<spawn::Answered>) -> Result<(), PoolError> {
        let now = self.now();
        let Some(member) = self.workers.get_mut(&id) else { return Ok(()) };
        for action in member.state.step(event, now) {
            match action {
                Action::Run(job) => self.give(id, job),
                Action::Refuse(job) => self.put_back(job),
                Action::Accept(job) => {
                    self.release(id);
                    if let Some(answered) = answered.take() {
                        self.deliver(job, answered);
                    }
                }
                Action::Lose(job) => {
                    self.status.lost += 1;
                    self.release(id);
                    self.part(id);
                    self.lose(job);
                }
                Action::Expire(job) => {
                    self.status.lost += 1;
                    self.status.last_loss = Some("did not answer within its deadline".to_owned());
                    self.release(id);
                    self.finish(job, Err(TranscodeError::Timeout));
                }
                Action::GiveUpStart => self.start_failed()?,
                Action::Kill => self.kill(id),
                Action::Recycled => self.status.recycled += 1,
            }
        }
        Ok(())
    }

    /// Parts a worker from its session, which gets another when it needs one.
    fn part(&mut self, id: WorkerId) {
        let name = self.workers.get_mut(&id).and_then(|member| member.session.take());
        if let Some(session) = name.and_then(|name| self.sessions.get_mut(&name))
            && session.worker == Some(id)
        {
            session.worker = None;
        }
    }

    /// The worker has no job any more, nor has its session.
    fn release(&mut self, id: WorkerId) {
        let Some(member) = self.workers.get_mut(&id) else { return };
        let job = member.job.take();
        if let Some(session) = member.session.as_ref().and_then(|name| self.sessions.get_mut(name))
            && session.running == job
        {
            session.running = None;
        }
    }

    /// Gives the job to its worker's thread.
    fn give(&mut self, id: WorkerId, job: JobId) {
        let busy = self.workers.values().filter(|member| is_at_work(&member.state)).count().max(1);
        let threads = u32::try_from((self.config.threads / busy).max(1)).unwrap_or(u32::MAX);
        let Some(pending) = self.pending.get_mut(&job) else { return };
        pending.tries += 1;
        let left = pending.deadline.saturating_duration_since(Instant::now());
        let request = &pending.request;
        let order = Job {
            id: job,
            profiles: request.profiles.clone(),
            clip: request.clip,
            limits: Limits {
                max_output_bytes: request.max_output_bytes,
                max_duration_ms: request.max_duration_ms,
                deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            },
            threads,
            service_provider: request.service_provider.clone(),
        };
        let assignment = Assignment { job: order, segment: Arc::clone(&pending.segment), deadline: left };
        if let Some(member) = self.workers.get_mut(&id) {
            member.job = Some(job);
            // When its thread is gone, it says so in the news, and the job is lost there.
            let given = member.hand.as_ref().is_some_and(|hand| hand.give(assignment));
            tracing::debug!(worker = id, job, given, threads, "segment given to worker");
        }
    }

    /// A job that its worker could not take goes back to the front of its session's queue.
    fn put_back(&mut self, job: JobId) {
        let Some(pending) = self.pending.get(&job) else { return };
        if let Some(session) = self.sessions.get_mut(&pending.session) {
            if session.running == Some(job) {
                session.running = None;
            }
            session.waiting.push_front(job);
        }
    }

    /// Tries a lost job once more, on a fresh worker.
    fn lose(&mut self, job: JobId) {
        let Some(pending) = self.pending.get(&job) else { return };
        let cause = self.status.last_loss.clone().unwrap_or_default();
        if pending.tries >= TRIES {
            self.finish(job, Err(TranscodeError::WorkerLost { cause }));
        } else if self.stopping {
            self.finish(job, Err(TranscodeError::Stopped));
        } else {
            self.put_back(job);
        }
    }

    /// Hands a worker's answer on. The report has been checked against the job already.
    fn deliver(&mut self, job: JobId, answered: spawn::Answered) {
        let Some(arrived) = self.pending.get(&job).map(|pending| pending.arrived) else { return };
        let result = match answered {
            Ok((done, media)) => transcoded(done, &media, arrived.elapsed()),
            Err((error, detail)) => {
                tracing::info!(job, reason = %error, detail, "segment refused by worker");
                Err(TranscodeError::Job(error))
            }
        };
        self.finish(job, result);
    }

    /// Answers a request and forgets it.
    fn finish(&mut self, job: JobId, result: Result<Transcoded, TranscodeError>) {
        let Some(pending) = self.pending.remove(&job) else { return };
        if let Some(session) = self.sessions.get_mut(&pending.session) {
            session.waiting.retain(|waiting| *waiting != job);
            if session.running == Some(job) {
                session.running = None;
            }
        }
        match &result {
            Ok(_) => self.status.done += 1,
            Err(TranscodeError::Job(_)) => self.status.refused += 1,
            Err(_) => {}
        }
        self.answers.push((pending.reply, result));
    }

    /// Lets workers be looked at whose time is up, and requests whose deadline passed while they waited.
    fn tick(&mut self) -> Result<(), PoolError> {
        let due: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in due {
            self.act(id, Event::Tick, None)?;
        }
        let now = Instant::now();
        let running: Vec<JobId> = self.sessions.values().filter_map(|session| session.running).collect();
        let late =
            |(job, pending): (&JobId, &Pending)| (pending.deadline <= now && !running.contains(job)).then_some(*job);
        for job in self.pending.iter().filter_map(late).collect::<Vec<_>>() {
            self.finish(job, Err(TranscodeError::Timeout));
        }
        Ok(())
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let workers = self.workers.values().filter_map(|member| member.state.due()).map(|due| self.epoch + due);
        let requests = self.pending.values().map(|pending| pending.deadline);
        // Only a moment to come is worth waking for; at the moment itself everybody gets an answer.
        let start = (self.start_after > now).then_some(self.start_after);
        workers.chain(requests).chain(start).min().unwrap_or(now + LONGEST_SLEEP)
    }

    /// Takes the sessions that ended off the list.
    fn forget_sessions(&mut self) {
        let ended = std::mem::take(&mut *self.ended.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        for name in ended {
            if let Some(session) = self.sessions.get_mut(&name) {
                session.ended = true;
            }
        }
    }

    /// Everything that follows from what changed: sessions that are over, jobs that can run, workers to start.
    fn move_on(&mut self) -> Result<(), PoolError> {
        self.drop_unwanted();
        self.close_sessions()?;
        self.assign_jobs()?;
        self.start_workers();
        self.publish();
        Ok(())
    }

    /// Requests nobody waits for any more need not run.
    fn drop_unwanted(&mut self) {
        let waiting: Vec<JobId> = self.sessions.values().flat_map(|session| session.waiting.iter().copied()).collect();
        for job in waiting {
            if self.pending.get(&job).is_none_or(|pending| pending.reply.is_closed()) {
                self.finish(job, Err(TranscodeError::Timeout));
            }
        }
    }

    fn close_sessions(&mut self) -> Result<(), PoolError> {
        let is_over = |session: &Session| session.ended && session.running.is_none() && session.waiting.is_empty();
        let over: Vec<String> =
            self.sessions.iter().filter(|(_, s)| is_over(s)).map(|(name, _)| name.clone()).collect();
        for name in over {
            // A worker never serves a second session: nothing of one customer is left for the next.
            if let Some(id) = self.sessions.remove(&name).and_then(|session| session.worker) {
                self.act(id, Event::Drain, None)?;
            }
        }
        Ok(())
    }

    fn assign_jobs(&mut self) -> Result<(), PoolError> {
        let wanting = |session: &Session| session.running.is_none() && !session.waiting.is_empty();
        let mut names: Vec<String> =
            self.sessions.iter().filter(|(_, s)| wanting(s)).map(|(name, _)| name.clone()).collect();
        // Whoever has waited longest comes first.
        names.sort_by_key(|name| self.sessions.get(name).and_then(|session| session.waiting.front().copied()));
        for name in names {
            let own = self.sessions.get(&name).and_then(|session| session.worker);
            let Some(id) = own.or_else(|| self.idle_worker()) else { continue };
            let ready = self.workers.get(&id).is_some_and(|member| member.state.phase() == Phase::Ready);
            let Some(session) = self.sessions.get_mut(&name).filter(|_| ready) else { continue };
            let Some(job) = session.waiting.pop_front() else { continue };
            session.worker = Some(id);
            session.running = Some(job);
            if let Some(member) = self.workers.get_mut(&id) {
                member.session = Some(name);
            }
            let deadline = self.pending.get(&job).map_or(self.epoch, |pending| pending.deadline);
            self.act(id, Event::Assign { job, deadline: deadline.saturating_duration_since(self.epoch) }, None)?;
        }
        Ok(())
    }

    /// Shows what happened, and only then answers those to whom it happened.
    fn publish(&mut self) {
        let count = |wanted: fn(&Phase) -> bool| self.workers.values().filter(|m| wanted(&m.state.phase())).count();
        self.status.starting = count(|phase| matches!(phase, Phase::Starting));
        self.status.ready = count(|phase| matches!(phase, Phase::Ready));
        self.status.busy = count(|phase| matches!(phase, Phase::Busy { .. } | Phase::Draining { .. }));
        self.status.sessions = self.sessions.len();
        self.publish.send_if_modified(|status| {
            let changed = *status != self.status;
            if changed {
                status.clone_from(&self.status);
            }
            changed
        });
        for (reply, result) in self.answers.drain(..) {
            // A request that was given up wants no answer.
            let _ = reply.send(result);
        }
    }

    /// Takes nothing new, and lets go of what has not begun.
    fn begin_stop(&mut self) {
        self.stopping = true;
        self.inbox.close();
        let running: Vec<JobId> = self.sessions.values().filter_map(|session| session.running).collect();
        let waiting: Vec<JobId> = self.pending.keys().copied().filter(|job| !running.contains(job)).collect();
        for job in waiting {
            self.finish(job, Err(TranscodeError::Stopped));
        }
    }
}

fn is_at_work(state: &WorkerState) -> bool {
    matches!(state.phase(), Phase::Busy { .. } | Phase::Draining { .. })
}

/// A checked report and its renditions as a result, without copying the media.
fn transcoded(done: Done, media: &[Sealed], took: Duration) -> Result<Transcoded, TranscodeError> {
    let lost = |error| TranscodeError::WorkerLost { cause: spawn::with_sources(&error) };
    let outputs = done.renditions.into_iter().zip(media).map(|(rendition, media)| {
        let media = Bytes::from_owner(media.map()?);
        Ok(Output { rendition, media })
    });
    Ok(Transcoded {
        renditions: outputs.collect::<Result<_, sandbox::memfd::MemfdError>>().map_err(lost)?,
        decoded_frames: done.decoded_frames,
        decoded_pixels: done.decoded_pixels,
        duration: Duration::from_millis(done.duration_ms),
        took,
        cpu: Duration::from_millis(done.cpu_ms),
    })
}
