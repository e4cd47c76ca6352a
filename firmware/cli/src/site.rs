//! Site files from the side of those who sign them, and the operator's recovery keys: what `millrace-update` takes on a box
//! is made here, and what it leaves for a broken board is opened here.
use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Subcommand;
use crypto_box::SecretKey;
use fleet_protocol::release::Keys;
use fleet_protocol::site::{ESCROW_MAX, Escrow, RecoveryKey, SITE, Site};
use fleet_protocol::strict::TO_BOX_MAX;
use millrace_hal::{Clock as _, LinuxClock};
use zeroize::Zeroizing;

use crate::failure::{self, Code, Failure, Outcome, unwritable};
use crate::release::{DAY, no_good, private, read, sign};

/// What a site file may say, for `--help`.
const FIELDS: &str = r#"Fields of a site file (JSON; what is not named here is refused):
  v 1, site, location      its name and place, for people; site is required
  iat, exp                 when it was signed and until when it is taken, Unix milliseconds; required
  network                  none: any wired port, by DHCP. Otherwise any of
    interface              the port's name, such as "enp1s0"
    address, gateway       lists; none: by DHCP. ["192.168.7.20/24", "2001:db8::5/64"], ["192.168.7.1", "fe80::1"]
    dns                    list of addresses; those that DHCP tells of are then not asked
    vlan                   1 to 4094, on `interface`
    wifi                   {"ssid", "psk", "country"}: WPA2 or WPA3, in images of the profile wifi only; the passphrase
                           is wiped from the medium and kept sealed
  proxy                    "http://ADDRESS:PORT": releases, chain and fleet go through it, by CONNECT
  ntp                      list of time servers; none: the distribution's. NTP, not NTS
  timezone                 "UTC" and no other
  recovery                 who can open /var when the board breaks, see `millrace site recovery-key new`
  channel                  where releases come from; none: stable
  controller               {"fleet", "ring", "brokers", "ca_pem", "claim_token" or "identity"}
  node                     {"service_uri", "listen", "max_sessions"}

Example:
  millrace site new >berlin.json"#;

/// Make and check site files.
#[derive(Debug, Subcommand)]
pub(crate) enum SiteCommand {
    /// Print a site file to fill in
    #[command(after_help = FIELDS)]
    New {
        /// Days until it is no longer taken
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=3650))]
        days: i64,
    },
    /// Sign a site file; the result is what goes on the stick, as MILLRACE/provision.json
    #[command(after_help = "Example:\n  millrace site sign berlin.json --key operator.key --out provision.json")]
    Sign {
        /// The file as `site new` printed it and you filled it in
        file: PathBuf,
        /// Key files
        #[arg(long, required = true, value_name = "FILE")]
        key: Vec<PathBuf>,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check a signed site file as a box would
    #[command(after_help = "Example:\n  millrace site verify provision.json --keys site-keys.json")]
    Verify {
        /// The signed file
        file: PathBuf,
        /// The keys file of the image
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
    },
    /// Keys that open /var of a box whose board broke
    #[command(subcommand)]
    RecoveryKey(RecoveryCommand),
}

