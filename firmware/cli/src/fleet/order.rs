//! Orders: made and signed here, on the machines of those who may, and carried by the controller, which signs nothing.
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ed25519_dalek::SigningKey;
use fleet_protocol::api::{BoxList, Health, Order, OrderList};
use fleet_protocol::campaign::Campaign;
use fleet_protocol::command::{self, Audience, Command, DECOMMISSION, UPDATE};
use fleet_protocol::dsse::{self, CAMPAIGN, COMMAND, KeyId};
use fleet_protocol::strict::TO_BOX_MAX;
use fleet_protocol::version::Version;
use fleet_protocol::{BoxId, FleetId};
use millrace_hal::{Clock as _, LinuxClock};
use rand::RngCore as _;
use serde_json::{Map, Value, json};

use super::Controller;
use crate::failure::{self, Code, Failure, Outcome};
use crate::release::{read, read_key, write};
use crate::table;

pub(super) const UPDATE_EXAMPLES: &str = "Two releasers on two machines:
  millrace fleet update --version 1.2.0 --manifest https://releases.example/1.2.0/manifest.json --group canary \\
    --key alice.key --out order.json
  millrace fleet sign order.json --key bob.key
  millrace fleet send order.json
Both keys at hand, one box:
  millrace fleet update --version 1.2.0 --manifest https://… --box box-0123456789abcdef --key alice.key --key bob.key --wait";
pub(super) const DECOMMISSION_EXAMPLES: &str = "Example:
  millrace fleet decommission --box box-0123456789abcdef --key alice.key --key bob.key
The key of the hot account is destroyed with everything else: a box whose account holds more than dust, or that has
winning tickets left, refuses. Send the money away first, or say --even-with-funds and lose it.";
/// How often a waiting command looks.
const LOOK: Duration = Duration::from_secs(2);
/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

/// Who is meant.
#[derive(Debug, Args)]
#[group(id = "meant", required = true, multiple = false)]
pub(crate) struct Meant {
    /// This box; several times for several
    #[arg(long = "box", value_name = "BOX")]
    boxes: Vec<BoxId>,
    /// A group: `all` or a ring
    #[arg(long, value_name = "GROUP")]
    group: Option<FleetId>,
}

/// What every order says.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// A share of the group in percent, always the same boxes for one order
    #[arg(long, value_name = "P", requires = "group", value_parser = share)]
    percent: Option<f64>,
    /// Hours in which a box may begin
    #[arg(long, value_name = "H", default_value_t = 24, value_parser = clap::value_parser!(i64).range(1..=720))]
    hours: i64,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Who signs; the first is the author
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// The fleet; without it the controller is asked
    #[arg(long, value_name = "FLEET")]
    fleet: Option<FleetId>,
    /// Write the order there instead of sending it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Wait until every box has an end of it
    #[arg(long, conflicts_with = "out")]
    wait: bool,
    /// Where the controller is
    #[command(flatten)]
    controller: Controller,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The version to install
    #[arg(long)]
    version: Version,
    /// Where its signed manifest lies
    #[arg(long, value_name = "URL")]
    manifest: String,
    /// Megabits per second each box may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate_mbit: Option<u32>,
    /// Seconds to wait for a quiet moment
    #[arg(long, value_name = "S")]
    deadline_s: Option<u64>,
    /// Go on when there was no quiet moment: streams are cut off
    #[arg(long)]
    go_at_deadline: bool,
    /// Who is meant
    #[command(flatten)]
    meant: Meant,
    /// What every order says
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct DecommissionArgs {
    /// Do it although money is lost with the key
    #[arg(long)]
    even_with_funds: bool,
    /// Who is meant
    #[command(flatten)]
    meant: Meant,
    /// What every order says
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The order or campaign
    file: PathBuf,
    /// Key files
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The signed order or campaign
    file: PathBuf,
    /// Wait until every box has an end of an order
    #[arg(long)]
    wait: bool,
    /// Where the controller is
    #[command(flatten)]
    controller: Controller,
}

#[derive(Debug, Args)]
pub(crate) struct OrdersArgs {
    /// This one, on every box
    cid: Option<String>,
    /// Wait until every box has an end of it
    #[arg(long, requires = "cid")]
    wait: bool,
    /// Where the controller is
    #[command(flatten)]
    controller: Controller,
}

