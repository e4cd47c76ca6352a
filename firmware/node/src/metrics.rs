//! The node's numbers for Prometheus: the status, in the names that the network's dashboards know (`livepeer_…`) and in
//! ours (`millrace_…`), and the distributions of the work.
//!
//! Nothing is counted here. What the status counts since start, or since the ledger began, is a counter; the rest are
//! gauges. A name without a value at the moment, such as the temperature of a card that is not there, is declared only.
//!
//! *Source:* livepeer-wire §11.4.
use std::cell::RefCell;
use std::collections::HashMap;

use chain::EndpointHealth;
use orchestrator::info::VERSION;
use orchestrator::status::measures::Measures;
use prometheus::core::Collector;
use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Opts, Registry, TextEncoder};
use service::status::{Chain, Gpu, Hardware, Money, NodeStatus};

/// Wei of a gwei, in which the network's dashboards count money.
const GWEI: f64 = 1e9;
/// Wei of an ether.
const ETHER: f64 = 1e18;

/// What every number is labelled with.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// `orch` or `trcr`.
    pub(crate) node_type: &'static str,
    /// The machine's name.
    pub(crate) node_id: String,
    /// Who is paid; none off-chain.
    pub(crate) orchestrator: Option<String>,
}

impl Origin {
    /// This machine in a role.
    pub(crate) fn here(node_type: &'static str, orchestrator: Option<String>) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { node_type, node_id: name.trim().to_owned(), orchestrator }
    }
}

/// What the status does not tell.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// The RPC endpoints.
    pub(crate) endpoints: Vec<EndpointHealth>,
    /// The least and the most paid for gas, in wei as decimal text.
    pub(crate) gas_bounds: Option<(String, Option<String>)>,
}

/// All numbers, as Prometheus reads them.
///
/// # Errors
/// Never while names and labels are well formed, which a test shows.
pub(crate) fn text(
    origin: &Origin,
    status: &NodeStatus,
    beside: &Beside,
    measures: &Measures,
) -> Result<String, prometheus::Error> {
    let mut labels = HashMap::from([
        ("node_type".to_owned(), origin.node_type.to_owned()),
        ("node_id".to_owned(), origin.node_id.clone()),
    ]);
    if let Some(orchestrator) = &origin.orchestrator {
        labels.insert("orchestrator".to_owned(), orchestrator.clone());
    }
    let sheet = Sheet { registry: Registry::new_custom(None, Some(labels))?, bare: RefCell::default() };
    for histogram in measures.all() {
        sheet.add(histogram)?;
    }
    node(&sheet, status)?;
    sessions(&sheet, status)?;
    work(&sheet, status, measures)?;
    workers(&sheet, status)?;
    if let Some(hardware) = &status.hardware {
        self::hardware(&sheet, hardware)?;
    }
    if let Some(chain) = &status.chain {
        money(&sheet, &status.money)?;
        self::chain(&sheet, chain, beside)?;
        prices(&sheet, status)?;
    }
    let mut text = TextEncoder::new().encode_to_string(&sheet.registry.gather())?;
    text.push_str(&sheet.bare.into_inner());
    Ok(text)
}

fn node(sheet: &Sheet, status: &NodeStatus) -> Outcome {
    sheet.gauges(
        "livepeer_versions",
        "The version whose behaviour the node has, and its own",
        &["livepeerversion", "version", "goos"],
        [(vec![VERSION, &status.version, std::env::consts::OS], 1.0)],
    )?;
    sheet.gauge("millrace_uptime_seconds", "Since the program started", status.uptime_s as f64)?;
    let modes = ["starting", "run", "drain"].map(|mode| (vec![mode], flag(status.mode == mode)));
    sheet.gauges("millrace_mode", "1 for the mode the node is in", &["mode"], modes)?;
    let alarms = status.alarms.iter().map(|alarm| {
        let labels = vec![alarm.id.as_str(), alarm.severity.as_str(), alarm.instance.as_str()];
        (labels, 1.0)
    });
    sheet.gauges("millrace_alarm", "Open alarms", &["id", "severity", "instance"], alarms)?;
    sheet.gauge("millrace_alarms", "How many alarms are open", status.alarms.len() as f64)?;
    let links = status.orchestrators.iter().map(|link| (vec![link.address.as_str()], flag(link.state == "attached")));
    sheet.gauges("millrace_orchestrator_attached", "Does this orchestrator have us?", &["address"], links)
}

