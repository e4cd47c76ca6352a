//! `millrace import-config`: what an operator of go-livepeer has, as a configuration of ours.
//!
//! [`read`] finds the settings wherever they stand, [`convert`] turns each into keys of `node.toml` or says why not;
//! `flags` knows every flag there is. The node's own `--check` has the last word on the file.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::failure::{self, Code, Failure, Outcome, unreadable, unwritable};
use crate::table;

mod convert;
mod document;
mod flags;
mod prices;
mod read;
mod value;
mod words;

use self::convert::{Entry, Fate, Imported, Options};
use self::read::Found;

/// Largest file read.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, ClapArgs)]
#[command(
    after_help = "A FILE is go-livepeer's configuration file (key value), a systemd unit, a shell script with its command
line, or a file of LP_ variables. Settings of a command line win over LP_ variables, these over a configuration file,
as in go-livepeer itself; of two files, the one named first. -config FILE of a command line is followed.

The report on standard error tells of every flag what became of it, and what is left to do by hand. It holds no secret;
keys and passwords are never read. Exit code 1: something that was set is not supported here.

Examples:
  millrace import-config /etc/systemd/system/livepeer.service -o /etc/millrace/node.toml
  millrace import-config ~/livepeer.conf --environment > node.toml
  millrace import-config -o node.toml -- -orchestrator -transcoder -serviceAddr orch.example:8935 -nvidia all
  millrace-node --config node.toml --check"
)]
pub(crate) struct Args {
    /// Files with settings of go-livepeer
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the configuration here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File for the orchestrator's secret, written with mode 0600. Default: orch-secret beside --out; without --out it is
    /// not written
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// Take LP_ variables of this command's own environment too
    #[arg(long)]
    environment: bool,
    /// Chain id of a -network that is none of go-livepeer's own
    #[arg(long, value_name = "NUMBER")]
    chain_id: Option<u64>,
    /// Report unknown flags instead of failing
    #[arg(long)]
    lenient: bool,
    /// Write the report as JSON
    #[arg(long)]
    json: bool,
    /// A command line of go-livepeer, without the program's name
    #[arg(last = true, value_name = "FLAGS")]
    line: Vec<String>,
}

pub(crate) fn run(args: &Args) -> failure::Result {
    let mut found = gather(args)?;
    if let Some(config) = found.settings.get("config").map(|setting| PathBuf::from(&setting.value)) {
        let text = read_file(&config)?;
        found.under(read::configuration(&text, &config.display().to_string()).map_err(wrong)?);
    }
    if !found.unknown.is_empty() && !args.lenient {
        let names: Vec<_> = found.unknown.iter().map(|(name, from)| format!("{name} ({from})")).collect();
        let advice = "names are as go-livepeer 0.9.1 has them, case matters; --lenient only reports what is unknown";
        return Err(Failure::new(Code::Data, format!("no flags of go-livepeer: {}", names.join(", "))).advise(advice));
    }
    let beside = args.out.as_ref().map(|out| out.with_file_name("orch-secret"));
    let secret_file = args.secret_file.clone().or(beside);
    let options = Options {
        chain_id: args.chain_id,
        secret_file: match &secret_file {
            Some(path) => std::path::absolute(path).map_err(|error| unwritable(path, &error))?,
            None => PathBuf::from("/etc/millrace/orch-secret"),
        },
    };
    let mut imported = convert::convert(&found.settings, &options).map_err(wrong)?;
    account_for(&mut imported, found);
    if imported.secret.is_some() && secret_file.is_none() {
        imported
            .todo
            .insert(0, format!("put the orchestrator's secret into {}, mode 0600", options.secret_file.display()));
    }
    let secret = imported.secret.as_ref().filter(|_| secret_file.is_some());
    write(args, &imported, secret.map(|secret| (options.secret_file.as_path(), secret)))?;
    report(args, &imported)?;
    let lost = imported.entries.iter().any(|entry| matches!(entry.fate, Fate::NotSupported | Fate::Unknown));
    Ok(if lost { Outcome::Partly } else { Outcome::Done })
}

