//! Walk 3, the round: sample, ask the node, judge, report, each at its period. Heartbeats are made here and only here,
//! so a box whose scheduler hangs goes silent however well its wire works.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fleet_protocol::event::{Op, Severity, id};
use fleet_protocol::payload::{EventBody, Mode};
use fleet_protocol::registry::Class;
use serde_json::json;
use service::status::{NodeStatus, read_status};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::alarms::Alarms;
use crate::clock::stamp;
use crate::collect::{Probe, Sample};
use crate::config::Config;
use crate::health::{Seen, assess};
use crate::mqtt::LinkView;
use crate::outbox::{Content, Item};
use crate::report::{self, DeadBand, LedgerBase, Purse};

/// A round begins at least this often.
pub(crate) const ROUND: Duration = Duration::from_secs(1);
/// Samples of one vitals period; older ones are forgotten.
const SAMPLES_MAX: usize = 400;
/// Failed segments are judged over this time.
const QUARTER: Duration = Duration::from_secs(15 * 60);

/// Everything a round needs and remembers.
#[derive(Debug)]
pub(crate) struct Scheduler {
    config: Config,
    probe: Arc<Probe>,
    alarms: Alarms,
    ledger: LedgerBase,
    start: Instant,
    ticks: u64,
    samples: Vec<Sample>,
    segments: VecDeque<(Duration, u64, u64)>,
    ticket_at: Duration,
    tickets: Option<u64>,
    oom_kills: Option<u64>,
    earned: Option<[u64; 4]>,
    vitals: DeadBand,
    streams: DeadBand,
    connections: u64,
    timers: Timers,
}

#[derive(Debug)]
struct Timers {
    heartbeat: Timer,
    vitals: Timer,
    streams: Timer,
    earnings: Timer,
}

/// Fires at every multiple of its period plus a phase, so that boxes do not tick together.
#[derive(Debug)]
struct Timer {
    period: Duration,
    next: Duration,
    hurried: bool,
}

impl Timer {
    fn new(seconds: u32, phase: u64) -> Self {
        let period = Duration::from_secs(seconds.into());
        let offset = Duration::from_millis(phase % (u64::from(seconds) * 1000).max(1));
        Self { period, next: offset, hurried: false }
    }

    fn due(&mut self, now: Duration) -> bool {
        let hurried = std::mem::take(&mut self.hurried);
        if now < self.next {
            return hurried;
        }
        while self.next <= now {
            self.next += self.period;
        }
        true
    }

    /// Report at once, and then as always.
    fn hurry(&mut self) {
        self.hurried = true;
    }
}

/// The collector cannot hand its items on: the link task is gone.
#[derive(Debug, thiserror::Error)]
#[error("the link task ended")]
pub(crate) struct LinkGone;

impl Scheduler {
    pub(crate) fn new(config: Config, ledger: LedgerBase) -> Self {
        let phase = phase(config.box_id.as_str());
        let periods = &config.periods;
        let timers = Timers {
            heartbeat: Timer::new(periods.heartbeat_s, phase),
            vitals: Timer::new(periods.vitals_s, phase),
            streams: Timer::new(periods.streams_s, phase),
            earnings: Timer::new(periods.earnings_s, phase),
        };
        Self {
            probe: Arc::new(Probe::new(&config.state_dir)),
            config,
            alarms: Alarms::default(),
            ledger,
            start: Instant::now(),
            ticks: 0,
            samples: Vec::new(),
            segments: VecDeque::new(),
            ticket_at: Duration::ZERO,
            tickets: None,
            oom_kills: None,
            earned: None,
            vitals: DeadBand::default(),
            streams: DeadBand::default(),
            connections: 0,
            timers,
        }
    }