fn sessions(sheet: &Sheet, status: &NodeStatus) -> Outcome {
    let sessions = &status.sessions;
    sheet.gauge("livepeer_max_sessions_total", "Sessions the node takes", sessions.capacity.into())?;
    sheet.gauge("livepeer_current_sessions_total", "Sessions that are open", sessions.active.into())?;
    sheet.counter("livepeer_stream_started_total", "Sessions that were opened", sessions.started as f64)?;
    sheet.counter("livepeer_stream_ended_total", "Sessions that ended", sessions.ended as f64)?;
    sheet.counter("millrace_sessions_refused_total", "Sessions turned away", sessions.refused as f64)?;
    let boxes = &status.transcoders;
    let capacity: u32 = boxes.iter().map(|one| one.capacity).sum();
    let load: u32 = boxes.iter().map(|one| one.sessions).sum();
    sheet.gauge("livepeer_transcoders_number", "Boxes that transcode for us", boxes.len() as f64)?;
    sheet.gauge("livepeer_transcoders_capacity", "Sessions they take", capacity.into())?;
    sheet.gauge("livepeer_transcoders_load", "Sessions they have", load.into())?;
    let by_address = |pick: fn(&service::status::AttachedTranscoder) -> f64| {
        boxes.iter().map(move |one| (vec![one.address.as_str()], pick(one)))
    };
    let one = &["address"];
    sheet.gauges("millrace_transcoder_load", "Pixel rate over speed", one, by_address(|one| one.load))?;
    sheet.gauges(
        "millrace_transcoder_fit",
        "Is it fit for work?",
        one,
        by_address(|one| flag(one.standing == "fit")),
    )?;
    let (ok, failed) = (by_address(|one| one.segments_ok as f64), by_address(|one| one.segments_failed as f64));
    sheet.counters("millrace_transcoder_segments_total", "Segments it did right", one, ok)?;
    sheet.counters("millrace_transcoder_segments_failed_total", "Segments it failed", one, failed)
}

fn work(sheet: &Sheet, status: &NodeStatus, measures: &Measures) -> Outcome {
    let segments = &status.segments;
    let emerged = measures.content.get_sample_count();
    sheet.counter("livepeer_segment_source_emerged_total", "Segments that came in whole", emerged as f64)?;
    sheet.counter("livepeer_segment_transcoded_total", "Segments transcoded", segments.ok as f64)?;
    let failures = segments.failures.iter().map(|(reason, count)| (vec![reason.as_str()], *count as f64));
    let failed = "Segments that were accepted and failed";
    sheet.counters("livepeer_segment_transcode_failed_total", failed, &["error_code"], failures)?;
    sheet.counter("livepeer_transcode_retried", "Segments tried again on another worker", segments.retried as f64)?;
    let done = segments.ok.saturating_add(segments.failed);
    let rate = if done == 0 { 1.0 } else { segments.ok as f64 / done as f64 };
    sheet.gauge("livepeer_success_rate", "Segments transcoded over segments accepted", rate)?;
    let pixels = segments.pixels as f64 / 1e6;
    sheet.counter("livepeer_mil_pixels_processed", "Encoded pixels, in millions", pixels)?;
    sheet.counter("millrace_received_bytes_total", "Bytes of segments", segments.bytes_in as f64)?;
    sheet.counter("millrace_sent_bytes_total", "Bytes of renditions", segments.bytes_out as f64)
}

