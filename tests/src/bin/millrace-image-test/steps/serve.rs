//! From a blank disk to segments served: first boot, waiting, provisioning, a gateway, the fleet.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::machine::{Machine, Parts};
use crate::report::Report;
use crate::site::{self, Push};
use crate::steps::{BOOT, COMMAND, Lab, READY};

/// Segments of the first stream.
const SEGMENTS: u32 = 12;

/// All of it; the machine stays on.
pub(crate) fn run(lab: &mut Lab, report: &mut Report) {
    let Some(mut machine) = report.check("first boot", |report| first_boot(lab, report)) else {
        return report.skip(&["the box serves"], "the first boot failed");
    };
    report.check("verified root, Secure Boot, sealed /var", |_| verified(&mut machine));
    report.check("unprovisioned: waits and says so", |_| waiting(&mut machine));
    report.check("unprovisioned: nothing listens", |_| listeners(&mut machine, &[]));
    if report.check("provisioned: the node serves", |_| provision(lab, &mut machine)).is_some() {
        report.check("a gateway's segments come back", |report| push(lab, &mut machine, report));
        report.check("heartbeats reach the controller", |_| heartbeat(lab));
        report.check("nothing listens but the service port", |_| {
            let port = machine.port().to_string();
            listeners(&mut machine, &[&port])
        });
        report.check("each user goes out only where its work is", |_| firewall(&mut machine));
        report.check("no unit failed; memory", |report| idle(&mut machine, report));
    } else {
        report.skip(&["the box serves"], "the node does not");
    }
    lab.machine = Some(machine);
}

fn first_boot(lab: &mut Lab, report: &mut Report) -> Result<(Machine, String)> {
    let parts = Parts::new(&lab.places, lab.work.join("box"), &lab.image)?;
    let mut machine = parts.start(&lab.places)?;
    lab.parts = Some(parts);
    let hello = machine.boot(None, BOOT)?;
    ensure!(hello.version == lab.version, "version {} came up", hello.version);
    machine.until("systemctl is-active multi-user.target", READY)?;
    let seconds = machine.on_for().as_secs();
    report.figure("first_boot_s", seconds);
    let analysed = machine.until("systemd-analyze | head -n 1", READY)?;
    report.figure("first_boot_systemd", analysed.clone());
    // Kept for machines that are to have this firmware state: keys enrolled, Secure Boot on.
    fs::copy(lab.work.join("box/vars.fd"), lab.work.join("enrolled.fd"))?;
    Ok((machine, format!("{seconds} s from power-on; {analysed}")))
}

fn verified(machine: &mut Machine) -> Result<((), String)> {
    let root = machine.run("findmnt -no SOURCE,FSTYPE,OPTIONS / && veritysetup status root", COMMAND)?;
    ensure!(root.contains("erofs ro") && root.contains("verified"), "the root is {root}");
    let secure = machine.run("bootctl status 2>/dev/null | grep -i 'secure boot:'", COMMAND)?;
    ensure!(secure.contains("enabled"), "{secure}");
    let sealed = machine.run(
        "cryptsetup luksDump /dev/disk/by-partlabel/millrace-var | grep -A9 systemd-tpm2; findmnt -no SOURCE /var",
        COMMAND,
    )?;
    ensure!(sealed.contains("systemd-tpm2") && sealed.contains("/dev/mapper/var"), "{sealed}");
    let writable = machine.try_run("touch /usr/x || touch /etc/x || mount -o remount,rw /", COMMAND)?;
    ensure!(writable.status != 0, "the root can be written");
    Ok(((), "erofs by dm-verity, Secure Boot enabled, LUKS key in the TPM".into()))
}

fn waiting(machine: &mut Machine) -> Result<((), String)> {
    let screen = machine.until("tr -d '\\0' </dev/vcs1 | fold -w 80 | grep -A1 -E 'Millrace|serial|WAITING'", READY)?;
    ensure!(screen.contains("WAITING to be provisioned") && screen.contains("serial"), "the screen shows: {screen}");
    let node = machine.try_run("systemctl is-active millrace-node", COMMAND)?;
    ensure!(node.text.trim() == "inactive", "the node is {}", node.text);
    let doors = machine.try_run("systemctl list-units --all --no-legend '*getty*' '*ssh*' 'debug-shell*'", COMMAND)?;
    ensure!(!doors.text.contains("active running"), "there is a door: {}", doors.text);
    Ok(((), "the screen says what it waits for; no getty, no shell, no ssh".into()))
}

/// The sockets that listen or take datagrams beyond loopback are those of `allowed`, and DHCP's.
pub(super) fn listeners(machine: &mut Machine, allowed: &[&str]) -> Result<((), String)> {
    let sockets = machine.run("ss -Hlntu | awk '{ print $1, $5 }'", COMMAND)?;
    for line in sockets.lines() {
        let Some((kind, address)) = line.split_once(' ') else { continue };
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let local = host.starts_with("127.") || host.starts_with("[::1]");
        let dhcp = kind == "udp" && matches!(port, "68" | "546" | "58" | "255");
        ensure!(local || dhcp || allowed.contains(&port), "{line} listens");
    }
    let open = machine.run("nft list set inet millrace service_ports", COMMAND)?;
    for port in allowed {
        ensure!(open.contains(port), "the firewall does not let {port} in: {open}");
    }
    ensure!(!allowed.is_empty() || !open.contains("elements"), "the firewall has a port open: {open}");
    let policy = machine.run("nft list chain inet millrace input", COMMAND)?;
    ensure!(policy.contains("policy drop"), "{policy}");
    let shown = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
    Ok(((), format!("beyond loopback: {shown}; the firewall agrees")))
}

