//! First boot: from a signed site file to a box that knows where it stands. Everything is written before the marker, and the
//! medium is wiped after it: a power cut anywhere only makes it happen again.

use std::path::{Path, PathBuf};

use fleet_protocol::site::{Controller, Proxy, Site, SiteError};
use fleet_protocol::strict::TO_BOX_MAX;
use millrace_hal::{Clock as _, LinuxClock};
use serde_json::json;
use toml::{Table, Value};

use crate::admit::{Refusal, keys};
use crate::files::{self, FileError, io_at};
use crate::machine::{Image, MachineError};
use crate::network;
use crate::paths::Paths;

/// The site file's name on every medium.
const FILE: &str = "provision.json";
/// Where the fleet agent's key is while it runs.
const DEVICE_KEY: &str = "/run/credentials/millrace-fleet.service/device-key";

/// Why a box does not know where it stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProvisionError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Keys(#[from] Refusal),
    #[error("{path} is refused")]
    Refused {
        path: PathBuf,
        #[source]
        source: SiteError,
    },
    #[error("the site file has a Wi-Fi network, and this image has no Wi-Fi: flash one of its profile `wifi`")]
    NoWifi,
    #[error("the image's own {path} makes no sense")]
    Template {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Provisioned {
    /// It knew already.
    Already,
    /// There is no site file yet.
    Waiting,
    /// From this file.
    From(PathBuf),
}

/// Takes the first site file there is.
pub(crate) fn provision(paths: &Paths, credentials: Option<&Path>) -> Result<Provisioned, ProvisionError> {
    let marker = paths.site().join("provisioned");
    if marker.exists() {
        return Ok(Provisioned::Already);
    }
    let media = [paths.boot().join("MILLRACE"), paths.at("run/millrace-usb/MILLRACE"), paths.at("run/millrace-usb")];
    let given = credentials.map(|dir| dir.join("millrace.provision"));
    let limit = u64::try_from(TO_BOX_MAX).unwrap_or(u64::MAX);
    for path in given.iter().cloned().chain(media.iter().map(|dir| dir.join(FILE))) {
        let Some(envelope) = files::get(&path, limit)? else { continue };
        let keys = keys(&paths.site_keys())?;
        // A clock that was never set shows the past; the image at least knows when it was made.
        let now = LinuxClock.unix_seconds().max(Image::read(paths)?.built);
        let site = Site::read(&envelope, &keys, now.saturating_mul(1000));
        let site = site.map_err(|source| ProvisionError::Refused { path: path.clone(), source })?;
        write(paths, &site)?;
        files::put(&marker, format!("{}\n", site.site).as_bytes(), 0o644)?;
        if given.as_deref() != Some(&path)
            && let Err(error) = files::wipe(&path)
        {
            // A stick that cannot be written keeps its token; the controller takes each only once.
            tracing::warn!(path = %path.display(), reason = crate::stage::text(&error), "site file could not be wiped");
        }
        apply(paths)?;
        return Ok(Provisioned::From(path));
    }
    Ok(Provisioned::Waiting)
}

fn write(paths: &Paths, site: &Site) -> Result<(), ProvisionError> {
    let dir = paths.site();
    let config = dir.join("config");
    files::put_json(&dir.join("site.json"), &site.clone().public(), 0o600)?;
    let channel = site.channel.as_ref().map_or("stable", |channel| channel.as_str());
    files::put_json(&dir.join("update.json"), &json!({ "channel": channel, "proxy": site.proxy }), 0o644)?;
    // An earlier, interrupted attempt may have been with another site file.
    remove_all(&dir.join("network"))?;
    for (name, text) in network::networkd(site) {
        files::put(&dir.join("network").join(name), text.as_bytes(), 0o644)?;
    }
    files::put(&dir.join("timesyncd.conf"), network::time(site).as_bytes(), 0o644)?;
    for (set, element) in network::proxies(site) {
        files::put(&dir.join("firewall").join(set), element.as_bytes(), 0o644)?;
    }
    match site.network.as_ref().and_then(|network| network.wifi.as_ref()) {
        Some(wifi) if paths.wpa_supplicant().exists() => {
            files::put(&config.join("credentials/wifi"), network::radio(wifi).as_bytes(), 0o600)?;
        }
        Some(_) => return Err(ProvisionError::NoWifi),
        None => files::wipe(&config.join("credentials/wifi"))?,
    }
    files::put(&config.join("node.toml"), node(paths, site)?.to_string().as_bytes(), 0o644)?;
    files::put(&dir.join("recovery-to"), site.recovery.map(String::from).unwrap_or_default().as_bytes(), 0o644)?;
    // Who may be paid, and how much may be spent, is the image's word, never the site's.
    let signer = paths.at("usr/share/millrace/signer.toml");
    if let Some(text) = files::get(&signer, 1 << 16)? {
        files::put(&config.join("signer.toml"), &text, 0o644)?;
    }
    if let Some(controller) = &site.controller {
        fleet(&dir, &config, controller, site.proxy)?;
    }
    Ok(())
}

/// The image's configuration with what depends on the place.
fn node(paths: &Paths, site: &Site) -> Result<Table, ProvisionError> {
    let path = paths.at("usr/share/millrace/node.toml");
    let text = files::get(&path, 1 << 16)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut table: Table =
        text.parse().map_err(|source| ProvisionError::Template { path, source: Box::new(source) })?;
    if let (Some(proxy), Some(chain)) = (site.proxy, table.get_mut("chain").and_then(Value::as_table_mut)) {
        chain.insert("proxy".to_owned(), Value::from(proxy.to_string()));
    }
    if let Some(node) = &site.node {
        let serve = table.entry("serve").or_insert_with(|| Value::Table(Table::new()));
        if let Some(serve) = serve.as_table_mut() {
            let mut set = |key: &str, value: Option<Value>| value.map(|value| serve.insert(key.to_owned(), value));
            set("service_uri", node.service_uri.clone().map(Value::from));
            set("listen", node.listen.clone().map(Value::from));
            set("max_sessions", node.max_sessions.map(|most| Value::from(i64::from(most))));
        }
    }
    Ok(table)
}

fn fleet(dir: &Path, config: &Path, controller: &Controller, proxy: Option<Proxy>) -> Result<(), FileError> {
    files::put(&config.join("fleet-ca.pem"), controller.ca_pem.as_bytes(), 0o644)?;
    if let Some(token) = &controller.claim_token {
        files::put(&dir.join("claim-token"), token.as_bytes(), 0o600)?;
    }
    let Some(identity) = &controller.identity else { return Ok(()) };
    files::put(&config.join("box.pem"), identity.cert_pem.as_bytes(), 0o644)?;
    files::put(&config.join("credentials/device-key"), identity.key_pem.as_bytes(), 0o600)?;
    let broker = |broker: &fleet_protocol::site::Broker| {
        let pair = [("host", Value::from(broker.host.clone())), ("port", Value::from(i64::from(broker.port)))];
        Value::Table(pair.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
    };
    let file = |name: &str| Value::from(format!("/etc/millrace/{name}"));
    let tls = [("ca", file("fleet-ca.pem")), ("cert", file("box.pem")), ("key", Value::from(DEVICE_KEY))];
    let tls: Table = tls.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
    let mut table = Table::new();
    table.insert("box".to_owned(), Value::from(identity.box_id.as_str()));
    table.insert("fleet".to_owned(), Value::from(controller.fleet.as_str()));
    if let Some(ring) = &controller.ring {
        table.insert("ring".to_owned(), Value::from(ring.as_str()));
    }
    if let Some(proxy) = proxy {
        table.insert("proxy".to_owned(), Value::from(proxy.to_string()));
    }
    table.insert("brokers".to_owned(), Value::Array(controller.brokers.iter().map(broker).collect()));
    table.insert("tls".to_owned(), Value::Table(tls));
    files::put(&config.join("fleet.toml"), table.to_string().as_bytes(), 0o644)
}

fn remove_all(dir: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(io_at(dir)),
    }
}

/// Puts network and time where systemd looks for this boot.
pub(crate) fn apply(paths: &Paths) -> Result<(), FileError> {
    let dir = paths.site().join("network");
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io_at(&dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(io_at(&dir))?;
        if let Some(bytes) = files::get(&entry.path(), 1 << 16)? {
            files::put(&paths.at("run/systemd/network").join(entry.file_name()), &bytes, 0o644)?;
        }
    }
    match files::get(&paths.site().join("timesyncd.conf"), 1 << 16)? {
        Some(text) if !text.is_empty() => {
            files::put(&paths.at("run/systemd/timesyncd.conf.d/10-site.conf"), &text, 0o644)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