/// Make recovery keys, and open what boxes sealed to them.
#[derive(Debug, Subcommand)]
pub(crate) enum RecoveryCommand {
    /// Make a recovery key; prints its public half, which goes into site files as `recovery`
    #[command(after_help = "Keep the file offline: with it and a box's disk, everything on /var can be read.

Example:
  millrace site recovery-key new --out recovery.key")]
    New {
        /// The file to write; it must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the passphrase a box sealed to this key, from the recovery.json it left
    #[command(after_help = "recovery.json lies in the folder MILLRACE of the box's boot partition.

Example:
  millrace site recovery-key open recovery.json --key recovery.key |
    cryptsetup open --key-file=- /dev/disk/by-partlabel/millrace-var rescued")]
    Open {
        /// The box's recovery.json
        escrow: PathBuf,
        /// The file `recovery-key new` wrote
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

pub(crate) fn site(command: SiteCommand) -> failure::Result {
    let now = LinuxClock.unix_seconds().saturating_mul(1000);
    match command {
        SiteCommand::New { days } => {
            let example = serde_json::json!({
                "v": 1, "site": "name of the place", "iat": now, "exp": now + days * DAY, "location": "for people",
                "channel": "stable", "ntp": [],
                "network": {"address": ["192.168.7.20/24"], "gateway": ["192.168.7.1"], "dns": ["192.168.7.1"]},
                "controller": {"fleet": "home", "brokers": [{"host": "controller.example", "port": 8883}],
                    "ca_pem": "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n", "claim_token": "at-least-16-letters"},
                "node": {"service_uri": "https://node.example:8935"}});
            println!("{}", serde_json::to_string_pretty(&example).expect("an example is json"));
            Ok(Outcome::Done)
        }
        SiteCommand::Sign { file, key, out } => {
            let body = read(&file, TO_BOX_MAX)?;
            let site: Site = serde_json::from_slice(&body).map_err(|error| no_good(&error))?;
            site.check().map_err(|error| no_good(&error))?;
            let _ = fs::remove_file(&out);
            sign(&out, SITE, &body, &key)?;
            println!("{} signed; it goes on a stick labelled MILLRACE, as MILLRACE/provision.json", site.site);
            if site.recovery.is_none() {
                println!("it names no recovery key: when this box's board breaks, what is on /var is lost");
            }
            Ok(Outcome::Done)
        }
        SiteCommand::Verify { file, keys } => {
            let keys = Keys::parse(&read(&keys, TO_BOX_MAX)?).map_err(|error| no_good(&error))?;
            let site = Site::read(&read(&file, TO_BOX_MAX)?, &keys, now).map_err(|error| no_good(&error))?;
            println!("{}", serde_json::to_string_pretty(&site.public()).expect("a site is json"));
            Ok(Outcome::Done)
        }
        SiteCommand::RecoveryKey(RecoveryCommand::New { out }) => {
            println!("{}", String::from(new_recovery_key(&out)?));
            Ok(Outcome::Done)
        }
        SiteCommand::RecoveryKey(RecoveryCommand::Open { escrow, key }) => {
            print!("{}", *open(&escrow, &key)?);
            Ok(Outcome::Done)
        }
    }
}

fn new_recovery_key(out: &Path) -> failure::Result<RecoveryKey> {
    let key = SecretKey::generate(&mut rand::rngs::OsRng);
    let text = Zeroizing::new(format!("{}\n", BASE64.encode(key.to_bytes())));
    let file = File::options().write(true).create_new(true).mode(0o600).open(out);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| unwritable(out, &error))?;
    Ok(RecoveryKey(*key.public_key().as_bytes()))
}

/// The passphrase, without a line's end: as `cryptsetup --key-file=-` wants it.
fn open(escrow: &Path, key: &Path) -> failure::Result<Zeroizing<String>> {
    let document: Escrow = serde_json::from_slice(&read(escrow, ESCROW_MAX)?).map_err(|error| no_good(&error))?;
    let wrong = || Failure::new(Code::Data, format!("{} is no key of `millrace site recovery-key new`", key.display()));
    let text = private(key)?;
    let seed = Zeroizing::new(BASE64.decode(text.trim_ascii()).map_err(|_| wrong())?);
    let secret = SecretKey::from_slice(&seed).map_err(|_| wrong())?;
    if secret.public_key().as_bytes() != &document.to.0 {
        let text = format!("{} is sealed to {}, another key than this", escrow.display(), String::from(document.to));
        return Err(Failure::new(Code::Data, text));
    }
    let damaged = || Failure::new(Code::Data, format!("{} is damaged", escrow.display()));
    let opened = secret.unseal(&document.sealed_bytes().ok_or_else(damaged)?).map_err(|_| damaged())?;
    String::from_utf8(opened).map(Zeroizing::new).map_err(|_| damaged())
}

#[cfg(test)]
mod tests;