    /// Run rounds until cancelled.
    pub(crate) async fn run(
        mut self,
        items: mpsc::Sender<Item>,
        view: watch::Receiver<LinkView>,
        mode: watch::Sender<Mode>,
        purse: watch::Sender<Purse>,
        heartbeat: service::Heartbeat,
    ) -> Result<std::convert::Infallible, LinkGone> {
        let mut rounds = tokio::time::interval(ROUND.min(Duration::from_secs(self.config.periods.heartbeat_s.into())));
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            rounds.tick().await;
            let probe = Arc::clone(&self.probe);
            let sample = tokio::task::spawn_blocking(move || probe.sample()).await.unwrap_or_default();
            let answer = read_status(&self.config.node_status).await;
            if let Err(error) = &answer {
                tracing::debug!(%error, "node gave no status");
            }
            let node = answer.ok();
            let link = *view.borrow();
            mode.send_if_modified(|mode| std::mem::replace(mode, report::mode(node.as_ref())) != *mode);
            purse.send_replace(report::purse(node.as_ref()));
            for content in self.round(sample, node.as_ref(), link, self.start.elapsed()) {
                items.send(Item { stamp: stamp(), content }).await.map_err(|_| LinkGone)?;
            }
            heartbeat.beat();
        }
    }

    /// One round: what to send. Pure but for its memory.
    fn round(&mut self, sample: Sample, node: Option<&NodeStatus>, link: LinkView, now: Duration) -> Vec<Content> {
        self.ticks += 1;
        let mut out = Vec::new();
        if link.connections != self.connections {
            // The other side may know nothing yet: everything whole, soon.
            self.connections = link.connections;
            (self.vitals, self.streams) = (DeadBand::default(), DeadBand::default());
            self.timers.heartbeat.hurry();
            self.timers.vitals.hurry();
            self.timers.streams.hurry();
        }
        self.note_work(node, now);
        let seen = Seen {
            sample: &sample,
            node,
            without_ticket: now.saturating_sub(self.ticket_at),
            recent_segments: self.recent_segments(),
            tq: stamp().tq,
            spool_percent: link.spool_percent,
            ledger_percent: link.ledger_percent,
        };
        let report = assess(&seen, &self.config.limits);
        out.extend(self.occurrences(&sample));
        out.extend(self.alarms.step(report.findings, now).into_iter().map(Content::Event));
        self.samples.push(sample);
        if self.samples.len() > SAMPLES_MAX {
            self.samples.remove(0);
        }
        if let Some(node) = node {
            out.extend(self.money(node, now));
            if self.timers.streams.due(now) {
                let metrics = self.streams.pick(report::streams(node));
                out.extend((!metrics.is_empty()).then_some(Content::Live(Class::Streams, metrics)));
            }
        }
        if self.timers.vitals.due(now) {
            let metrics = self.vitals.pick(report::vitals(&self.samples, node));
            self.samples.clear();
            out.extend((!metrics.is_empty()).then_some(Content::Live(Class::Vitals, metrics)));
        }
        if self.timers.heartbeat.due(now) {
            let open = self.alarms.open();
            let metrics = report::heartbeat(report.score, &open, node, self.ticks, link.spool_percent);
            out.push(Content::Live(Class::Heartbeat, metrics));
        }
        out
    }

    /// Earnings at their period and whenever a ticket won, was redeemed or failed, or the round changed; a ledger step
    /// whenever its counters moved.
    fn money(&mut self, node: &NodeStatus, now: Duration) -> Vec<Content> {
        let mut out = Vec::new();
        let earnings = report::earnings(node);
        let l1_block = node.chain.as_ref().map_or(0, |chain| chain.l1_block);
        if let Some(step) = self.ledger.step(&earnings, l1_block) {
            self.ledger.follow(&step);
            out.push(Content::Ledger(step));
        }
        let money = &node.money;
        let round = node.chain.as_ref().map_or(0, |chain| chain.round);
        let marks = [money.tickets_won, money.tickets_redeemed, money.redemption_failures, round];
        let moved = self.earned.replace(marks).is_some_and(|before| before != marks);
        if self.timers.earnings.due(now) || moved {
            out.push(Content::Earnings(earnings));
        }
        out
    }

    fn note_work(&mut self, node: Option<&NodeStatus>, now: Duration) {
        let Some(node) = node else { return };
        let tickets = node.money.tickets_received;
        if self.tickets.replace(tickets) != Some(tickets) || node.sessions.active == 0 {
            self.ticket_at = now;
        }
        let (ok, failed) = (node.segments.ok, node.segments.failed);
        if self.segments.back().is_some_and(|(_, was_ok, was_failed)| ok < *was_ok || failed < *was_failed) {
            // The node started anew and counts from zero.
            self.segments.clear();
        }
        self.segments.push_back((now, ok, failed));
        while self.segments.front().is_some_and(|(at, ..)| now.saturating_sub(*at) > QUARTER) {
            self.segments.pop_front();
        }
    }

    fn recent_segments(&self) -> (u64, u64) {
        match (self.segments.front(), self.segments.back()) {
            (Some((_, ok, failed)), Some((_, now_ok, now_failed))) => {
                (now_ok.saturating_sub(*ok), now_failed.saturating_sub(*failed))
            }
            _ => (0, 0),
        }
    }

    /// Things that happened rather than hold.
    fn occurrences(&mut self, sample: &Sample) -> Option<Content> {
        let kills = sample.oom_kills?;
        let before = self.oom_kills.replace(kills)?;
        (kills > before).then(|| {
            Content::Event(EventBody {
                val: Some(json!(kills)),
                cnt: Some(kills - before),
                ..EventBody::new(id::MEM_OOM, Op::Occur, Severity::Err)
            })
        })
    }
}

