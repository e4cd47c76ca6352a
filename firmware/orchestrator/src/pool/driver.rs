//! The one task that owns the workers: it starts them, gives each session one, and cleans up after those
//! that do not come back.
//!
//! A request is a function elsewhere; here it is a line in a session's queue until its worker has answered,
//! its second worker has been lost too, or its deadline has passed. Nothing waits without a deadline.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use livepeer::units::Pixels;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sandbox::launch::Interrupter;
use sandbox::memfd::Sealed;
use sandbox::message::{Done, Job, JobError, Limits, Signatures};
use service::RestartState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::engine::proved;
use super::schedule::{Schedule, Ticket};
use super::spawn::{self, Assignment, Hand, News, WorkerId};
use super::state::{Action, Event, JobId, Phase, WorkerState};
use super::{Ended, Order, Output, Parallel, PoolConfig, PoolStatus, TranscodeError, TranscodeRequest, Transcoded};
use crate::admission::load::{Load, Spent, work};
use crate::engines::Selected;

mod engine;
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
    /// Threads that its job's encoders may use.
    threads: u32,
    /// What it encodes with.
    engine: Arc<str>,
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
    schedule: Schedule,
    /// How much may run at a time, as things stand; see [`super::Pool::set_parallel`].
    parallel: watch::Receiver<Parallel>,
    load: Load,
    pending: BTreeMap<JobId, Pending>,
    next: u64,
    /// To be sent with the next status.
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    status: PoolStatus,
    /// What new workers encode with, and the choice of something better that is under way.
    selected: Selected,
    proving: Option<JoinHandle<Selected>>,
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
        parallel: watch::Receiver<Parallel>,
        load: Load,
    ) -> Self {
        let (newsroom, news) = mpsc::channel(NEWS);
        let now = Instant::now();
        Self {
            restart: RestartState::new(config.restart),
            selected: Selected::as_launched(&config.launch),
            proving: None,
            schedule: Schedule::new(config.parallel),
            parallel,
            load,
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
        self.look_at_hardware().await;
        self.write_registry().await;
        self.choose_engine(&stop).await;
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
                Ok(()) = self.parallel.changed() => self.widen(),
                selected = proved(&mut self.proving) => self.change_engine(selected),
                () = tokio::time::sleep_until(wake) => self.tick()?,
                () = stop.cancelled(), if !self.stopping => self.begin_stop(),
            }
        }
        self.end_workers().await;
        Ok(())
    }

    /// How much may run at a time has changed.
    fn widen(&mut self) {
        let parallel = *self.parallel.borrow_and_update();
        tracing::info!(slots = parallel.slots, threads = parallel.threads, "pool resized");
        self.schedule.set_parallel(parallel);
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
        let job = self.number();
        let deadline = order.arrived + order.request.deadline;
        let segment = match order.request.segment.try_clone() {
            Ok(segment) => Arc::new(segment),
            Err(error) => {
                let cause = service::with_causes(&error);
                self.answers.push((order.reply, Err(TranscodeError::WorkerLost { cause })));
                return;
            }
        };
        let ticket = Ticket {
            job,
            deadline: deadline.saturating_duration_since(self.epoch),
            least: self.load.least(&order.session, content(&order.request)),
        };
        if self.schedule.push(&order.session, ticket).is_err() {
            return self.turn_away(order.reply);
        }
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
        self.sessions.entry(order.session).or_default().ended = false;
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
            News::Ready { ready, warmed_up } => {
                if let Some(spent) = warmed_up {
                    tracing::debug!(worker = id, wall_ms = spent.wall.as_millis(), "worker warmed up");
                    self.load.warmed_up(&spent, self.config.parallel.threads, self.config.parallel.slots);
                }
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
                self.hear_framework(&ready.framework);
                self.status.proved = Some(*ready);
                self.act(id, Event::Ready, None)
            }
            News::Answered { job, memory, cpu, wall, answer } => {
                self.account(job, cpu, wall, &answer);
                // A device that lost its mind says so job by job; the stream's own faults have other words.
                let sick = matches!(&answer, Err((JobError::Internal, _)));
                if let Err((JobError::Internal, detail)) = &answer {
                    tracing::warn!(worker = id, job, detail, "worker failed, it is replaced");
                    self.status.last_loss = Some(detail.clone());
                }
                self.act(id, Event::Answered { job, memory, sick }, Some(answer))
            }
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

    /// What a finished segment took says how fast the box is, and what its session asks for.
    fn account(&mut self, job: JobId, cpu: Duration, wall: Duration, answer: &spawn::Answered) {
        let (Some(pending), Ok((done, _))) = (self.pending.get(&job), answer) else { return };
        let encoded = done.renditions.iter().fold(0u64, |sum, rendition| sum.saturating_add(rendition.pixels.0));
        let spent = Spent {
            work: work(Pixels(encoded), done.decoded_pixels),
            cpu,
            wall,
            content: Duration::from_millis(done.duration_ms),
        };
        let Parallel { threads, slots } = self.config.parallel;
        self.load.finished(&pending.session, &spent, threads, slots);
    }

    /// Steps one worker and obeys.
    fn act(&mut self, id: WorkerId, event: Event, mut answered: Option<spawn::Answered>) -> Result<(), PoolError> {
        let now = self.now();
        let Some(member) = self.workers.get_mut(&id) else { return Ok(()) };
        for action in member.state.step(event, now) {
            match action {
                Action::Run(job) => {
                    let threads = self.workers.get(&id).map_or(1, |member| member.threads);
                    self.give(id, job, threads);
                }
                Action::Refuse(job) => self.put_back(job),
                Action::Accept(job) => {
                    self.release(id);
                    if let Some(answered) = answered.take() {
                        self.deliver(job, answered);
                    }
                }
                Action::Lose(job) => {
                    self.status.lost += 1;
                    self.doubt_engine(id);
                    self.release(id);
                    self.part(id);
                    self.lose(job);
                }
                Action::Expire(job) => {
                    self.status.lost += 1;
                    self.status.last_loss = Some("did not answer within its deadline".to_owned());
                    self.doubt_engine(id);
                    self.release(id);
                    self.finish(job, Err(TranscodeError::Timeout));
                }
                Action::GiveUpStart if self.give_up_engine(id) => {}
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

    /// The worker has no job any more.
    fn release(&mut self, id: WorkerId) {
        if let Some(member) = self.workers.get_mut(&id) {
            member.job = None;
        }
    }

    /// Gives the job to its worker's thread.
    fn give(&mut self, id: WorkerId, job: JobId, threads: u32) {
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
            signatures: if request.signatures { Signatures::Renditions } else { Signatures::None },
            video_seen: request.origin.video_seen,
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
        self.schedule.put_back(job);
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
        self.schedule.end(job);
        match &result {
            Ok(_) => self.status.done += 1,
            Err(TranscodeError::Job(_)) => self.status.refused += 1,
            Err(_) => {}
        }
        self.answers.push((pending.reply, result));
    }

    /// Lets workers be looked at whose time is up, and requests whose deadline passed while they waited.
    fn tick(&mut self) -> Result<(), PoolError> {
        self.try_better_engine();
        let due: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in due {
            self.act(id, Event::Tick, None)?;
        }
        for job in self.schedule.hopeless(self.now()) {
            let late = self.pending.get(&job).is_none_or(|pending| pending.deadline <= Instant::now());
            if late {
                self.finish(job, Err(TranscodeError::Timeout));
            } else {
                // Told while there is time to go elsewhere.
                self.status.dropped += 1;
                tracing::warn!(job, "segment dropped: it cannot be done in time any more");
                self.finish(job, Err(TranscodeError::Busy));
            }
        }
        Ok(())
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let workers = self.workers.values().filter_map(|member| member.state.due()).map(|due| self.epoch + due);
        let requests = self.schedule.due().map(|due| self.epoch + due);
        // Only a moment to come is worth waking for; at the moment itself everybody gets an answer.
        let start = (self.start_after > now).then_some(self.start_after);
        workers.chain(requests).chain(start).chain(self.engine_due()).min().unwrap_or(now + LONGEST_SLEEP)
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
        for job in self.schedule.waiting().collect::<Vec<_>>() {
            if self.pending.get(&job).is_none_or(|pending| pending.reply.is_closed()) {
                self.finish(job, Err(TranscodeError::Timeout));
            }
        }
    }

    fn close_sessions(&mut self) -> Result<(), PoolError> {
        let ended = self.sessions.iter().filter(|(_, session)| session.ended);
        for name in ended.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if !self.schedule.close(&name) {
                continue;
            }
            // A worker never serves a second session: nothing of one customer is left for the next.
            if let Some(id) = self.sessions.remove(&name).and_then(|session| session.worker) {
                self.act(id, Event::Drain, None)?;
            }
        }
        Ok(())
    }

    fn assign_jobs(&mut self) -> Result<(), PoolError> {
        loop {
            let idle = self.idle_worker();
            let worker_of = |name: &str| {
                let own = self.sessions.get(name).and_then(|session| session.worker);
                let id = own.or(idle)?;
                self.workers.get(&id).filter(|member| member.state.phase() == Phase::Ready).map(|_| id)
            };
            let Some(start) = self.schedule.next(|name| worker_of(name).is_some()) else { return Ok(()) };
            let Some(id) = worker_of(&start.session) else { return Ok(()) };
            if let Some(session) = self.sessions.get_mut(&start.session) {
                session.worker = Some(id);
            }
            if let Some(member) = self.workers.get_mut(&id) {
                member.session = Some(start.session);
                member.threads = start.threads;
            }
            let deadline = self.pending.get(&start.job).map_or(self.epoch, |pending| pending.deadline);
            let deadline = deadline.saturating_duration_since(self.epoch);
            self.act(id, Event::Assign { job: start.job, deadline }, None)?;
        }
    }

    /// Shows what happened, and only then answers those to whom it happened.
    fn publish(&mut self) {
        let count = |wanted: fn(&Phase) -> bool| self.workers.values().filter(|m| wanted(&m.state.phase())).count();
        self.status.starting = count(|phase| matches!(phase, Phase::Starting));
        self.status.ready = count(|phase| matches!(phase, Phase::Ready));
        self.status.busy = count(|phase| matches!(phase, Phase::Busy { .. } | Phase::Draining { .. }));
        self.status.sessions = self.sessions.len();
        self.status.waiting = self.schedule.waiting().count();
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
        self.stop_proving();
        self.inbox.close();
        for job in self.schedule.waiting().collect::<Vec<_>>() {
            self.finish(job, Err(TranscodeError::Stopped));
        }
    }
}

/// Length of the content that is to be transcoded, as far as anybody said.
fn content(request: &TranscodeRequest) -> Duration {
    let clip = request.clip.map(|clip| Duration::from_millis(clip.to_ms.saturating_sub(clip.from_ms)));
    clip.map_or(request.origin.duration, |clip| clip.min(request.origin.duration))
}

/// A checked report and its renditions as a result, without copying the media.
fn transcoded(done: Done, media: &[Sealed], took: Duration) -> Result<Transcoded, TranscodeError> {
    let lost = |error| TranscodeError::WorkerLost { cause: service::with_causes(&error) };
    // The signatures, where there are any, come behind the renditions.
    let signatures = media.get(done.renditions.len()..).unwrap_or_default();
    let outputs = done.renditions.into_iter().zip(media).enumerate().map(|(index, (rendition, media))| {
        let signature = signatures.get(index).filter(|signature| !signature.is_empty());
        let signature = signature.map(Sealed::map).transpose()?.map(Bytes::from_owner);
        Ok(Output { rendition, media: Bytes::from_owner(media.map()?), signature })
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