fn share(text: &str) -> Result<f64, String> {
    let wrong = || "a share is 0 to 100 percent".to_owned();
    text.parse().ok().filter(|share: &f64| (0.0..=100.0).contains(share)).ok_or_else(wrong)
}

pub(super) async fn update(args: UpdateArgs) -> failure::Result {
    let UpdateArgs { version, manifest, rate_mbit, deadline_s, go_at_deadline, meant, common } = args;
    if !manifest.starts_with("https://") && !manifest.starts_with("http://") {
        return Err(Failure::new(Code::Usage, "--manifest must be an http or https address"));
    }
    let asked = command::UpdateArgs { manifest, version, rate_mbit, deadline_s, go_at_deadline };
    order(UPDATE, &asked, meant, common).await
}

pub(super) async fn decommission(args: DecommissionArgs) -> failure::Result {
    let DecommissionArgs { even_with_funds, meant, common } = args;
    if meant.group.is_some() {
        return Err(Failure::new(Code::Usage, "boxes are decommissioned by name: --box BOX"));
    }
    order(DECOMMISSION, &command::DecommissionArgs { erase: true, even_with_funds }, meant, common).await
}

async fn order(op: &str, args: &impl serde::Serialize, meant: Meant, common: Common) -> failure::Result {
    let Common { percent, hours, why, key, fleet, out, wait, controller } = common;
    if why.as_ref().is_some_and(|why| why.len() > 120) {
        return Err(Failure::new(Code::Usage, "--why is at most 120 bytes"));
    }
    let keys = key.iter().map(|path| read_key(path)).collect::<failure::Result<Vec<_>>>()?;
    let by = keys.first().map(|key| KeyId::of(&key.verifying_key())).expect("one key is required");
    let now = now_ms();
    let fleet = fleet_of(&controller, fleet).await?;
    let boxes = (!meant.boxes.is_empty()).then_some(meant.boxes);
    let args = match serde_json::to_value(args) {
        Ok(Value::Object(args)) => args,
        _ => Map::new(),
    };
    let command = Command {
        v: 1,
        cid: new_cid(now),
        op: op.to_owned(),
        aud: Audience { fleet, boxes, group: meant.group, pct: percent },
        by,
        iat: now,
        nbf: None,
        exp: now + hours * HOUR_MS,
        // Rises by itself, and no list of the last one must be kept.
        ctr: u64::try_from(now).unwrap_or(1),
        preconditions: None,
        args,
        why,
    };
    let body = serde_json::to_vec(&command).map_err(|error| Failure::from_error(Code::Software, &error))?;
    let envelope = sign_all(COMMAND, &body, &keys)?;
    if let Some(out) = out {
        return save(&out, &envelope, &command.cid);
    }
    if !controller.json {
        let list: BoxList = controller.get("/api/boxes").await?;
        let meant = list.boxes.iter().filter(|known| !known.decommissioned && is_meant(&command, known)).count();
        eprintln!("order {} is for {meant} of {} boxes", command.cid, list.boxes.len());
    }
    carry(&controller, &envelope, wait).await
}

fn is_meant(command: &Command, known: &fleet_protocol::api::BoxSummary) -> bool {
    let ring = known.ring.clone().and_then(|ring| FleetId::new(ring).ok());
    let ring = ring.unwrap_or_else(|| FleetId::new("all").expect("`all` is a name"));
    BoxId::new(known.id.as_str()).is_ok_and(|id| command.reaches(&id, &ring))
}

/// The fleet an order is for.
pub(super) async fn fleet_of(controller: &Controller, fleet: Option<FleetId>) -> failure::Result<FleetId> {
    if let Some(fleet) = fleet {
        return Ok(fleet);
    }
    let health: Health = controller.get("/healthz").await?;
    FleetId::new(health.fleet).map_err(|_| {
        Failure::new(Code::Unavailable, "the controller does not say which fleet it serves")
            .advise("name it: --fleet FLEET")
    })
}

