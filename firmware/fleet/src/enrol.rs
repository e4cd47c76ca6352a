//! How a machine becomes a box, once: it shows that it holds the claim token of its serial, and gets a certificate. Three
//! steps with as little power as each needs; any of them may be cut off anywhere and is simply done again.
//!
//! ```text
//! prepare (root)          ask (no privileges, network)                     install (root, no network)
//! token, site, serial ──► key, durable ──► request ──► answer, durable ──► configuration ──► token removed
//! ```
//! The key is on disk before the controller hears of it, and the controller takes a token again from the same key: an answer
//! that was lost is asked for again. The agent is only started when its configuration is there, which is written last.

mod ask;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fleet_protocol::enrol::{Answer, is_serial};
use fleet_protocol::site::Site;
use service::{Exit, ExitReason};
use toml::{Table, Value};
use zeroize::Zeroizing;

/// Where the agent's key is while it runs.
const DEVICE_KEY: &str = "/run/credentials/millrace-fleet.service/device-key";
/// Largest file read here.
const FILE_MAX: usize = 64 * 1024;
/// Where firmware says which machine this is, the surest first.
const SERIALS: [&str; 4] = [
    "var/lib/millrace-site/serial",
    "sys/class/dmi/id/product_serial",
    "sys/class/dmi/id/board_serial",
    "sys/firmware/devicetree/base/serial-number",
];

/// Become a box of the fleet by a claim token.
#[derive(Debug, Args)]
#[command(after_help = "The units call it: `prepare` and `install` as root, `ask` as the agent's own account.
Exit codes: 0 done, or nothing to do; 69 the controller does not answer; 77 it says no; 78 site file or serial is wrong.")]
pub(crate) struct EnrolArgs {
    /// Which step
    step: Step,
    /// Below this directory lie all files
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The controller's enrolment address, https://HOST:PORT; without it the hosts of the brokers are asked on port 8096
    #[arg(long, value_name = "URL")]
    controller: Option<String>,
}

/// A step of enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Hand token, site file and serial to the next step
    Prepare,
    /// Ask the controller
    Ask,
    /// Write the agent's configuration and remove the token
    Install,
}

