//! A machine in emulation: UEFI with Secure Boot, a software TPM, a disk, a network that reaches this host only.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::hands::{Hands, Hello, Output};

/// How long the emulator may take to open its line.
const SWITCHED_ON: Duration = Duration::from_secs(20);
/// The port in the machine that gateways come to.
const SERVICE_PORT: u16 = 8935;

/// Where the checkout, the images and the machines are, outside and inside the tool root.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The checkout.
    pub(crate) repository: PathBuf,
    /// `target/image`, which is `/out` in the tool root.
    pub(crate) out: PathBuf,
}

impl Places {
    /// The path by which the tool root knows a file below `target/image`.
    pub(crate) fn inside(&self, path: &Path) -> Result<PathBuf> {
        let below =
            path.strip_prefix(&self.out).with_context(|| format!("{} is not below the images", path.display()))?;
        Ok(Path::new("/out").join(below))
    }

    /// A command that runs in the tool root.
    pub(crate) fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(self.repository.join("image/in-tools.sh"));
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Run a script in the tool root to its end.
    pub(crate) fn script(&self, script: &str) -> Result<String> {
        let output = self.tool("sh").args(["-euc", script]).output().context("the tool root")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}: {}", script, String::from_utf8_lossy(&output.stderr).trim());
        Ok(said)
    }
}

/// Which firmware a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// Secure Boot; in setup mode until the image's keys are enrolled.
    Secure,
    /// None of it: the same machine after somebody changed its firmware.
    Open,
}

/// A machine that is switched off.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// A directory below `target/image` with everything the machine keeps.
    pub(crate) dir: PathBuf,
    /// Its firmware.
    pub(crate) firmware: Firmware,
    /// File name of the firmware's variables, in `dir`.
    pub(crate) variables: String,
    /// File name of the disk, in `dir`; ending in `.raw` or `.qcow2`.
    pub(crate) disk: String,
    /// A file of the host that it sees as a second, read-only disk.
    pub(crate) second_disk: Option<PathBuf>,
    /// Texts that the virtual firmware hands over (SMBIOS type 11).
    pub(crate) firmware_texts: Vec<String>,
    /// Whether it stays off instead of starting again.
    pub(crate) no_reboot: bool,
}

/// A machine that is on; switched off hard when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    parts: Parts,
    emulator: Child,
    tpm: Child,
    hands: Hands,
    port: u16,
    on_since: Instant,
}

