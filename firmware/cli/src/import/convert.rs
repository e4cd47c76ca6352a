//! From settings of go-livepeer to a configuration of ours, with an account of every one of them.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use livepeer::units::Wei;
use serde::Serialize;
use toml::Value;

use super::document::Document;
use super::flags::{self, Becomes};
use super::read::Setting;
use super::value;

mod chain;
mod serve;

/// Largest file that a flag may name.
const MAX_FILE: u64 = 1024 * 1024;

/// What became of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fate {
    /// It stands in the configuration.
    Mapped,
    /// A person has to do something.
    ByHand,
    /// There is nothing to set.
    NotNeeded,
    /// We cannot do it.
    NotSupported,
    /// It is no flag of go-livepeer.
    Unknown,
}

/// The account of one flag. Never a secret's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    /// The flag, with a hyphen.
    pub(super) flag: String,
    /// Where it was set.
    pub(super) from: String,
    /// What became of it.
    pub(super) fate: Fate,
    /// Our keys that hold it.
    pub(super) keys: Vec<String>,
    /// What has to be said about it.
    pub(super) remark: String,
}

/// A value that cannot be taken over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("-{flag}: {what}")]
pub(super) struct ConvertError {
    flag: &'static str,
    what: String,
}

/// What the one who asks has said besides.
#[derive(Debug)]
pub(super) struct Options {
    /// The chain's id, for networks other than Arbitrum One.
    pub(super) chain_id: Option<u64>,
    /// The file the orchestrator's secret is kept in.
    pub(super) secret_file: PathBuf,
}

/// A configuration and what is to be said about it.
#[derive(Debug)]
pub(super) struct Imported {
    /// The TOML file.
    pub(super) toml: String,
    /// Each flag.
    pub(super) entries: Vec<Entry>,
    /// What is left to do, in order.
    pub(super) todo: Vec<String>,
    /// The secret that belongs into [`Options::secret_file`].
    pub(super) secret: Option<service::Secret>,
}

type Result<T = ()> = std::result::Result<T, ConvertError>;

/// Converts.
///
/// # Errors
/// [`ConvertError`] for a value that means nothing here, or a role that is not a node's.
pub(super) fn convert(settings: &BTreeMap<&'static str, Setting>, options: &Options) -> Result<Imported> {
    let mut converter = Converter {
        settings,
        options,
        document: Document::default(),
        entries: Vec::new(),
        todo: Vec::new(),
        secret: None,
    };
    let role = converter.role()?;
    match role {
        Role::Orchestrator { transcodes } => {
            converter.serve(transcodes)?;
            converter.prices()?;
            converter.chain()?;
        }
        Role::Transcoder => converter.attach()?,
    }
    converter.capacity(role)?;
    converter.daemon();
    converter.rest()?;
    let comment = "millrace-node, imported from go-livepeer by `millrace import-config`.\n\
                   What is not here is at its default; every key stands in the annotated node.toml.";
    Ok(Imported {
        toml: converter.document.render(comment),
        entries: converter.entries,
        todo: converter.todo,
        secret: converter.secret,
    })
}

/// What the node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It serves gateways.
    Orchestrator {
        /// Did go-livepeer transcode in the same process?
        transcodes: bool,
    },
    /// It transcodes for orchestrators elsewhere.
    Transcoder,
}

struct Converter<'a> {
    settings: &'a BTreeMap<&'static str, Setting>,
    options: &'a Options,
    document: Document,
    entries: Vec<Entry>,
    todo: Vec<String>,
    secret: Option<service::Secret>,
}

