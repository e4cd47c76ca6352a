//! `millrace label`: what is stuck on a box before it leaves the factory. From the report that the factory's medium wrote of a
//! box that passed its test come a label to print, with a claim token bound to the serial number, and what the controller is told
//! of it: the token's hash, never the token.
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use fleet_protocol::api::NewClaim;
use fleet_protocol::enrol;
use qrcodegen::{QrCode, QrCodeEcc};
use rand::RngCore as _;
use rand::rngs::OsRng;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::failure::{self, Code, Failure, Outcome, unreadable, unwritable};

/// Largest report that is read, bytes.
const REPORT_MAX: u64 = 64 * 1024;
/// Modules of white that every side of a QR code needs.
const QUIET: i32 = 4;
/// Width and height of the label, millimetres.
const LABEL_MM: (u32, u32) = (62, 29);

/// Make the labels of boxes that passed the factory's test.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Writes SERIAL.svg, to be printed and stuck on the box, and SERIAL.claim.json, the body of the controller's
POST /api/claims. The label is the only place where the token stands: whoever photographs it before the box was
claimed can claim the box. A box whose report says that it failed gets no label; a label is never written over.

Example:
  millrace label /media/MILLRACE/boxes/BOX-0042.json --out labels/
  curl --data @labels/BOX-0042.claim.json -H 'content-type: application/json' http://127.0.0.1:8095/api/claims"
)]
pub(crate) struct Args {
    /// Reports of boxes, as the factory's medium has them
    #[arg(required = true, value_name = "REPORT")]
    report: Vec<PathBuf>,
    /// The directory to write into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Days until the claim is no longer taken
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
    /// The ring the boxes will be in
    #[arg(long)]
    ring: Option<String>,
}

/// What is read of a box's report.
#[derive(Debug, Deserialize)]
struct Report {
    v: u8,
    serial: String,
    model: String,
    profile: String,
    version: String,
    passed: bool,
}

pub(crate) fn run(args: &Args) -> failure::Result {
    // All of them are looked at before the first label is made.
    let reports = args.report.iter().map(|path| read(path)).collect::<failure::Result<Vec<_>>>()?;
    fs::create_dir_all(&args.out).map_err(|error| unwritable(&args.out, &error))?;
    for report in reports {
        let token = token();
        let claim = NewClaim {
            serial: report.serial.clone(),
            token_sha256: hex::encode(enrol::token_key(&token)),
            ring: args.ring.clone(),
            days: args.days,
        };
        let claim = serde_json::to_string_pretty(&claim).expect("a claim is json");
        let label = args.out.join(format!("{}.svg", report.serial));
        // The claim is of use without the label, the label without the claim is a box nobody can claim: it is made last.
        write(&args.out.join(format!("{}.claim.json", report.serial)), &claim, &label)?;
        write(&label, &svg(&report, &token)?, &label)?;
        println!("{}: {}", report.serial, label.display());
    }
    Ok(Outcome::Done)
}

fn read(path: &Path) -> failure::Result<Report> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(REPORT_MAX + 1).read_to_end(&mut text))
        .map_err(|error| unreadable(path, &error))?;
    let no_good = |why: String| Failure::new(Code::Data, format!("{}: {why}", path.display()));
    if u64::try_from(text.len()).is_ok_and(|length| length > REPORT_MAX) {
        return Err(no_good(format!("longer than {REPORT_MAX} bytes")));
    }
    let report: Report = serde_json::from_slice(&text).map_err(|error| no_good(error.to_string()))?;
    match &report {
        Report { v, .. } if *v != 1 => Err(no_good(format!("version {v} of a report is not known"))),
        Report { serial, .. } if serial == "unknown" || !enrol::is_serial(serial) => {
            Err(no_good(format!("'{serial}' is no serial number that a box can be known by")))
        }
        Report { passed: false, .. } => Err(no_good("the box did not pass its test".into())),
        _ => Ok(report),
    }
}

/// A new token: 128 bits, in letters that can be typed.
fn token() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; enrol::TOKEN_BYTES]);
    OsRng.fill_bytes(bytes.as_mut());
    Zeroizing::new(hex::encode(bytes.as_ref()))
}