fn workers(sheet: &Sheet, status: &NodeStatus) -> Outcome {
    let (workers, capacity) = (&status.workers, &status.capacity);
    sheet.gauge("millrace_workers", "Workers that live", workers.alive.into())?;
    sheet.gauge("millrace_workers_busy", "Workers at work", workers.busy.into())?;
    sheet.counter("millrace_workers_lost_total", "Workers that died with a segment in hand", workers.lost as f64)?;
    let recycled = "Workers replaced as a precaution";
    sheet.counter("millrace_workers_recycled_total", recycled, workers.recycled as f64)?;
    sheet.gauge("millrace_segments_waiting", "Segments that wait for a worker", workers.waiting.into())?;
    let dropped = "Segments dropped while they waited: too late";
    sheet.counter("millrace_segments_dropped_total", dropped, workers.dropped as f64)?;
    let away = "Segments turned away since too many waited";
    sheet.counter("millrace_segments_turned_away_total", away, workers.turned_away as f64)?;
    let engines = workers.engines.iter().map(|engine| (vec![engine.name.as_str(), engine.state.as_str()], 1.0));
    sheet.gauges("millrace_engine", "The engines, each with its state", &["engine", "state"], engines)?;
    let layers = workers.jail_missing.len();
    sheet.gauge("millrace_jail_layers_missing", "Layers of the workers' jail that cannot be had", layers as f64)?;
    let speed = "Pixels encoded in a second: what the box can do, what of it sessions may take, what they ask for";
    let known = [
        ("measured", capacity.pixels_per_second),
        ("sold", capacity.sold_pixels_per_second),
        ("demand", Some(capacity.demand_pixels_per_second)),
    ];
    let known = known.into_iter().filter_map(|(kind, value)| Some((vec![kind], value? as f64)));
    sheet.gauges("millrace_pixels_per_second", speed, &["kind"], known)?;
    let derate = f64::from(capacity.derate_percent) / 100.0;
    sheet.gauge("millrace_capacity_ratio", "What heat and power leave of what newcomers get", derate)?;
    let refused = "Newcomers turned away for want of speed";
    sheet.counter("millrace_capacity_refused_total", refused, capacity.refused as f64)
}

fn hardware(sheet: &Sheet, hardware: &Hardware) -> Outcome {
    sheet.gauge("millrace_hardware_age_seconds", "Since the sensors were read", hardware.age_s as f64)?;
    let hottest = hardware.hottest_celsius.map(|celsius| (vec![hardware.hottest.as_str()], f64::from(celsius)));
    sheet.gauges("millrace_temperature_celsius", "The hottest sensor", &["sensor"], hottest)?;
    if let Some(watts) = hardware.watts {
        sheet.gauge("millrace_power_watts", "Drawn by all that is measured", watts.into())?;
    }
    let gpus = |pick: fn(&Gpu) -> Option<f64>| {
        hardware.gpus.iter().filter_map(move |gpu| Some((vec![gpu.address.as_str(), gpu.name.as_str()], pick(gpu)?)))
    };
    let labels = &["gpu", "name"];
    let encoder = gpus(|gpu| ratio(gpu.encoder_percent));
    sheet.gauges("millrace_gpu_encoder_ratio", "Encoders in use", labels, encoder)?;
    let decoder = gpus(|gpu| ratio(gpu.decoder_percent));
    sheet.gauges("millrace_gpu_decoder_ratio", "Decoders in use", labels, decoder)?;
    let memory = gpus(|gpu| ratio(gpu.memory_percent));
    sheet.gauges("millrace_gpu_memory_ratio", "Memory in use", labels, memory)?;
    let celsius = gpus(|gpu| gpu.celsius.map(f64::from));
    sheet.gauges("millrace_gpu_celsius", "Temperature of the chip", labels, celsius)?;
    sheet.gauges("millrace_gpu_watts", "Power drawn", labels, gpus(|gpu| gpu.watts.map(f64::from)))?;
    let readable = gpus(|gpu| Some(flag(gpu.fault.is_none())));
    sheet.gauges("millrace_gpu_readable", "Can the card be read?", labels, readable)
}

