//! `millrace hw`: what the box has, and what a worker proved by doing it.
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use millrace_hal::encoders::{Hardware, detect};
use millrace_hal::{
    Candidate, Choice, Engine, GpuReadings, Gpus as _, LinuxGpus, LinuxSensors, LinuxWatchdog, PowerModes, Readings,
    Sensors as _, Watchdog as _, WatchdogState, snapshot,
};
use sandbox::message::{Proof, Ready};
use serde::Serialize;
use service::status::EngineStatus;

use crate::failure::{self, Outcome};
use crate::{status, table, text, worker};

/// Say what this box has and what truly encodes.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "What is detected is only a candidate; what a jailed worker has proved by encoding a clip counts. Every
engine that may work here is proved now, each in a worker that is thrown away: seconds for each. What a running
node has chosen, and which engines it leaves alone and why, is told besides.

Examples:
  millrace hw
  millrace hw --json
  sudo millrace hw --snapshot > box.tree"
)]
pub(crate) struct Args {
    /// The worker program. Default: millrace-worker beside this program, or in PATH
    #[arg(long, value_name = "PATH", env = "MILLRACE_WORKER")]
    worker: Option<PathBuf>,
    /// The node's status socket, for what the node says of its engines. Default: as for millrace status
    #[arg(long, value_name = "PATH", env = "MILLRACE_NODE_SOCKET")]
    socket: Option<PathBuf>,
    /// Show what the worker says
    #[arg(long)]
    verbose: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Print all files that were looked at instead, to send along with a question; serial numbers are left out
    #[arg(long, conflicts_with = "json")]
    snapshot: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    hardware: Hardware,
    /// Changes when what was proved must be proved again.
    fingerprint: String,
    readings: Readings,
    gpus: Vec<GpuReadings>,
    power_modes: PowerModes,
    watchdog: Option<WatchdogState>,
    /// Every engine that may work here, best first, and what came of its proof.
    engines: Vec<Proved>,
    /// What a running node says of its engines.
    node: Option<Vec<EngineStatus>>,
    worker: Option<Ready>,
    worker_error: Option<String>,
}

/// One engine, and what came of its proof.
#[derive(Debug, Serialize)]
struct Proved {
    /// Its name, such as `va` or `nvidia+software`.
    engine: String,
    /// Device nodes that its worker may open, and no others.
    nodes: Vec<PathBuf>,
    /// What it proved.
    proof: Option<Proof>,
    /// Why it did not.
    error: Option<String>,
}

/// What a running node says of its engines; none may run.
pub(crate) async fn node(args: &Args) -> Option<Vec<EngineStatus>> {
    status::read(args.socket.as_deref()).await.ok().map(|status| status.workers.engines)
}

/// Proves every engine that may work here.
fn prove(hardware: &Hardware, program: &Path, verbose: bool) -> Vec<Proved> {
    let proved = |choice: Choice| {
        let (proof, error) = match worker::prove(program, &choice, verbose) {
            Ok(proof) => (Some(proof), None),
            Err(reason) => (None, Some(reason)),
        };
        Proved { engine: choice.name(), nodes: choice.nodes, proof, error }
    };
    hardware.choices(&Engine::ALL).into_iter().map(proved).collect()
}

pub(crate) fn run(args: &Args, node: Option<Vec<EngineStatus>>) -> failure::Result {
    let root = Path::new("/");
    if args.snapshot {
        print!("{}", snapshot::take(root));
        return Ok(Outcome::Done);
    }
    let program = worker::find(args.worker.as_deref());
    let found = program.as_ref().ok().cloned();
    let started = program.and_then(|program| worker::start(&program, args.verbose));
    let (ready, error) = match started {
        Ok((_worker, ready)) => (Some(ready), None),
        Err(failure) => (None, Some(failure)),
    };
    let worker_error = error.as_ref().map(ToString::to_string);
    let hardware = detect(root);
    let report = Report {
        fingerprint: hardware.fingerprint().hash,
        engines: found.map(|program| prove(&hardware, &program, args.verbose)).unwrap_or_default(),
        node,
        hardware,
        readings: LinuxSensors::new(root, Vec::new()).read(),
        gpus: LinuxGpus::new(root).read(),
        power_modes: PowerModes::read(root),
        watchdog: LinuxWatchdog::new(root).state(),
        worker: ready,
        worker_error,
    };
    if args.json {
        table::json(&report)?;
    } else {
        print(&report);
    }
    error.map_or(Ok(Outcome::Done), Err)
}