/// A new file for the owner's eyes; a box that has a label keeps it.
fn write(path: &Path, text: &str, label: &Path) -> failure::Result<()> {
    if label.exists() {
        return Err(Failure::new(Code::CannotCreate, format!("{} exists already", label.display()))
            .advise("a second label would make the one on the box useless; remove it first if that is meant"));
    }
    let mut file = fs::OpenOptions::new();
    file.write(true).create(true).truncate(true).mode(0o600);
    let mut file = file.open(path).map_err(|error| unwritable(path, &error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| unwritable(path, &error))
}

fn svg(report: &Report, token: &str) -> failure::Result<Zeroizing<String>> {
    let content = Zeroizing::new(enrol::label(&report.serial, token));
    let code = QrCode::encode_text(&content, QrCodeEcc::Medium)
        .map_err(|error| Failure::from_error(Code::Software, &error))?;
    let side = code.size() + 2 * QUIET;
    let (width, height) = LABEL_MM;
    let mut drawing = Zeroizing::new(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}mm" height="{height}mm" viewBox="0 0 {width} {height}">
<rect width="{width}" height="{height}" fill="white"/>
<svg x="0" y="0" width="{height}" height="{height}" viewBox="0 0 {side} {side}" shape-rendering="crispEdges"><path d=""#
    ));
    for (y, x) in (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (y, x))) {
        if code.get_module(x, y) {
            let _ = write!(drawing, "M{},{}h1v1h-1z", x + QUIET, y + QUIET);
        }
    }
    drawing.push_str("\"/></svg>\n");
    let spaced = Zeroizing::new(
        token.as_bytes().chunks(8).map(|part| String::from_utf8_lossy(part).into_owned()).collect::<Vec<_>>().join(" "),
    );
    let (first, second) = spaced.split_at(spaced.len() / 2);
    let lines = [
        ("2.6", "Millrace", 5.5),
        ("2.2", report.model.as_str(), 9.0),
        ("2.6", report.serial.as_str(), 14.0),
        ("1.9", first, 18.5),
        ("1.9", second.trim_start(), 21.0),
        ("1.7", report.profile.as_str(), 25.5),
        ("1.7", report.version.as_str(), 27.7),
    ];
    for (size, line, y) in lines {
        let line: String = line.chars().take(40).collect();
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ =
            writeln!(drawing, r#"<text x="{height}" y="{y}" font-family="monospace" font-size="{size}">{line}</text>"#);
    }
    drawing.push_str("</svg>\n");
    Ok(drawing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"v":1,"serial":"BOX-0042","model":"Q35 <x> & \"y\"","profile":"x86","version":"0.1.0","passed":true,"checks":[]}"#;

    fn label(report: &str, dir: &Path) -> failure::Result {
        let path = dir.join("report.json");
        fs::write(&path, report).unwrap();
        run(&Args { report: vec![path], out: dir.join("labels"), days: 365, ring: None })
    }

    #[test]
    fn a_label_holds_the_token_whose_hash_the_controller_is_told() {
        let dir = tempfile::tempdir().unwrap();
        label(GOOD, dir.path()).unwrap();
        let svg = fs::read_to_string(dir.path().join("labels/BOX-0042.svg")).unwrap();
        let claim: NewClaim =
            serde_json::from_slice(&fs::read(dir.path().join("labels/BOX-0042.claim.json")).unwrap()).unwrap();
        let texts: Vec<&str> = svg.lines().filter_map(|l| l.strip_prefix("<text").map(|_| l)).collect();
        let inner = |l: &str| l.split_once('>').unwrap().1.replace("</text>", "");
        let token: String = [texts[3], texts[4]].map(inner).concat().replace(' ', "");
        assert_eq!(claim.token_sha256, hex::encode(enrol::token_key(&token)));
        // The code is that of the same token.
        let code = QrCode::encode_text(&enrol::label("BOX-0042", &token), QrCodeEcc::Medium).unwrap();
        let dark = (0..code.size())
            .flat_map(|y| (0..code.size()).map(move |x| (x, y)))
            .filter(|&(x, y)| code.get_module(x, y));
        let path = svg.split_once("<path d=\"").unwrap().1.split_once('"').unwrap().0;
        let wanted: String = {
            let mut all: Vec<_> = dark.collect();
            all.sort_by_key(|&(x, y)| (y, x));
            all.iter().map(|(x, y)| format!("M{},{}h1v1h-1z", x + QUIET, y + QUIET)).collect()
        };
        assert_eq!(path, wanted);
        assert!(svg.contains("Q35 &lt;x&gt; &amp; "), "a model's name is no drawing");
    }

    #[test]
    fn a_box_gets_one_label_and_only_when_it_passed_under_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        for (from, to) in [
            ("\"passed\":true", "\"passed\":false"),
            ("BOX-0042", "unknown"),
            ("BOX-0042", "../../etc/x"),
            ("\"v\":1", "\"v\":2"),
            ("\"passed\":true,", ""),
        ] {
            assert_eq!(label(&GOOD.replace(from, to), dir.path()).unwrap_err().code, Code::Data, "{to}");
            assert!(!dir.path().join("labels").exists(), "nothing is written for a box without a label");
        }
        label(GOOD, dir.path()).unwrap();
        let first = fs::read(dir.path().join("labels/BOX-0042.svg")).unwrap();
        let claim = fs::read(dir.path().join("labels/BOX-0042.claim.json")).unwrap();
        assert_eq!(label(GOOD, dir.path()).unwrap_err().code, Code::CannotCreate);
        assert_eq!(fs::read(dir.path().join("labels/BOX-0042.svg")).unwrap(), first);
        assert_eq!(fs::read(dir.path().join("labels/BOX-0042.claim.json")).unwrap(), claim);
    }
}