fn money(sheet: &Sheet, money: &Money) -> Outcome {
    sheet.counter("livepeer_tickets_recv", "Tickets that earned credit", money.tickets_received as f64)?;
    let value = "Expected value of the tickets that earned credit, in gwei";
    sheet.counter("livepeer_ticket_value_recv", value, wei(&money.received_ev_wei) / GWEI)?;
    sheet.counter("livepeer_winning_tickets_recv", "Winning tickets", money.tickets_won as f64)?;
    sheet.counter("livepeer_value_redeemed", "Paid by the chain for winners, in gwei", wei(&money.paid_wei) / GWEI)?;
    let errors = "Redemptions that came to nothing";
    sheet.counter("livepeer_ticket_redemption_errors", errors, money.redemption_failures as f64)?;
    let refused = money.payment_errors.iter().map(|(reason, count)| (vec![reason.as_str()], *count as f64));
    sheet.counters("livepeer_payment_recv_errors", "Payments refused", &["error_code"], refused)?;
    let held = money.tickets_pending.saturating_sub(money.tickets_submitted);
    let states = [
        (vec!["held"], held as f64),
        (vec!["submitted"], money.tickets_submitted as f64),
        (vec!["confirmed"], money.tickets_redeemed as f64),
        (vec!["abandoned"], money.tickets_abandoned as f64),
    ];
    sheet.gauges(
        "millrace_winners",
        "Winning tickets by state; the settled ones since the ledger began",
        &["state"],
        states,
    )?;
    let pending = "Face value of the winners not yet redeemed, in gwei";
    sheet.gauge("millrace_winners_pending_gwei", pending, wei(&money.pending_wei) / GWEI)?;
    let gateways = |pick: fn(&service::status::GatewayMoney) -> Option<f64>| {
        money.gateways.iter().filter_map(move |one| Some((vec![one.address.as_str()], pick(one)?)))
    };
    let one = &["sender"];
    let face = gateways(|one| gwei(&one.face_value_wei));
    sheet.gauges("livepeer_gateway_ticket_face_value", "Of the last offer, in gwei", one, face)?;
    let float = gateways(|one| gwei(&one.max_float_wei));
    sheet.gauges(
        "livepeer_gateway_max_float",
        "What could be redeemed of it at the last offer, in gwei",
        one,
        float,
    )?;
    let tickets = gateways(|one| Some(one.tickets as f64));
    sheet.counters("millrace_gateway_tickets_total", "Tickets that earned credit, since start", one, tickets)?;
    let value = gateways(|one| Some(wei(&one.value_wei) / GWEI));
    sheet.counters("millrace_gateway_value_gwei_total", "Their expected value, since start", one, value)?;
    let winners = gateways(|one| Some(one.winners as f64));
    sheet.counters("millrace_gateway_winners_total", "Winning tickets, since start", one, winners)
}

fn chain(sheet: &Sheet, chain: &Chain, beside: &Beside) -> Outcome {
    sheet.gauge("millrace_chain_l1_block", "L1 block the contracts see", chain.l1_block as f64)?;
    sheet.gauge("millrace_chain_l2_block", "Block of the chain we transact on", chain.l2_block as f64)?;
    sheet.gauge("millrace_chain_round", "Current round", chain.round as f64)?;
    let initialized = "Is the current round initialised?";
    sheet.gauge("millrace_chain_round_initialized", initialized, flag(chain.round_initialized))?;
    sheet.gauge("millrace_chain_active", "Are we in the active set?", flag(chain.active))?;
    let age = if chain.poll_age_s == u64::MAX { f64::INFINITY } else { chain.poll_age_s as f64 };
    sheet.gauge("millrace_chain_head_age_seconds", "Since the chain was last read", age)?;
    if !chain.hot_balance_wei.is_empty() {
        sheet.gauge("millrace_hot_balance_ether", "What the hot account holds", wei(&chain.hot_balance_wei) / ETHER)?;
    }
    if !chain.gas_price_wei.is_empty() {
        let gas = wei(&chain.gas_price_wei) / GWEI;
        sheet.gauge("livepeer_suggested_gas_price", "Base price of gas, in gwei", gas)?;
    }
    if let Some((min, max)) = &beside.gas_bounds {
        sheet.gauge("livepeer_min_gas_price", "The fee cap never goes below, in gwei", wei(min) / GWEI)?;
        if let Some(max) = max {
            sheet.gauge("livepeer_max_gas_price", "Above it nothing is sent, in gwei", wei(max) / GWEI)?;
        }
    }
    let errors = "Calls of the reward that failed";
    sheet.counter("livepeer_reward_call_errors", errors, chain.reward_call_errors as f64)?;
    let numbers: Vec<String> = (0..beside.endpoints.len()).map(|number| number.to_string()).collect();
    let endpoints = |pick: fn(&EndpointHealth) -> f64| {
        let known = beside.endpoints.iter().zip(&numbers);
        known.map(move |(one, number)| (vec![number.as_str(), one.endpoint.as_str()], pick(one)))
    };
    let labels = &["number", "endpoint"];
    let requests = endpoints(|one| one.requests as f64);
    sheet.counters("millrace_rpc_requests_total", "Requests to an RPC endpoint", labels, requests)?;
    let failures = endpoints(|one| one.failures as f64);
    sheet.counters("millrace_rpc_failures_total", "Those without a usable answer", labels, failures)?;
    let preferred = endpoints(|one| flag(one.preferred));
    sheet.gauges("millrace_rpc_preferred", "Is it the one asked first?", labels, preferred)
}

