//! From one version to the next while a stream runs, and back from one that is no good.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::machine::Machine;
use crate::release::{self, Server};
use crate::report::Report;
use crate::site::Push;
use crate::steps::{BOOT, COMMAND, Lab, READY};

/// Seconds of content that a gateway pushes while the box updates itself.
const STREAM: u32 = 90;
/// For an update to be fetched and written.
const WRITTEN: Duration = Duration::from_secs(1200);

/// Both updates; the machine of `serve` must be on.
pub(crate) fn run(lab: &mut Lab, report: &mut Report, next: &str, broken: &str) {
    let names = ["a signed version is staged", "the update waits for the stream", "the new version is blessed"];
    let Some(mut machine) = lab.machine.take() else { return report.skip(&names, "the box does not serve") };
    let server = report.check("releases are packed and signed", |report| offer(lab, report, &[next, broken]));
    let Some(server) = server else { return report.skip(&names, "there is no release") };

    let staged = report.check("a release of one signer is refused", |_| refused(&mut machine, &server, next));
    let staged =
        staged.and_then(|()| report.check("a signed version is staged", |_| stage(&mut machine, &server, next)));
    let quiet = staged.and_then(|()| {
        report.check("the update waits for the stream, no segment lost", |_| install(lab, &mut machine, next))
    });
    let blessed = quiet.and_then(|()| report.check("the new version is blessed", |_| blessed(lab, &mut machine, next)));
    if blessed.is_some() {
        report.check("the new version serves", |_| serves(lab, &mut machine));
        let begun = report.check("a broken version is installed", |_| {
            stage(&mut machine, &server, broken)?;
            install_idle(&mut machine, broken)?;
            Ok(((), "it starts on trial".into()))
        });
        if begun.is_some() {
            report.check("it fails its trial: back by itself, refused, told", |_| back(&mut machine, next, broken));
            report.check("the old version serves again", |_| serves(lab, &mut machine));
        }
    } else {
        report.skip(&["a broken version is left by itself"], "the good one did not come up");
    }
    lab.machine = Some(machine);
}

pub(crate) fn offer(lab: &Lab, report: &mut Report, versions: &[&str]) -> Result<(Server, String)> {
    let dir = lab.work.join("releases");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut sizes = Vec::new();
    for version in versions {
        let bytes = release::make(&lab.places, version, &dir.join(version))?;
        report.figure(&format!("update_{version}_bytes"), bytes);
        sizes.push(format!("{version}: {} MiB to fetch", bytes >> 20));
    }
    Ok((Server::start(dir)?, sizes.join(", ")))
}

/// As the fleet agent asks: a file that a path unit waits for.
fn request(machine: &mut Machine, what: &str, json: &str) -> Result<()> {
    let script = format!(
        "d=/run/millrace-fleet/update; printf '%s' '{json}' >$d/.new; chown millrace-fleet: $d/.new; chmod 644 $d/.new; \
         mv $d/.new $d/{what}.json"
    );
    machine.run(&script, COMMAND)?;
    Ok(())
}

fn refused(machine: &mut Machine, server: &Server, version: &str) -> Result<((), String)> {
    // Two of three are wanted.
    let url = server.url(&format!("{version}/one-signature.json"));
    let script = format!(
        "systemd-run --quiet --wait --pipe --collect --uid=millrace-update millrace-update stage --manifest {url} 2>&1"
    );
    let said = machine.try_run(&script, READY)?;
    ensure!(said.status == 1, "status {}: {}", said.status, said.text);
    Ok(((), said.text.lines().last().unwrap_or_default().chars().take(100).collect()))
}

/// Ask for a version to be fetched, as the fleet agent does.
pub(crate) fn ask_to_stage(machine: &mut Machine, server: &Server, version: &str) -> Result<()> {
    let manifest = server.url(&format!("{version}/manifest.json"));
    request(machine, "stage", &format!("{{\"id\":\"stage-{version}\",\"manifest\":\"{manifest}\"}}"))
}

