//! Campaigns: planned and signed here, paced by the controller.
use std::path::PathBuf;

use clap::{Args, Subcommand};
use fleet_protocol::api::{Campaign as Shown, CampaignList};
use fleet_protocol::campaign::{Campaign, Gate, Rate, Ring};
use fleet_protocol::dsse::{CAMPAIGN, KeyId};
use fleet_protocol::version::Version;
use fleet_protocol::{BoxId, FleetId};
use serde_json::{Value, json};

use super::Controller;
use super::order::{fleet_of, new_cid, nothing, now_ms, row, save, sign_all};
use crate::failure::{self, Code, Failure};
use crate::release::read_key;
use crate::table;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// A version for everybody.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Plan a campaign, sign it, and begin it
    #[command(after_help = "Examples:
  millrace fleet campaign new --name fw-120 --version 1.2.0 --manifest https://releases.example/1.2.0/manifest.json \\
    --ring lab:box-0123456789abcdef:2h --ring canary:1%:24h --ring wide:25%:24h --ring all:100% --key operator.key
Operators may; the release itself is held against the releasers' signatures by every box. Rings open one after the other,
each when the boxes of the one before are well and its hours have passed; failures and silence halt the campaign.")]
    New(Box<NewArgs>),
    /// Show campaigns and how far they are, ring by ring
    #[command(after_help = "Example:\n  millrace fleet campaign status")]
    Status {
        /// Where the controller is
        #[command(flatten)]
        controller: Controller,
    },
    /// Halt a campaign: nobody begins, and who waits does not install
    #[command(after_help = "Example:\n  millrace fleet campaign halt fw-120 --why 'black frames in Oslo'")]
    Halt {
        /// Its name
        name: FleetId,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
        /// Where the controller is
        #[command(flatten)]
        controller: Controller,
    },
    /// Let a halted campaign go on; what failed so far is forgiven
    #[command(after_help = "Example:\n  millrace fleet campaign resume fw-120")]
    Resume {
        /// Its name
        name: FleetId,
        /// Where the controller is
        #[command(flatten)]
        controller: Controller,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Its name: 1 to 24 of a-z, 0-9 and -
    #[arg(long)]
    name: FleetId,
    /// The version it brings
    #[arg(long)]
    version: Version,
    /// Where its signed manifest lies
    #[arg(long, value_name = "URL")]
    manifest: String,
    /// A ring, in order: NAME:BOX,BOX… or NAME:SHARE%, and perhaps :HOURSh to wait after it; shares include earlier ones
    #[arg(long, value_name = "RING", required = true, value_parser = ring)]
    ring: Vec<Ring>,
    /// Nothing is concluded from fewer boxes that began
    #[arg(long, value_name = "N", default_value_t = 20)]
    min_n: u32,
    /// It halts when so many failed
    #[arg(long, value_name = "N", default_value_t = 3)]
    fail_max: u32,
    /// ... and this many percent of those that began
    #[arg(long, value_name = "P", default_value_t = 2.0)]
    fail_percent: f64,
    /// Percent of a ring's boxes that must be well before the next one opens
    #[arg(long, value_name = "P", default_value_t = 98.0)]
    ok_percent: f64,
    /// A box that began and is silent for so many hours has failed
    #[arg(long, value_name = "H", default_value_t = 6.0)]
    timeout_hours: f64,
    /// The boxes of a ring begin within so many seconds
    #[arg(long, value_name = "S", default_value_t = 21_600)]
    window_s: u32,
    /// Megabits per second each box may use
    #[arg(long, value_name = "N", default_value_t = 20)]
    rate_mbit: u32,
    /// Seconds a box waits for a quiet moment
    #[arg(long, value_name = "S", default_value_t = 1800)]
    drain_s: u64,
    /// Go on when there was no quiet moment: streams are cut off
    #[arg(long)]
    go_at_deadline: bool,
    /// Days until no box begins any more
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=365))]
    days: i64,
    /// The controller's public key that sets the pace; without it the controller is asked
    #[arg(long, value_name = "PUBLIC")]
    pacer: Option<String>,
    /// Who signs; the first is the author
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// The fleet; without it the controller is asked
    #[arg(long, value_name = "FLEET")]
    fleet: Option<FleetId>,
    /// Write the campaign there instead of beginning it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the controller is
    #[command(flatten)]
    controller: Controller,
}

/// `lab:box-…,box-…:2h`, `canary:1%:24h`, `all:100%`.
fn ring(text: &str) -> Result<Ring, String> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let name = FleetId::new(name).map_err(|error| format!("ring {name:?}: {error}"))?;
    let members = parts.next().ok_or("a ring is NAME:BOXES or NAME:SHARE%")?;
    let (mut boxes, mut pct) = (Vec::new(), None);
    for member in members.split(',') {
        match member.strip_suffix('%') {
            Some(share) => pct = Some(share.parse().map_err(|_| format!("{member} is no share"))?),
            None => boxes.push(BoxId::new(member).map_err(|error| format!("{member:?}: {error}"))?),
        }
    }
    let soak_h = match parts.next() {
        None => 0.0,
        Some(soak) => {
            let hours = soak.strip_suffix('h').and_then(|hours| hours.parse().ok());
            hours.ok_or_else(|| format!("{soak} is no time: 24h"))?
        }
    };
    if parts.next().is_some() {
        return Err("a ring is NAME:BOXES:HOURSh".to_owned());
    }
    Ok(Ring { name, boxes, pct, soak_h })
}