impl Parts {
    /// A machine with a new disk that continues `image`, a blank TPM and firmware in setup mode.
    pub(crate) fn new(places: &Places, dir: PathBuf, image: &Path) -> Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("the old machine"),
            _ => fs::create_dir_all(dir.join("tpm"))?,
        }
        let inside = places.inside(&dir)?;
        places.script(&format!(
            "qemu-img create -q -f qcow2 -b {} -F {format} {dir}/disk.qcow2 14G; cp /usr/share/OVMF/OVMF_VARS_4M.fd {dir}/vars.fd",
            places.inside(image)?.display(),
            format = if image.extension().is_some_and(|ending| ending == "qcow2") { "qcow2" } else { "raw" },
            dir = inside.display()
        ))?;
        Ok(Self::of(dir))
    }

    fn of(dir: PathBuf) -> Self {
        Self {
            dir,
            firmware: Firmware::Secure,
            variables: "vars.fd".into(),
            disk: "disk.qcow2".into(),
            second_disk: None,
            firmware_texts: Vec::new(),
            no_reboot: false,
        }
    }

    /// The machine that an earlier run left in `dir`.
    pub(crate) fn left(dir: &Path) -> Option<Self> {
        dir.join("disk.qcow2").is_file().then(|| Self::of(dir.to_owned()))
    }

    /// A copy of a machine that is off: its disk continues the other's.
    pub(crate) fn like(places: &Places, other: &Self, dir: PathBuf) -> Result<Self> {
        let copy = Self::new(places, dir, &other.dir.join(&other.disk))?;
        let (from, to) = (places.inside(&other.dir)?, places.inside(&copy.dir)?);
        let (from, to) = (from.display(), to.display());
        places.script(&format!(
            "qemu-img create -q -f qcow2 -b {from}/{disk} -F qcow2 {to}/disk.qcow2; cp {from}/{vars} {to}/vars.fd; cp -r {from}/tpm {to}/",
            disk = other.disk,
            vars = other.variables
        ))?;
        Ok(copy)
    }

    /// What the machine wrote on its serial line since it was last switched on.
    pub(crate) fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("serial.log")).unwrap_or_default()).into_owned()
    }

    /// Switch the machine on.
    pub(crate) fn start(&self, places: &Places) -> Result<Machine> {
        let inside = places.inside(&self.dir)?;
        let at = |name: &str| inside.join(name).display().to_string();
        // What ran before is kept: a failed run is read from all its boots.
        if let Ok(before) = fs::read(self.dir.join("serial.log")) {
            let mut history = fs::read(self.dir.join("serial-before.log")).unwrap_or_default();
            history.extend(before);
            fs::write(self.dir.join("serial-before.log"), history)?;
        }
        for socket in ["tpm.sock", "hands.sock"] {
            let _ = fs::remove_file(self.dir.join(socket));
        }
        let log = File::create(self.dir.join("machine.log"))?;
        // The TPM changes its directory, so its paths are whole ones.
        let tpm = places
            .tool("swtpm")
            .args(["socket", "--tpm2", "--terminate", "--tpmstate", &format!("dir={}", at("tpm"))])
            .args(["--ctrl", &format!("type=unixio,path={}", at("tpm.sock"))])
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .context("the software TPM")?;
        let deadline = Instant::now() + SWITCHED_ON;
        while !self.dir.join("tpm.sock").exists() {
            ensure!(Instant::now() < deadline, "the software TPM does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let code = match self.firmware {
            Firmware::Secure => "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
            Firmware::Open => "/usr/share/OVMF/OVMF_CODE_4M.fd",
        };
        let format = self.disk.rsplit_once('.').map_or("raw", |(_, ending)| ending);
        let mut command = places.tool("qemu-system-x86_64");
        // Never KVM: a test that is fast on one machine and impossible on another is worth less.
        command
            .args(["-machine", "q35,smm=on", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536"])
            .args(["-no-user-config", "-nodefaults", "-display", "none", "-vga", "std", "-monitor", "none"])
            .args(["-global", "driver=cfi.pflash01,property=secure,value=on"])
            .args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={code}")])
            .args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", at(&self.variables))])
            .args(["-drive", &format!("if=none,id=disk,file={},format={format},discard=unmap", at(&self.disk))])
            .args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"])
            .args(["-chardev", &format!("socket,id=tpm,path={}", at("tpm.sock"))])
            .args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"])
            .args(["-device", "i6300esb", "-action", "watchdog=reset", "-device", "virtio-rng-pci"])
            .args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=hands,name=millrace.test"])
            .args(["-chardev", &format!("socket,id=hands,server=on,wait=off,path={}", at("hands.sock"))])
            .args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{SERVICE_PORT}")])
            .args(["-device", "virtio-net-pci,netdev=net"])
            .args(["-serial", &format!("file:{}", at("serial.log"))]);
        if let Some(file) = &self.second_disk {
            let file = places.inside(file)?;
            command
                .args(["-drive", &format!("if=none,id=second,readonly=on,format=raw,file={}", file.display())])
                .args(["-device", "virtio-blk-pci,drive=second,serial=second"]);
        }
        command.args(["-smbios", "type=1,serial=MILLRACE-TEST-1,uuid=5a6f1c1e-2f0b-4a53-9d0e-6b1c3f7a9e01"]);
        for text in &self.firmware_texts {
            command.args(["-smbios", &format!("type=11,value={text}")]);
        }
        if self.no_reboot {
            command.arg("-no-reboot");
        }
        let emulator = command.stdout(log.try_clone()?).stderr(log).spawn().context("the emulator")?;
        let mut on = Emulated { emulator: Some(emulator), tpm: Some(tpm) };
        let hands = Hands::connect(&self.dir.join("hands.sock"), SWITCHED_ON).with_context(|| {
            format!(
                "the emulator did not start: {}",
                fs::read_to_string(self.dir.join("machine.log")).unwrap_or_default()
            )
        })?;
        let (Some(emulator), Some(tpm)) = (on.emulator.take(), on.tpm.take()) else { bail!("nothing was started") };
        Ok(Machine { parts: self.clone(), emulator, tpm, hands, port, on_since: Instant::now() })
    }
}

/// Ends both programs when the machine does not come on.
struct Emulated {
    emulator: Option<Child>,
    tpm: Option<Child>,
}

impl Drop for Emulated {
    fn drop(&mut self) {
        for child in [&mut self.emulator, &mut self.tpm].into_iter().flatten() {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl Machine {
    /// The port of this host that leads to the machine's service port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How long it has been on.
    pub(crate) fn on_for(&self) -> Duration {
        self.on_since.elapsed()
    }

    /// What it has written on its serial line.
    pub(crate) fn serial(&self) -> String {
        self.parts.serial()
    }

    /// Which boot was seen last.
    pub(crate) fn hello(&self) -> Option<Hello> {
        self.hands.hello().cloned()
    }

    /// Wait for the next boot after `before`.
    pub(crate) fn boot(&mut self, before: Option<&Hello>, limit: Duration) -> Result<Hello> {
        self.hands
            .next_boot(before, limit)?
            .with_context(|| format!("no boot within {limit:?}; the serial line ends: {}", tail(&self.serial(), 12)))
    }

    /// Run a script in the machine and expect it to succeed.
    pub(crate) fn run(&mut self, script: &str, limit: Duration) -> Result<String> {
        let Output { status, text } = self.hands.run(script, limit)?;
        ensure!(status == 0, "status {status} of `{}`: {}", short(script), tail(&text, 12));
        Ok(text)
    }

    /// Run a script in the machine, whatever becomes of it.
    pub(crate) fn try_run(&mut self, script: &str, limit: Duration) -> Result<Output> {
        self.hands.run(script, limit)
    }

    /// Run a script in the machine again and again until it succeeds.
    pub(crate) fn until(&mut self, script: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let Output { status, text } = self.hands.run(script, Duration::from_secs(60))?;
            if status == 0 {
                return Ok(text);
            }
            ensure!(Instant::now() < deadline, "not within {limit:?}: `{}`: {}", short(script), tail(&text, 12));
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// Wait until the serial line shows one of these texts, the boots' hands say hello, or the machine is off.
    pub(crate) fn watch(&mut self, wanted: &[&str], limit: Duration) -> Result<Seen> {
        let deadline = Instant::now() + limit;
        loop {
            let serial = self.serial();
            if let Some(text) = wanted.iter().find(|text| serial.contains(**text)) {
                return Ok(Seen::Text((*text).to_owned()));
            }
            match self.hands.next_boot(None, Duration::from_millis(500)) {
                Ok(Some(hello)) => return Ok(Seen::Boot(hello)),
                Ok(None) => {}
                Err(_) => return Ok(Seen::Off),
            }
            if Instant::now() > deadline {
                return Ok(Seen::Nothing);
            }
        }
    }

    /// Wait until the machine has switched itself off.
    pub(crate) fn ended(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while self.emulator.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(true)
    }

    /// Pull the plug.
    pub(crate) fn pull_the_plug(self) {}
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.emulator);
        end(&mut self.tpm);
    }
}

/// What was seen first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// This text, on the serial line.
    Text(String),
    /// A boot got as far as its hands.
    Boot(Hello),
    /// The machine went off.
    Off,
    /// None of it, in the time given.
    Nothing,
}

/// A script's beginning: later in it may be what is nobody's business.
fn short(script: &str) -> String {
    script.trim().chars().take(100).collect()
}

/// The last lines of a text, in one.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join(" | ")
}