fn prices(sheet: &Sheet, status: &NodeStatus) -> Outcome {
    let Some(prices) = &status.prices else { return Ok(()) };
    if let Some(asked) = price(&prices.asked) {
        sheet.gauge(
            "livepeer_transcoding_price",
            "Asked of a gateway without a price of its own, wei per pixel",
            asked,
        )?;
    }
    let own = prices.per_gateway.iter().filter_map(|(gateway, text)| Some((vec![gateway.as_str()], price(text)?)));
    sheet.gauges(
        "millrace_gateway_price",
        "Asked of a gateway with a price of its own, wei per pixel",
        &["sender"],
        own,
    )
}

/// One exposition in the making.
struct Sheet {
    registry: Registry,
    /// Names that have no sample now: declared, so that they can be found.
    bare: RefCell<String>,
}

type Outcome = Result<(), prometheus::Error>;

impl Sheet {
    fn add(&self, collector: impl Collector + 'static) -> Outcome {
        self.registry.register(Box::new(collector))
    }

    fn declare(&self, name: &str, help: &str, kind: &str) {
        self.bare.borrow_mut().push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A family without a sample is declared only.
    fn add_or_declare(&self, name: &str, help: &str, kind: &str, family: impl Collector + 'static) -> Outcome {
        if family.collect().iter().all(|family| family.get_metric().is_empty()) {
            self.declare(name, help, kind);
            return Ok(());
        }
        self.add(family)
    }

    fn gauge(&self, name: &str, help: &str, value: f64) -> Outcome {
        let gauge = Gauge::new(name, help)?;
        gauge.set(value);
        self.add(gauge)
    }

    fn counter(&self, name: &str, help: &str, value: f64) -> Outcome {
        let counter = Counter::new(name, help)?;
        counter.inc_by(value);
        self.add(counter)
    }

    fn gauges<'a>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<&'a str>, f64)>,
    ) -> Outcome {
        let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
        for (row, value) in rows {
            gauges.get_metric_with_label_values(&row)?.set(value);
        }
        self.add_or_declare(name, help, "gauge", gauges)
    }

    fn counters<'a>(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<&'a str>, f64)>,
    ) -> Outcome {
        let counters = CounterVec::new(Opts::new(name, help), labels)?;
        for (row, value) in rows {
            counters.get_metric_with_label_values(&row)?.inc_by(value);
        }
        self.add_or_declare(name, help, "counter", counters)
    }
}

fn ratio(percent: Option<f32>) -> Option<f64> {
    percent.map(|percent| f64::from(percent) / 100.0)
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// An amount as a float: for looking at, never for reckoning.
fn wei(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}

/// The same in gwei; none for an amount that is not known.
fn gwei(text: &str) -> Option<f64> {
    (!text.is_empty()).then(|| wei(text) / GWEI)
}

/// Wei per pixel of a price as the status tells it: `W wei per pixel` or `W wei per N pixels`.
fn price(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let wei: f64 = words.next()?.parse().ok()?;
    let pixels = words.nth(2)?.parse().unwrap_or(1.0);
    Some(wei / pixels)
}

#[cfg(test)]
mod tests;