/// Where in a period this box reports: the same after every restart, spread evenly over boxes.
fn phase(box_id: &str) -> u64 {
    u64::from(crc32fast::hash(box_id.as_bytes()))
}

#[cfg(test)]
mod tests {
    use service::status::Money;

    use super::*;
    use crate::config::EXAMPLE;

    fn scheduler() -> Scheduler {
        Scheduler::new(Config::parse(EXAMPLE).unwrap(), LedgerBase::default())
    }

    fn node(won: u64) -> NodeStatus {
        let money =
            Money { tickets_won: won, won_wei: (won * 1000).to_string(), paid_wei: "0".into(), ..Money::default() };
        NodeStatus { mode: "run".into(), money, ..NodeStatus::default() }
    }

    fn kinds(contents: &[Content]) -> Vec<&'static str> {
        contents
            .iter()
            .map(|content| match content {
                Content::Live(class, _) => class.key(),
                Content::Event(_) => "event",
                Content::Earnings(_) => "earn",
                Content::Ledger(_) => "led",
            })
            .collect()
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_timer_keeps_its_phase_and_fires_once_per_period() {
        let mut timer = Timer::new(60, 12_500);
        let fired: Vec<u64> = (0..200).filter(|s| timer.due(secs(*s))).collect();
        assert_eq!(fired, [13, 73, 133, 193]);
        timer.hurry();
        assert!(timer.due(secs(200)) && !timer.due(secs(201)));
    }

    #[test]
    fn every_step_of_money_is_a_ledger_record_and_an_earnings_snapshot() {
        let mut scheduler = scheduler();
        let mut round = |at, won| {
            let out = scheduler.round(Sample::default(), Some(&node(won)), LinkView::default(), secs(at));
            kinds(&out).into_iter().filter(|kind| matches!(*kind, "earn" | "led")).collect::<Vec<_>>()
        };
        round(10_000, 0);
        assert_eq!(round(10_001, 0), Vec::<&str>::new());
        assert_eq!(round(10_002, 1), ["led", "earn"]);
        assert_eq!(round(10_003, 1), Vec::<&str>::new());
    }

    #[test]
    fn money_won_before_the_first_look_is_a_step_and_not_forgotten() {
        let out = scheduler().round(Sample::default(), Some(&node(3)), LinkView::default(), secs(1));
        assert!(kinds(&out).contains(&"led"));
    }

    #[test]
    fn a_new_connection_gets_everything_whole_at_once() {
        let mut scheduler = scheduler();
        let sample = || Sample { uptime_s: Some(5), ..Sample::default() };
        scheduler.round(sample(), Some(&node(0)), LinkView::default(), secs(10_000));
        let quiet = scheduler.round(sample(), Some(&node(0)), LinkView::default(), secs(10_001));
        assert!(quiet.is_empty(), "{quiet:?}");
        let view = LinkView { connections: 1, ..LinkView::default() };
        let out = scheduler.round(sample(), Some(&node(0)), view, secs(10_002));
        assert_eq!(kinds(&out), ["str", "vit", "hb"]);
    }

    #[test]
    fn a_silent_node_is_reported_after_its_grace_and_again_when_it_answers() {
        let mut scheduler = scheduler();
        let mut events = |at, node: Option<&NodeStatus>| {
            let out = scheduler.round(Sample::default(), node, LinkView::default(), secs(at));
            out.into_iter()
                .filter_map(|content| match content {
                    Content::Event(body) => Some((body.id, body.op)),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(events(0, None), []);
        assert_eq!(events(30, None), [(id::NODE_DOWN.to_owned(), Op::Raise)]);
        assert_eq!(events(31, Some(&node(0))), [(id::NODE_DOWN.to_owned(), Op::Clear)]);
    }

    #[test]
    fn no_ticket_is_counted_from_the_last_ticket_or_idle_moment() {
        let mut scheduler = scheduler();
        let mut busy = node(0);
        busy.sessions.active = 1;
        scheduler.round(Sample::default(), Some(&busy), LinkView::default(), secs(100));
        scheduler.round(Sample::default(), Some(&busy), LinkView::default(), secs(500));
        assert_eq!(scheduler.ticket_at, secs(100));
        busy.money.tickets_received = 1;
        scheduler.round(Sample::default(), Some(&busy), LinkView::default(), secs(600));
        assert_eq!(scheduler.ticket_at, secs(600));
    }

    #[test]
    fn boxes_report_at_different_moments() {
        assert_ne!(phase("box-0000000000000000") % 60_000, phase("box-0000000000000001") % 60_000);
    }
}