pub(super) async fn run(command: Command) -> failure::Result {
    match command {
        Command::New(args) => new(*args).await,
        Command::Status { controller } => {
            let list: CampaignList = controller.get("/api/campaigns").await?;
            controller.show(&list, |list| {
                list.campaigns.iter().for_each(print);
                if list.campaigns.is_empty() {
                    println!("there was no campaign yet");
                }
            })
        }
        Command::Halt { name, why, controller } => {
            let shown: Shown = controller.post(&format!("/api/campaigns/{name}/halt"), &json!({"why": why})).await?;
            controller.show(&shown, print)
        }
        Command::Resume { name, controller } => {
            let shown: Shown = controller.post(&format!("/api/campaigns/{name}/resume"), &nothing()).await?;
            controller.show(&shown, print)
        }
    }
}

async fn new(args: NewArgs) -> failure::Result {
    let keys = args.key.iter().map(|path| read_key(path)).collect::<failure::Result<Vec<_>>>()?;
    let by = keys.first().map(|key| KeyId::of(&key.verifying_key())).expect("one key is required");
    let controller = args.controller;
    let fleet = fleet_of(&controller, args.fleet).await?;
    let pacer = match args.pacer {
        Some(pacer) => pacer,
        None => {
            let list: CampaignList = controller.get("/api/campaigns").await?;
            list.pacer.ok_or_else(|| {
                Failure::new(Code::Unavailable, "the controller has no key to set a pace with")
                    .advise("millrace release key --out pacer.key, then [campaigns] pacer_key in controller.toml")
            })?
        }
    };
    let now = now_ms();
    let plan = Campaign {
        v: 1,
        cid: new_cid(now),
        name: args.name,
        fleet,
        by,
        iat: now,
        exp: now + args.days * DAY_MS,
        ctr: u64::try_from(now).unwrap_or(1),
        version: args.version,
        manifest: args.manifest,
        pacer,
        rings: args.ring,
        gate: Gate {
            min_n: args.min_n,
            ok_pct: args.ok_percent,
            fail_max: args.fail_max,
            fail_pct: args.fail_percent,
            timeout_h: args.timeout_hours,
        },
        rate: Rate { dl_window_s: args.window_s, max_dl_mbit: Some(args.rate_mbit) },
        drain_s: Some(args.drain_s),
        go_at_deadline: args.go_at_deadline,
    };
    plan.check().map_err(|error| Failure::from_error(Code::Usage, &error))?;
    let body = serde_json::to_vec(&plan).map_err(|error| Failure::from_error(Code::Software, &error))?;
    let envelope = sign_all(CAMPAIGN, &body, &keys)?;
    match args.out {
        Some(out) => save(&out, &envelope, &plan.cid),
        None => begin(&controller, &envelope).await,
    }
}

pub(super) async fn begin(controller: &Controller, envelope: &[u8]) -> failure::Result {
    let envelope: Value = serde_json::from_slice(envelope).map_err(|error| Failure::from_error(Code::Data, &error))?;
    let shown: Shown = controller.post("/api/campaigns", &envelope).await?;
    controller.show(&shown, print)
}

fn print(shown: &Shown) {
    let why = shown.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    println!("{} version {}: {}{why}", shown.name, shown.version, shown.state);
    let rows: Vec<_> = shown
        .rings
        .iter()
        .map(|ring| {
            let open = if ring.opened_ms.is_some() { "open" } else { "closed" };
            let counts = [ring.boxes, ring.done, ring.running, ring.waiting, ring.failed, ring.absent];
            let counts = counts.into_iter().map(|count| count.to_string());
            [ring.name.clone(), open.to_owned()].into_iter().chain(counts).collect()
        })
        .collect();
    table::print(&["ring", "state", "boxes", "done", "running", "waiting", "failed", "absent"], &rows);
    if !shown.failed.is_empty() {
        println!();
        table::print(
            &["failed", "state", "percent", "step", "reason"],
            &shown.failed.iter().map(row).collect::<Vec<_>>(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_boxes_or_a_share_and_a_time() {
        let lab = ring("lab:box-0123456789abcdef,box-0000000000000001:2h").unwrap();
        assert_eq!((lab.name.as_str(), lab.boxes.len(), lab.pct, lab.soak_h), ("lab", 2, None, 2.0));
        let canary = ring("canary:1.5%:0.5h").unwrap();
        assert_eq!((canary.pct, canary.soak_h), (Some(1.5), 0.5));
        assert_eq!(ring("all:100%").unwrap().soak_h, 0.0);
        for bad in ["all", "ALL:1%", "x:y", "x:1%:3", "x:1%:3h:4", "x:%"] {
            assert!(ring(bad).is_err(), "{bad}");
        }
    }
}