/// Give the box its site file as an operator would, on the boot partition, and see that what waited starts.
pub(super) fn provision(lab: &Lab, machine: &mut Machine) -> Result<((), String)> {
    let envelope = site::signed(&lab.places, &lab.fleet, machine.port())?;
    let script = format!(
        "set -eu; mkdir -p /boot/MILLRACE; echo {} | base64 -d >/boot/MILLRACE/provision.json; sync; \
         systemctl start millrace-provision.service; systemctl start --no-block millrace-health.service",
        STANDARD.encode(envelope)
    );
    machine.run(&script, READY)?;
    for unit in ["node", "fleet", "service-port", "site", "keys"] {
        machine.until(&format!("systemctl is-active --quiet millrace-{unit} || {{ systemctl status --no-pager -n 5 millrace-{unit}; exit 1; }}"), READY)?;
    }
    let healthy = machine
        .until("systemctl is-active --quiet millrace-health && cat /var/lib/millrace-update/health/last.json", READY)?;
    ensure!(healthy.contains("\"healthy\": true"), "{healthy}");
    let plain = machine.try_run(
        "grep -l 'PRIVATE KEY' -r /var/lib/millrace-site; grep -c claim /boot/MILLRACE/provision.json 2>/dev/null",
        COMMAND,
    )?;
    ensure!(!plain.text.contains("millrace-site"), "a key lies open in {}", plain.text);
    Ok(((), "node, fleet agent, health gate; the device key is sealed".into()))
}

pub(super) fn push(lab: &Lab, machine: &mut Machine, report: &mut Report) -> Result<((), String)> {
    let begun = Instant::now();
    let pushed = Push::start(&lab.work.join("push"), machine.port(), SEGMENTS, "max")?.finish(READY)?;
    ensure!(pushed.lost == 0, "{} of {SEGMENTS} segments were lost: {}", pushed.lost, pushed.report);
    report.figure("push", pushed.report.clone());
    let seconds = begun.elapsed().as_secs();
    report.figure("boot_to_served_s", machine.on_for().as_secs());
    Ok(((), format!("{} segments in {seconds} s, none lost", pushed.done)))
}

pub(super) fn heartbeat(lab: &Lab) -> Result<((), String)> {
    let limit = Duration::from_secs(180);
    let mode = lab.fleet.until("the box is online with a heartbeat", limit, |detail| {
        let beat = detail.get("last")?.get("hb")?;
        (detail.get("presence")?.as_str()? == "ONLINE").then(|| beat.clone())
    })?;
    Ok(((), format!("by way of the broker: {}", mode.to_string().chars().take(90).collect::<String>())))
}

/// Programs of each user try what they must not reach. The listener is this host, at its address inside the machine.
pub(super) fn firewall(machine: &mut Machine) -> Result<((), String)> {
    let reach = |user: &str| {
        format!(
            "systemd-run --quiet --wait --pipe --collect -p User={user} -p RuntimeMaxSec=15 \
             /usr/bin/bash -c 'exec 3<>/dev/tcp/10.0.2.2/22 || exit 7' 2>&1; nft list counters table inet millrace"
        )
    };
    let count = |text: &str, name: &str| -> Option<u64> {
        let after = text.split(&format!("counter {name} ")).nth(1)?;
        after.split("packets ").nth(1)?.split_whitespace().next()?.parse().ok()
    };
    let before = machine.try_run("nft list counters table inet millrace", COMMAND)?.text;
    machine.try_run(&reach("millrace"), COMMAND)?;
    let node = machine.try_run(&reach("millrace-signer"), COMMAND)?.text;
    let grown = |name| Some(count(&node, name)? > count(&before, name)?);
    ensure!(grown("refused_node") == Some(true), "the node reached the site's network: {node}");
    ensure!(grown("refused_out") == Some(true), "the signer reached a network: {node}");
    Ok(((), "node to a private address: refused; signer to anything: refused".into()))
}

pub(super) fn idle(machine: &mut Machine, report: &mut Report) -> Result<((), String)> {
    let failed = machine.run("systemctl --failed --no-legend --plain", COMMAND)?;
    ensure!(failed.trim().is_empty(), "{failed}");
    let memory = machine.run(
        "for unit in node signer fleet screen; do pid=$(systemctl show -P MainPID millrace-$unit); [ $pid = 0 ] && continue; \
         awk -v unit=$unit '/^VmRSS/ { print unit, $2 }' /proc/$pid/status; done",
        COMMAND,
    )?;
    let kilobytes: u64 = memory.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    report.figure("idle_rss_kib", kilobytes);
    report.figure("idle_rss", memory.clone());
    let written = machine.run("awk '$3 == \"vda\" { print $10 * 512 }' /proc/diskstats; cat /proc/uptime", COMMAND)?;
    report.figure("written_since_boot", written);
    Ok(((), format!("none failed; ours together {} MiB: {}", kilobytes / 1024, memory.replace('\n', ", "))))
}