/// A document signed by these keys.
pub(super) fn sign_all(payload_type: &str, body: &[u8], keys: &[SigningKey]) -> failure::Result<Vec<u8>> {
    let fault = |error: dsse::DsseError| Failure::from_error(Code::Data, &error);
    let mut envelope: Option<Vec<u8>> = None;
    for key in keys {
        envelope = Some(match envelope {
            None => dsse::sign(payload_type, body, key).map_err(fault)?,
            Some(envelope) => dsse::add_signature(&envelope, payload_type, key).map_err(fault)?,
        });
    }
    let envelope = envelope.ok_or_else(|| Failure::new(Code::Usage, "nobody signs: --key FILE"))?;
    if envelope.len() > TO_BOX_MAX {
        return Err(Failure::new(Code::Data, "too large to be sent: name fewer boxes, or a group"));
    }
    Ok(envelope)
}

pub(super) fn save(out: &Path, envelope: &[u8], cid: &str) -> failure::Result {
    write(out, envelope, 0o644)?;
    println!("{cid}");
    eprintln!("written to {}; more signatures: millrace fleet sign; then millrace fleet send", out.display());
    Ok(Outcome::Done)
}

pub(super) fn sign(args: &SignArgs) -> failure::Result {
    let mut envelope = read(&args.file, TO_BOX_MAX)?;
    let kind = kind(&envelope)?;
    for path in &args.key {
        let key = read_key(path)?;
        envelope = dsse::add_signature(&envelope, kind.payload_type(), &key)
            .map_err(|error| Failure::from_error(Code::Data, &error))?;
        eprintln!("signed by {}", KeyId::of(&key.verifying_key()));
    }
    write(&args.file, &envelope, 0o644)?;
    println!("{}", kind.describe());
    Ok(Outcome::Done)
}

pub(super) async fn send(args: SendArgs) -> failure::Result {
    let envelope = read(&args.file, TO_BOX_MAX)?;
    match kind(&envelope)? {
        Kind::Order(_) => carry(&args.controller, &envelope, args.wait).await,
        Kind::Campaign(_) => super::campaign::begin(&args.controller, &envelope).await,
    }
}

/// What a signed file is.
enum Kind {
    Order(Box<Command>),
    Campaign(Box<Campaign>),
}

impl Kind {
    fn payload_type(&self) -> &'static str {
        match self {
            Kind::Order(_) => COMMAND,
            Kind::Campaign(_) => CAMPAIGN,
        }
    }

    fn describe(&self) -> String {
        match self {
            Kind::Order(order) => format!("order {}: {}", order.cid, order.op),
            Kind::Campaign(plan) => format!("campaign {}: version {}", plan.name, plan.version),
        }
    }
}

fn kind(envelope: &[u8]) -> failure::Result<Kind> {
    if let Ok(order) = Command::unverified(envelope) {
        return Ok(Kind::Order(Box::new(order)));
    }
    match Campaign::unverified(envelope) {
        Ok(plan) => Ok(Kind::Campaign(Box::new(plan))),
        Err(error) => Err(Failure::new(Code::Data, format!("neither an order nor a campaign: {error}"))),
    }
}

async fn carry(controller: &Controller, envelope: &[u8], wait: bool) -> failure::Result {
    let envelope: Value = serde_json::from_slice(envelope).map_err(|error| Failure::from_error(Code::Data, &error))?;
    let order: Order = controller.post("/api/orders", &envelope).await?;
    if wait { waited(controller, order).await } else { controller.show(&order, print) }
}

pub(super) async fn orders(args: OrdersArgs) -> failure::Result {
    let OrdersArgs { cid, wait, controller } = args;
    let Some(cid) = cid else {
        let list: OrderList = controller.get("/api/orders").await?;
        return controller.show(&list, print_list);
    };
    if !cid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Failure::new(Code::Usage, format!("{cid:?} is no order: `millrace fleet orders` lists them")));
    }
    let order: Order = controller.get(&format!("/api/orders/{cid}")).await?;
    if wait { waited(&controller, order).await } else { controller.show(&order, print) }
}