fn print(report: &Report) {
    let hardware = &report.hardware;
    let identity = &hardware.identity;
    let processor = &hardware.processor;
    let made = [identity.vendor.clone(), identity.model.clone()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let drivers: Vec<_> = hardware.drivers.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let modes = &report.power_modes;
    let mode = modes.jetson.as_ref().and_then(|jetson| jetson.name()).or(modes.profile.as_deref());
    let caps = modes.caps.iter().map(|cap| format!("{} {} {}", cap.zone, cap.constraint, cap.limit));
    table::facts(&[
        ("board", if made.is_empty() { hardware.board.to_string() } else { format!("{} ({made})", hardware.board) }),
        ("runs under", hardware.hypervisor.clone().unwrap_or_default()),
        ("system", identity.system.clone().unwrap_or_default()),
        ("kernel", identity.kernel.clone().unwrap_or_default()),
        (
            "processor",
            format!(
                "{}, {} threads, {} {}",
                processor.model.clone().unwrap_or_else(|| "unnamed".to_owned()),
                processor.threads,
                processor.architecture,
                processor.vectors.join(" ")
            ),
        ),
        ("memory", hardware.memory.map(|memory| text::bytes(memory.0)).unwrap_or_default()),
        ("drivers", drivers.join(", ")),
        ("power mode", mode.unwrap_or_default().to_owned()),
        ("power caps", caps.collect::<Vec<_>>().join(", ")),
        ("fingerprint", report.fingerprint.chars().take(16).collect()),
    ]);
    println!();
    for gpu in &hardware.gpus {
        let driver = gpu.driver.clone().unwrap_or_else(|| "no driver".to_owned());
        println!("gpu  {}, {:04x}:{:04x}, {driver}", gpu.described(), gpu.vendor, gpu.device);
    }
    print_candidates("encoder", &hardware.candidates);
    println!();
    print_candidates("decoder", &hardware.decoders);
    println!();
    print_proved(&report.engines);
    println!();
    if let Some(engines) = &report.node {
        print_node(engines);
        println!();
    }
    let feelings = feelings(report);
    if feelings.iter().any(|(_, said)| !said.is_empty()) {
        table::facts(&feelings);
        println!();
    }
    match &report.worker {
        Some(ready) => print_ready(ready),
        None => println!("worker  none could be started"),
    }
}

fn print_candidates(what: &str, candidates: &[Candidate]) {
    let row = |candidate: &Candidate| {
        let verdict = format!("{:?}", candidate.verdict).to_lowercase();
        vec![candidate.engine.name().to_owned(), verdict, candidate.reason.clone()]
    };
    table::print(&[what, "detected", "why"], &candidates.iter().map(row).collect::<Vec<_>>());
}

fn print_proved(engines: &[Proved]) {
    let row = |proved: &Proved| {
        let (verdict, told) = match (&proved.proof, &proved.error) {
            (Some(proof), _) => ("proved", proof.proved.join(" ")),
            (None, reason) => ("failed", reason.clone().unwrap_or_default()),
        };
        let sessions = proved.proof.as_ref().and_then(|proof| proof.sessions);
        let sessions = sessions.map_or_else(|| "-".to_owned(), |sessions| sessions.to_string());
        vec![proved.engine.clone(), verdict.to_owned(), sessions, told]
    };
    table::print(&["engine", "proof", "sessions", "what or why"], &engines.iter().map(row).collect::<Vec<_>>());
}

/// What the node makes of them; its proofs may be older than ours.
fn print_node(engines: &[EngineStatus]) {
    let row = |engine: &EngineStatus| {
        let sessions = engine.sessions.map_or_else(|| "-".to_owned(), |sessions| sessions.to_string());
        let told = engine.reason.clone().unwrap_or_else(|| engine.proved.join(" "));
        vec![engine.name.clone(), engine.state.clone(), sessions, told]
    };
    table::print(&["node's engine", "state", "sessions", "what or why"], &engines.iter().map(row).collect::<Vec<_>>());
}

/// How the box feels: a line for each kind of reading, and one for each graphics processor.
fn feelings(report: &Report) -> Vec<(&'static str, String)> {
    let readings = &report.readings;
    let fans = readings.fans.iter().filter_map(|(name, fan)| Some(format!("{name} {} rpm", fan.rpm?)));
    let throttle = &readings.throttle;
    let mut held = Vec::new();
    held.extend(
        Some(throttle.heat_events()).filter(|events| *events > 0).map(|events| format!("{events} times for heat")),
    );
    held.extend(
        Some(throttle.power_events()).filter(|events| *events > 0).map(|events| format!("{events} times for power")),
    );
    held.extend(throttle.for_heat().then(|| "for heat now".to_owned()));
    held.extend((throttle.under_voltage == Some(true)).then(|| "for low voltage now".to_owned()));
    let mut facts = vec![
        ("hottest", readings.hottest().map(|(name, celsius)| format!("{celsius} ({name})")).unwrap_or_default()),
        ("power", readings.drawn().map(|watts| watts.to_string()).unwrap_or_default()),
        ("fans", fans.collect::<Vec<_>>().join(", ")),
        ("held back", held.join(", ")),
    ];
    if let Some(watchdog) = &report.watchdog {
        let armed = if watchdog.armed { "armed" } else { "not armed" };
        let reset = format!("{:?}", watchdog.last_reset).to_lowercase();
        facts.push(("watchdog", format!("{}, {armed}, last start: {reset}", watchdog.name)));
    }
    facts.extend(report.gpus.iter().map(|gpu| ("graphics", graphics(gpu))));
    facts
}

fn graphics(gpu: &GpuReadings) -> String {
    if let Some(fault) = &gpu.fault {
        return format!("{}: {fault}", gpu.address);
    }
    let told = [
        gpu.temperature.map(|celsius| celsius.to_string()),
        gpu.power.map(|watts| watts.to_string()),
        gpu.power_limit.map(|limit| format!("may draw {limit}")),
        gpu.busy.map(|busy| format!("busy {busy}")),
        gpu.encoder.map(|busy| format!("encoder {busy}")),
        gpu.decoder.map(|busy| format!("decoder {busy}")),
        gpu.memory_used.zip(gpu.memory_total).map(|(used, total)| format!("memory {used} of {total}")),
        gpu.ecc_uncorrected.filter(|errors| *errors > 0).map(|errors| format!("{errors} memory errors")),
        Some(format!("held back: {:?}", gpu.throttle)).filter(|_| !gpu.throttle.is_empty()),
    ];
    let told: Vec<_> = told.into_iter().flatten().collect();
    format!("{}: {}", gpu.address, if told.is_empty() { "says nothing".to_owned() } else { told.join(", ") })
}

fn print_ready(ready: &Ready) {
    table::facts(&[
        ("engine in use", ready.engine.clone()),
        ("framework", ready.framework.clone()),
        ("proved", ready.proved.join(" ")),
        ("jail", ready.layers.join(" ")),
    ]);
    for (what, why) in &ready.refused {
        println!("refused  {what}: {why}");
    }
    for (layer, why) in &ready.missing_layers {
        println!("jail lacks  {layer}: {why}");
    }
}

#[cfg(test)]
mod tests {
    use millrace_hal::gpus::ThrottleReason;
    use millrace_hal::{Celsius, Percent};

    use super::*;

    #[test]
    fn graphics_say_what_they_know_and_no_more() {
        let quiet = GpuReadings { address: "0000:01:00.0".into(), ..GpuReadings::default() };
        assert_eq!(graphics(&quiet), "0000:01:00.0: says nothing");
        let busy = GpuReadings {
            temperature: Some(Celsius(71.0)),
            encoder: Some(Percent(81.0)),
            throttle: vec![ThrottleReason::Heat],
            ..quiet.clone()
        };
        assert_eq!(graphics(&busy), "0000:01:00.0: 71.0 °C, encoder 81 %, held back: [Heat]");
        let lost = GpuReadings { fault: Some("it fell off the bus".into()), ..quiet };
        assert_eq!(graphics(&lost), "0000:01:00.0: it fell off the bus");
    }
}