impl Converter<'_> {
    /// go-livepeer's order: the first role that is set has the process.
    fn role(&mut self) -> Result<Role> {
        for (flag, what) in [
            ("redeemer", "a redemption service has no place here: each node redeems its own tickets"),
            ("remoteSigner", "a remote signer serves gateways; this imports orchestrators and transcoders"),
        ] {
            if self.boolean(flag)? == Some(true) {
                return Err(ConvertError { flag, what: what.to_owned() });
            }
        }
        let transcodes = self.boolean("transcoder")? == Some(true);
        if self.boolean("orchestrator")? == Some(true) {
            self.mapped("orchestrator", &[], "what the node is without [transcoder]");
            if transcodes {
                self.mapped("transcoder", &[], "the node transcodes itself, with the boxes that attach");
            }
            return Ok(Role::Orchestrator { transcodes });
        }
        if transcodes {
            return Ok(Role::Transcoder);
        }
        for flag in ["gateway", "broadcaster"] {
            if self.boolean(flag)? == Some(true) {
                let what = "a gateway's configuration: this imports orchestrators and transcoders; for a gateway see \
                            `millrace gateway push --help`";
                return Err(ConvertError { flag, what: what.to_owned() });
            }
        }
        let what = "not set, nor is -transcoder: one of them makes it a node";
        Err(ConvertError { flag: "orchestrator", what: what.to_owned() })
    }

    /// How much is let in, and what encodes.
    fn capacity(&mut self, role: Role) -> Result {
        if let Some(text) = self.text("maxSessions") {
            let sessions = text.parse::<u32>().ok().filter(|sessions| *sessions > 0);
            let (section, key) = match role {
                Role::Orchestrator { .. } => ("serve", "max_sessions"),
                Role::Transcoder => ("transcoder", "capacity"),
            };
            match sessions {
                None if text == "auto" && section == "serve" => {
                    let key = self.document.set(section, key, "auto");
                    self.mapped("maxSessions", &[key], "by the measured speed of the box");
                }
                None => return Err(self.wrong("maxSessions", "must be a number above zero")),
                Some(sessions) => {
                    let bound = sessions.min(1000);
                    let key = self.document.set(section, key, i64::from(bound));
                    let remark = if bound < sessions {
                        "1000 is the most here"
                    } else {
                        "a bound on top of what the measured speed carries"
                    };
                    self.mapped("maxSessions", &[key], remark);
                }
            }
        }
        match self.text("nvidia").as_deref() {
            Some("") => self.entry("nvidia", Fate::NotNeeded, &[], "empty"),
            Some("all") => {
                self.mapped("nvidia", &[], "workers.engines: every NVIDIA device that proves itself is used")
            }
            Some(_) => self.entry(
                "nvidia",
                Fate::NotSupported,
                &[],
                "single devices cannot be chosen: every NVIDIA device that proves itself is used",
            ),
            None if self.text("netint").is_none() && role != (Role::Orchestrator { transcodes: false }) => {
                self.todo.push(
                    "go-livepeer encoded on the processor; the node takes the hardware encoders that prove themselves. To \
                     keep them out: [workers] engines = [\"software\"]"
                        .to_owned(),
                );
            }
            None => {}
        }
        match self.boolean("hevcDecoding")? {
            Some(true) => self.entry("hevcDecoding", Fate::NotNeeded, &[], "HEVC is offered where it proved itself"),
            Some(false) => {
                self.entry("hevcDecoding", Fate::NotSupported, &[], "HEVC is offered where it proved itself, always");
            }
            None => {}
        }
        Ok(())
    }

    /// What belongs to the daemon rather than to its file.
    fn daemon(&mut self) {
        if let Some(level) = self.text("v") {
            let level = match value::integer(&level) {
                Some(0..=4) => "info",
                Some(5) => "info,orchestrator=debug",
                _ => "debug",
            };
            let remark = format!("environment of the unit: MILLRACE_LOG={level}");
            self.entry("v", Fate::ByHand, &[], &remark);
        }
        if self.text("config").is_some() {
            self.entry("config", Fate::NotNeeded, &[], "that file was read");
        }
    }

    /// Accounts for all that was not spoken of yet.
    fn rest(&mut self) -> Result {
        for name in self.settings.keys() {
            let Some(flag) = flags::flag(name) else { continue };
            if self.entries.iter().any(|entry| entry.flag.get(1..) == Some(*name)) {
                continue;
            }
            let off = self.text(name).is_some_and(|text| text.is_empty())
                || (flag.is_boolean && self.boolean(flag.name)? == Some(false));
            match flag.becomes {
                _ if off => self.entry(name, Fate::NotNeeded, &[], "off"),
                Becomes::NotNeeded(why) => self.entry(name, Fate::NotNeeded, &[], why),
                Becomes::NotSupported(why) => self.entry(name, Fate::NotSupported, &[], why),
                Becomes::Converted => {
                    self.entry(name, Fate::NotNeeded, &[], "a node of this role on this network does not use it");
                }
            }
        }
        self.entries.sort_by(|one, other| one.flag.cmp(&other.flag));
        Ok(())
    }

    // What the parts use.

    fn text(&self, flag: &str) -> Option<String> {
        self.settings.get(flag).map(|setting| setting.value.clone())
    }

    fn boolean(&self, flag: &'static str) -> Result<Option<bool>> {
        let Some(text) = self.text(flag) else { return Ok(None) };
        let told = value::boolean(&text).ok_or_else(|| self.wrong(flag, "must be true or false"))?;
        Ok(Some(told))
    }

    /// A number and the bounds it must lie in here; it is moved to the nearest.
    fn number(&self, flag: &'static str, min: u64, max: u64) -> Result<Option<(i64, &'static str)>> {
        let Some(text) = self.text(flag) else { return Ok(None) };
        let number = value::integer(&text).ok_or_else(|| self.wrong(flag, "must be a whole number"))?;
        self.bounded(flag, number, min, max).map(Some)
    }

    /// A duration in whole units, not shorter than it was.
    fn duration(&self, flag: &'static str, unit_ms: u128, min: u64, max: u64) -> Result<Option<(i64, &'static str)>> {
        let Some(text) = self.text(flag) else { return Ok(None) };
        let duration =
            value::duration(&text).ok_or_else(|| self.wrong(flag, "must be a duration such as 5m or 30s"))?;
        let units = duration.as_millis().div_ceil(unit_ms);
        self.bounded(flag, u64::try_from(units).unwrap_or(u64::MAX), min, max).map(Some)
    }

    fn bounded(&self, flag: &'static str, number: u64, min: u64, max: u64) -> Result<(i64, &'static str)> {
        let bound = number.clamp(min, max);
        let remark = if bound == number { "" } else { "moved into the range it may have here" };
        let bound = i64::try_from(bound).map_err(|_| self.wrong(flag, "too large"))?;
        Ok((bound, remark))
    }

    fn wei(&self, flag: &'static str) -> Result<Option<Wei>> {
        let Some(text) = self.text(flag) else { return Ok(None) };
        let wei = Wei::from_dec_str(&text);
        wei.map(Some).map_err(|_| self.wrong(flag, "must be a whole number of wei"))
    }

    /// An error that names the flag and where it stands, not its value.
    fn wrong(&self, flag: &'static str, what: &str) -> ConvertError {
        let from = self.settings.get(flag).map_or("", |setting| setting.from.as_str());
        ConvertError { flag, what: format!("{what} ({from})") }
    }

    fn mapped(&mut self, flag: &str, keys: &[String], remark: &str) {
        self.entry(flag, Fate::Mapped, keys, remark);
    }

    /// Sets a key and accounts for the flag it comes from.
    fn map(&mut self, flag: &str, section: &str, key: &str, value: impl Into<Value>, remark: &str) {
        let key = self.document.set(section, key, value);
        self.mapped(flag, &[key], remark);
    }

    fn entry(&mut self, flag: &str, fate: Fate, keys: &[String], remark: &str) {
        let Some(setting) = self.settings.get(flag) else { return };
        self.entries.push(Entry {
            flag: format!("-{flag}"),
            from: setting.from.clone(),
            fate,
            keys: keys.to_vec(),
            remark: remark.to_owned(),
        });
    }

    /// What a flag means that takes a text or the path of a file with it, as go-livepeer decides: a file when there is
    /// one of this name. A path of a file that is not here is none.
    fn text_or_file(&self, flag: &'static str) -> Result<Option<TextOrFile>> {
        let Some(text) = self.text(flag) else { return Ok(None) };
        let path = Path::new(&text);
        if path.is_file() {
            let read = read_file(path).map_err(|why| self.wrong(flag, &format!("its file cannot be read: {why}")))?;
            return Ok(Some(TextOrFile::Text(read.trim().to_owned())));
        }
        Ok(Some(if path.is_absolute() { TextOrFile::Elsewhere } else { TextOrFile::Text(text) }))
    }
}

/// A text, or the path of a file that is not on this machine.
enum TextOrFile {
    Text(String),
    Elsewhere,
}

fn read_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