/// Why a machine is no box yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error("{0}")]
    File(PathBuf, #[source] std::io::Error),
    #[error("{0} makes no sense")]
    Shape(PathBuf, #[source] serde_json::Error),
    #[error("the site file names no fleet")]
    NoFleet,
    #[error("nothing says which machine this is: put its serial into /var/lib/millrace-site/serial")]
    NoSerial,
    #[error("device key")]
    Key(#[source] rcgen::Error),
    #[error("the controller's certificate authority in the site file")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} does not answer: {1}")]
    Unreachable(String, String),
    #[error("{0} says no: {1}")]
    Refused(String, String),
    #[error("the certificate that came is not of our key")]
    Foreign(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl EnrolError {
    fn exit(&self) -> ExitReason {
        match self {
            EnrolError::Shape(..) | EnrolError::NoFleet | EnrolError::NoSerial | EnrolError::Authority(_) => {
                ExitReason::Config
            }
            EnrolError::Refused(..) => ExitReason::Permission,
            EnrolError::Unreachable(..) | EnrolError::Foreign(_) => ExitReason::Unavailable,
            EnrolError::File(..) | EnrolError::Key(_) => ExitReason::Software,
        }
    }
}

/// Where everything lies.
struct Places {
    root: PathBuf,
}

impl Places {
    fn site(&self, name: &str) -> PathBuf {
        self.root.join("var/lib/millrace-site").join(name)
    }

    fn handed(&self, name: &str) -> PathBuf {
        self.root.join("run/millrace-enrol").join(name)
    }

    fn own(&self, name: &str) -> PathBuf {
        self.root.join("var/lib/millrace-fleet/enrolled").join(name)
    }
}

/// One step.
pub(crate) async fn run(args: EnrolArgs) -> Exit {
    let places = Places { root: args.root };
    let done = match args.step {
        Step::Prepare => prepare(&places),
        Step::Ask => ask::ask(&places, args.controller.as_deref()).await,
        Step::Install => install(&places),
    };
    match done {
        Ok(()) => Exit::stopped(),
        Err(error) => Exit::because(error.exit(), error),
    }
}

/// What only root may read, for the account that owns the directory it is put into.
fn prepare(places: &Places) -> Result<(), EnrolError> {
    let dir = places.handed("");
    let owner = fs::metadata(&dir).map_err(at(&dir))?;
    let serial = SERIALS.iter().filter_map(|path| get(&places.root.join(path)).ok()).find_map(|text| {
        let text = String::from_utf8_lossy(&text).trim_matches(['\0', '\n', ' ']).to_owned();
        // What makers leave in when they forget.
        let filler = ["Default string", "To be filled by O.E.M.", "Not Specified", "None", "0"];
        (is_serial(&text) && !filler.contains(&text.as_str())).then_some(text)
    });
    let serial = serial.ok_or(EnrolError::NoSerial)?;
    let token = Zeroizing::new(get(&places.site("claim-token"))?);
    let site = get(&places.site("site.json"))?;
    for (name, content) in [("serial", serial.as_bytes()), ("claim-token", &token), ("site.json", &site)] {
        let path = places.handed(name);
        put(&path, content, 0o400)?;
        chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(at(&path))?;
    }
    Ok(())
}

/// The answer becomes the agent's configuration; the token is removed when all of it is durable.
fn install(places: &Places) -> Result<(), EnrolError> {
    let answer_path = places.own("answer.json");
    let answer: Answer = serde_json::from_slice(&get(&answer_path)?).map_err(|error| shape(&answer_path, error))?;
    let site = read_site(&places.site("site.json"))?;
    let controller = site.controller.as_ref().ok_or(EnrolError::NoFleet)?;
    let key = Zeroizing::new(get(&places.own("device-key"))?);
    let config = places.site("config");
    put(&config.join("fleet-ca.pem"), controller.ca_pem.as_bytes(), 0o644)?;
    put(&config.join("box.pem"), answer.chain.as_bytes(), 0o644)?;
    put(&config.join("credentials/device-key"), &key, 0o600)?;
    put(&config.join("fleet.toml"), agent(&answer, &site).to_string().as_bytes(), 0o644)?;
    match fs::remove_file(places.site("claim-token")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(&places.site("claim-token"))(error)),
        _ => {
            tracing::info!(box_id = %answer.box_id, fleet = %answer.fleet, "this machine is a box of its fleet");
            Ok(())
        }
    }
}

/// The agent's configuration.
fn agent(answer: &Answer, site: &Site) -> Table {
    let pairs = |pairs: Vec<(&str, Value)>| -> Table {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    };
    let file = |name: &str| Value::from(format!("/etc/millrace/{name}"));
    let brokers = answer.brokers.iter().map(|broker| {
        Value::Table(pairs(vec![("host", broker.host.clone().into()), ("port", i64::from(broker.port).into())]))
    });
    let tls = vec![("ca", file("fleet-ca.pem")), ("cert", file("box.pem")), ("key", DEVICE_KEY.into())];
    let mut table = pairs(vec![
        ("box", answer.box_id.as_str().into()),
        ("fleet", answer.fleet.as_str().into()),
        ("ring", answer.ring.as_str().into()),
        ("brokers", Value::Array(brokers.collect())),
        ("tls", Value::Table(pairs(tls))),
    ]);
    if let Some(proxy) = site.proxy {
        table.insert("proxy".to_owned(), proxy.to_string().into());
    }
    table
}

fn read_site(path: &Path) -> Result<Site, EnrolError> {
    serde_json::from_slice(&get(path)?).map_err(|error| shape(path, error))
}

fn get(path: &Path) -> Result<Vec<u8>, EnrolError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_MAX).unwrap_or(u64::MAX);
    fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(at(path))?;
    Ok(bytes)
}

/// Whole or not there, readable by whom it is for from its first byte on; durable on return.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<(), EnrolError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(at(dir))?;
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(&fresh)(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).map_err(at(&fresh))?;
    // The unit's umask may have taken away what others need.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(at(&fresh))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(at(&fresh))?;
    fs::rename(&fresh, path).map_err(at(path))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> EnrolError + '_ {
    move |error| EnrolError::File(path.to_owned(), error)
}

fn shape(path: &Path, error: serde_json::Error) -> EnrolError {
    EnrolError::Shape(path.to_owned(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_a_configuration_the_agent_takes() {
        let answer = serde_json::json!({"v": 1, "box": "box-0123456789abcdef", "fleet": "home", "ring": "lab", "chain": "x",
            "brokers": [{"host": "mq.example", "port": 8883}]});
        let site = serde_json::json!({"v": 1, "site": "here", "iat": 1, "exp": 2, "proxy": "http://10.0.0.5:3128"});
        let answer: Answer = serde_json::from_value(answer).unwrap();
        let table = agent(&answer, &serde_json::from_value(site).unwrap());
        let config = crate::config::Config::parse(&table.to_string()).unwrap();
        assert_eq!((config.box_id.as_str(), config.ring.as_str()), ("box-0123456789abcdef", "lab"));
        assert!(config.proxy.is_some() && config.brokers[0].port == 8883);
        assert_eq!(config.tls.key, Path::new(DEVICE_KEY));
    }

    #[test]
    fn a_machine_without_a_name_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { root: dir.path().to_owned() };
        fs::create_dir_all(places.handed("")).unwrap();
        put(&places.site("claim-token"), b"abcdefghijklmnop", 0o600).unwrap();
        put(&places.site("site.json"), b"{}", 0o600).unwrap();
        let serial = dir.path().join("sys/class/dmi/id/product_serial");
        put(&serial, b"Default string\n", 0o400).unwrap();
        assert!(matches!(prepare(&places), Err(EnrolError::NoSerial)));
        put(&serial, b"MR-17\n", 0o400).unwrap();
        prepare(&places).unwrap();
        assert_eq!(fs::read(places.handed("serial")).unwrap(), b"MR-17");
        assert_eq!(fs::metadata(places.handed("claim-token")).unwrap().mode() & 0o777, 0o400);
    }
}