/// Looks until every box has an end; done in part when one of them is not well.
async fn waited(controller: &Controller, mut order: Order) -> failure::Result {
    let open = |order: &Order| {
        order.boxes.iter().filter(|at| matches!(at.st.as_str(), "queued" | "accepted" | "running")).count()
    };
    let mut before = usize::MAX;
    while open(&order) > 0 {
        if open(&order) != before && !controller.json {
            before = open(&order);
            eprintln!("{before} of {} boxes have no end of it yet", order.boxes.len());
        }
        tokio::time::sleep(LOOK).await;
        order = controller.get(&format!("/api/orders/{}", order.cid)).await?;
    }
    controller.show(&order, print)?;
    let well = order.boxes.iter().all(|at| at.st == "done");
    Ok(if well { Outcome::Done } else { Outcome::Partly })
}

fn print_list(list: &OrderList) {
    let rows: Vec<_> = list
        .orders
        .iter()
        .map(|order| {
            let count = |words: &[&str]| order.boxes.iter().filter(|at| words.contains(&at.st.as_str())).count();
            let (done, open) = (count(&["done"]), count(&["queued", "accepted", "running"]));
            let not = order.boxes.len() - done - open;
            vec![
                order.cid.clone(),
                order.op.clone(),
                version(order),
                order.boxes.len().to_string(),
                open.to_string(),
                done.to_string(),
                not.to_string(),
                order.why.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table::print(&["order", "what", "version", "boxes", "open", "done", "not done", "why"], &rows);
}

fn version(order: &Order) -> String {
    order.args.get("version").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn print(order: &Order) {
    println!("{} {} {}", order.cid, order.op, version(order));
    let rows: Vec<_> = order.boxes.iter().map(row).collect();
    table::print(&["box", "state", "percent", "step", "reason"], &rows);
}

pub(super) fn row(at: &fleet_protocol::api::OrderBox) -> Vec<String> {
    let percent = at.pct.map(|percent| percent.to_string()).unwrap_or_default();
    let (code, reason) = (at.code.clone().unwrap_or_default(), at.reason.clone().unwrap_or_default());
    vec![at.id.clone(), at.st.clone(), percent, code, reason]
}

pub(super) fn now_ms() -> i64 {
    LinuxClock.unix_seconds().saturating_mul(1000)
}

/// A UUID of version 7: the time in front, chance behind.
pub(super) fn new_cid(now_ms: i64) -> String {
    let mut bytes = [0u8; 16];
    rand::rngs::OsRng.fill_bytes(&mut bytes);
    let time = u64::try_from(now_ms).unwrap_or(0).to_be_bytes();
    for (slot, byte) in bytes.iter_mut().zip(time.iter().skip(2)) {
        *slot = *byte;
    }
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    let text = hex::encode(bytes);
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

/// The empty object of a request that says nothing.
pub(super) fn nothing() -> Value {
    json!({})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_of_version_7_and_no_two_are_the_same() {
        let (one, two) = (new_cid(1_795_327_000_000), new_cid(1_795_327_000_000));
        assert_ne!(one, two);
        assert!(one.starts_with("01a2") && one.as_bytes()[14] == b'7', "{one}");
        let topic = format!("millrace/v1/home/box-0123456789abcdef/res/{one}");
        assert!(fleet_protocol::Topic::parse(&topic).is_ok(), "{one}");
    }

    #[test]
    fn a_signed_file_is_known_for_what_it_is_and_gathers_signatures() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<SigningKey> = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32])).into();
        let body = json!({"v": 1, "cid": new_cid(1), "op": "update", "aud": {"fleet": "home", "group": "all"},
            "by": KeyId::of(&keys[0].verifying_key()), "iat": 1, "exp": 2, "ctr": 1, "args": {}});
        let envelope = sign_all(COMMAND, body.to_string().as_bytes(), &keys[..1]).unwrap();
        let file = dir.path().join("order.json");
        std::fs::write(&file, envelope).unwrap();
        crate::release::run(crate::release::Command::Key { out: dir.path().join("bob.key") }).unwrap();
        sign(&SignArgs { file: file.clone(), key: vec![dir.path().join("bob.key")] }).unwrap();
        let signed: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(signed["signatures"].as_array().unwrap().len(), 2);
        assert!(matches!(kind(&std::fs::read(&file).unwrap()), Ok(Kind::Order(_))));
        assert!(kind(b"{}").is_err());
    }
}