fn stage(machine: &mut Machine, server: &Server, version: &str) -> Result<((), String)> {
    ask_to_stage(machine, server, version)?;
    let script = format!(
        "systemctl is-failed --quiet millrace-update-stage && {{ echo failed; journalctl -u millrace-update-stage -n 5 -o cat; exit 0; }}; \
         millrace-update status | grep -x 'staged    {version} Staged'"
    );
    let said = machine.until(&script, WRITTEN)?;
    ensure!(!said.starts_with("failed"), "{said}");
    Ok(((), said))
}

fn install(lab: &Lab, machine: &mut Machine, version: &str) -> Result<((), String)> {
    let before = machine.hello().context("the box is not up")?;
    let mut push = Push::start(&lab.work.join("push-update"), machine.port(), STREAM, "realtime")?;
    machine.until("millrace status --json | tr -d ' \\n' | grep -Eq '\"sessions\":\\{[^}]*\"active\":[1-9]'", READY)?;
    ensure!(push.runs()?, "the stream ended before the update was asked for");
    ask_to_install(machine, version)?;
    machine.until("millrace-update status | grep -q Draining", READY)?;
    ensure!(push.runs()?, "the stream ended before the box drained");
    let pushed = push.finish(Duration::from_secs(900))?;
    ensure!(pushed.lost == 0, "{} of {} segments were lost: {}", pushed.lost, pushed.done + pushed.lost, pushed.report);
    let hello = machine.boot(Some(&before), WRITTEN)?;
    ensure!(hello.version == version, "version {} came up", hello.version);
    Ok(((), format!("{} segments came back while it drained, none lost; then {version} started", pushed.done)))
}

/// Ask for the staged version, as the fleet agent does.
pub(crate) fn ask_to_install(machine: &mut Machine, version: &str) -> Result<()> {
    let json = format!("{{\"id\":\"install-{version}\",\"version\":\"{version}\",\"deadline_s\":1800}}");
    request(machine, "install", &json)
}

fn install_idle(machine: &mut Machine, version: &str) -> Result<()> {
    let before = machine.hello().context("the box is not up")?;
    ask_to_install(machine, version)?;
    let hello = machine.boot(Some(&before), WRITTEN)?;
    ensure!(hello.version == version, "version {} came up", hello.version);
    Ok(())
}

fn blessed(lab: &Lab, machine: &mut Machine, version: &str) -> Result<((), String)> {
    machine.until(&format!("ls /boot/EFI/Linux | grep -x millrace_{version}.efi"), READY)?;
    let status = machine.until(&format!("millrace-update status | grep -E '^last .* to {version}: Blessed'"), READY)?;
    let root = machine.run(
        "veritysetup status root | grep -E 'status|data device'; systemctl is-active boot-complete.target",
        COMMAND,
    )?;
    ensure!(root.contains("verified"), "{root}");
    lab.fleet.until("the controller hears of the box again", READY, |detail| {
        (detail.get("presence")?.as_str()? == "ONLINE").then_some(())
    })?;
    Ok(((), status))
}

fn serves(lab: &Lab, machine: &mut Machine) -> Result<((), String)> {
    machine.until("systemctl is-active millrace-node", READY)?;
    let pushed = Push::start(&lab.work.join("push-after"), machine.port(), 6, "max")?.finish(READY)?;
    ensure!(pushed.lost == 0, "{} segments were lost: {}", pushed.lost, pushed.report);
    Ok(((), format!("{} segments, none lost", pushed.done)))
}

fn back(machine: &mut Machine, good: &str, broken: &str) -> Result<((), String)> {
    let on_trial = machine.hello();
    let hello = machine.boot(on_trial.as_ref(), BOOT)?;
    ensure!(hello.version == good, "version {} came up", hello.version);
    let said = machine.until(
        &format!("millrace-update status | grep -E '^(last .* to {broken}: RolledBack|refused +{broken})'"),
        READY,
    )?;
    ensure!(said.contains("RolledBack") && said.contains("refused"), "{said}");
    let files = machine.run("ls /boot/EFI/Linux", COMMAND)?;
    ensure!(files.contains(&format!("millrace_{broken}+0-")), "the boot menu has {files}");
    Ok(((), said.replace('\n', "; ")))
}
