//! What a box tells whoever stands before it: a page on its screen, written anew every ten seconds, and one light. Nothing
//! is read from the keyboard, and nothing secret is shown.

mod light;
mod page;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use fleet_protocol::site::Escrow;
use millrace_hal::{Clock as _, Identity, LinuxClock};

use crate::command::Tools;
use crate::files;
use crate::machine::{self, Image, Trial};
use crate::paths::Paths;
use crate::progress;
use crate::reset;
use crate::stage;
use crate::state::{Outcome, State};

pub(crate) use light::Light;

/// How often the page is written and the light set.
const EVERY: Duration = Duration::from_secs(10);
/// How long another program may take to say something for the page.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest of the small files shown.
const SMALL: u64 = 4096;
/// Whose state the page shows.
const UNITS: [&str; 4] = ["node", "signer", "fleet", "health"];

/// A unit of ours, as systemd has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Unit {
    name: String,
    active: String,
    /// What the daemon says of itself.
    says: String,
}

/// Everything the page and the light are made of.
#[derive(Debug, Clone, Default)]
struct Facts {
    /// What a form of the image that is no product says of itself.
    banner: String,
    version: String,
    serial: Option<String>,
    site: Option<String>,
    box_id: Option<String>,
    tpm: bool,
    addresses: Vec<String>,
    provisioned: bool,
    decommissioned: bool,
    safe_mode: bool,
    on_trial: bool,
    units: Vec<Unit>,
    progress: Option<progress::Report>,
    last: Option<Outcome>,
    hot_account: Option<String>,
    escrow: bool,
    recovery_asked: bool,
    claim_waits: bool,
    now: i64,
    uptime_s: u64,
}

/// Writes the page for ever.
pub(crate) async fn screen(paths: &Paths, tools: &Tools) -> std::convert::Infallible {
    loop {
        let text = page::page(&facts(paths, tools).await);
        let mut out = std::io::stdout();
        // The screen may be gone for a while; the next page may find it again.
        let _ = write!(out, "\x1b[H\x1b[2J{text}").and_then(|()| out.flush());
        tokio::time::sleep(EVERY).await;
    }
}

/// Sets the light for ever; ends at once where no board light is.
pub(crate) async fn lights(paths: &Paths, tools: &Tools) {
    let leds = light::of_board(&paths.at("sys/class/leds"));
    if leds.is_empty() {
        tracing::info!("this board has no light of its own");
        return;
    }
    let mut shown = None;
    loop {
        let light = Light::of(&facts(paths, tools).await);
        if shown != Some(light) {
            tracing::info!(?light, "light");
            for led in &leds {
                if let Err(error) = light.show(led) {
                    tracing::warn!(led = %led.display(), reason = stage::text(&error), "light cannot be set");
                }
            }
            shown = Some(light);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Gathers; what cannot be had is left out.
async fn facts(paths: &Paths, tools: &Tools) -> Facts {
    let site = paths.site();
    let line = |path: &Path| {
        let bytes = files::get(path, SMALL).ok().flatten()?;
        let text = String::from_utf8_lossy(&bytes).lines().last().unwrap_or_default().trim().to_owned();
        (!text.is_empty())
            .then(|| text.chars().filter(|character| !character.is_control()).take(80).collect::<String>())
    };
    let state = State::of(paths);
    let identity = Identity::read(&paths.at(""));
    let fleet: Option<toml::Table> = files::get(&site.join("config/fleet.toml"), 1 << 16)
        .ok()
        .flatten()
        .and_then(|bytes| String::from_utf8_lossy(&bytes).parse().ok());
    let box_id = fleet.as_ref().and_then(|table| table.get("box")).and_then(toml::Value::as_str).map(str::to_owned);
    let uptime = line(&paths.at("proc/uptime")).unwrap_or_default();
    let units = UNITS.map(|name| format!("millrace-{name}.service"));
    let show: Vec<&str> =
        ["show", "--property=Id,ActiveState,StatusText"].into_iter().chain(units.iter().map(String::as_str)).collect();
    let shown = words(&tools.systemctl, &show).await;
    let addresses = words(Path::new("ip"), &["-brief", "address", "show", "scope", "global"]).await;
    let banner = files::get(&paths.at("usr/lib/millrace/banner"), SMALL).ok().flatten().unwrap_or_default();
    Facts {
        banner: String::from_utf8_lossy(&banner).into_owned(),
        version: Image::read(paths).map_or("unknown".to_owned(), |image| image.version.to_string()),
        serial: identity.serial,
        site: line(&site.join("provisioned")),
        claim_waits: box_id.is_none() && site.join("claim-token").exists(),
        box_id,
        tpm: identity.tpm,
        addresses: addresses.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect(),
        provisioned: site.join("provisioned").exists() || site.join("config/node.toml").exists(),
        decommissioned: reset::is_decommissioned(paths),
        safe_mode: paths.safe_mode().exists(),
        on_trial: machine::trial(paths).is_ok_and(|trial| trial == Trial::OnTrial),
        units: read_units(&shown),
        progress: files::get_json(&paths.staged().join(stage::PROGRESS)).ok().flatten(),
        last: state.results().ok().and_then(|mut results| results.pop()),
        hot_account: line(&site.join("hot-account")),
        escrow: files::get_json::<Escrow>(&site.join("recovery.json")).ok().flatten().is_some(),
        recovery_asked: line(&site.join("recovery-to")).is_some(),
        now: LinuxClock.unix_seconds(),
        uptime_s: uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
    }
}

/// What a program says; nothing when it cannot be run.
async fn words(program: &Path, arguments: &[&str]) -> String {
    let said = crate::command::said(program, arguments, PATIENCE).await;
    String::from_utf8_lossy(&said.unwrap_or_default()).into_owned()
}

/// Blocks of `KEY=value` lines with an empty line between them.
fn read_units(shown: &str) -> Vec<Unit> {
    let unit = |block: &str| {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().chars().filter(|character| !character.is_control()).take(60).collect::<String>()
        };
        let name = value("Id").trim_start_matches("millrace-").trim_end_matches(".service").to_owned();
        Unit { name, active: value("ActiveState"), says: value("StatusText") }
    };
    shown.split("\n\n").filter(|block| block.contains("Id=")).map(unit).collect()
}

#[cfg(test)]
mod tests;