/// All settings, those that count most first.
fn gather(args: &Args) -> failure::Result<Found> {
    let line: Vec<_> = args.line.iter().map(|text| words::Word { text: text.clone(), unknown: None }).collect();
    let mut found = read::arguments(&line, "command line").map_err(wrong)?;
    let mut files = Vec::new();
    for path in &args.files {
        let text = read_file(path)?;
        files.push(read::file(&text, &path.display().to_string()).map_err(wrong)?);
    }
    if args.environment {
        let variables: BTreeMap<String, String> = std::env::vars().collect();
        let variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        files.push((read::environment(variables, "environment"), read::Rank::Environment));
    }
    // A stable sort: of two alike, the one named first counts more.
    files.sort_by_key(|(_, rank)| *rank);
    for (file, _) in files {
        found.under(file);
    }
    if found.settings.is_empty() && found.unknown.is_empty() {
        let advice = "name a file, or the command line itself after --; see millrace import-config --help";
        return Err(Failure::new(Code::Usage, "there is nothing to import").advise(advice));
    }
    Ok(found)
}

fn account_for(imported: &mut Imported, found: Found) {
    for (name, from) in found.unknown {
        let remark = "no flag of go-livepeer 0.9.1".to_owned();
        imported.entries.push(Entry { flag: name, from, fate: Fate::Unknown, keys: Vec::new(), remark });
    }
    imported.todo.splice(0..0, found.remarks);
}

fn wrong(error: impl std::error::Error) -> Failure {
    Failure::from_error(Code::Data, &error)
}

fn read_file(path: &Path) -> failure::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| unreadable(path, &error))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(Failure::new(Code::Data, format!("{} is too long for a file of settings", path.display())));
    }
    Ok(text)
}

/// Writes the configuration and the secret; neither when one of them is there already.
fn write(args: &Args, imported: &Imported, secret: Option<(&Path, &service::Secret)>) -> failure::Result<()> {
    let Some(out) = &args.out else {
        if let Some((path, secret)) = secret {
            create(path, secret.expose(), 0o600, args.force)?;
        }
        table::raw(&imported.toml);
        return Ok(());
    };
    let taken = [Some(out.as_path()), secret.map(|(path, _)| path)].into_iter().flatten().find(|path| path.exists());
    if let Some(path) = taken.filter(|_| !args.force) {
        let failure =
            Failure::new(Code::CannotCreate, format!("{} exists already; nothing was written", path.display()));
        return Err(failure.advise("--force overwrites it"));
    }
    if let Some((path, secret)) = secret {
        create(path, secret.expose(), 0o600, args.force)?;
    }
    create(out, imported.toml.as_bytes(), 0o644, args.force)
}

/// Writes a whole file or none: under another name first, so that one that was there stays until this one is complete.
fn create(path: &Path, bytes: &[u8], mode: u32, force: bool) -> failure::Result<()> {
    let fault = |error: std::io::Error| unwritable(path, &error);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = dir.join(name);
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(&fresh);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed =
        written.and_then(|()| if force { std::fs::rename(&fresh, path) } else { std::fs::hard_link(&fresh, path) });
    if placed.is_err() || !force {
        // What is left of it: after a link the other name, after a fault the pieces.
        let _ = std::fs::remove_file(&fresh);
    }
    placed.map_err(fault)
}

#[derive(Serialize)]
struct Report<'a> {
    flags: &'a [Entry],
    todo: &'a [String],
}

fn report(args: &Args, imported: &Imported) -> failure::Result<()> {
    if args.json {
        let report = Report { flags: &imported.entries, todo: &imported.todo };
        let text = serde_json::to_string_pretty(&report);
        eprintln!("{}", text.map_err(|error| Failure::new(Code::Software, format!("cannot write JSON: {error}")))?);
        return Ok(());
    }
    let row = |entry: &Entry| {
        let fate = match entry.fate {
            Fate::Mapped => "mapped",
            Fate::ByHand => "by hand",
            Fate::NotNeeded => "not needed",
            Fate::NotSupported => "not supported",
            Fate::Unknown => "unknown",
        };
        let parts = [entry.keys.join(", "), entry.remark.clone()];
        let told: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        vec![entry.flag.clone(), fate.to_owned(), told.join("; ")]
    };
    let rows: Vec<_> = imported.entries.iter().map(row).collect();
    eprint!("{}", table::render(&["flag", "became", "as, or because"], &rows));
    if !imported.todo.is_empty() {
        eprintln!("\nLeft to do:");
        for todo in &imported.todo {
            eprintln!("- {todo}");
        }
    }
    Ok(())
}
