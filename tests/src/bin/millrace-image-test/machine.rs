//! A machine in emulation: UEFI with Secure Boot, a software TPM, a disk, a network that reaches this host only.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::hands::{Hands, Hello, Output};

/// How long the emulator may take to open its line.
const SWITCHED_ON: Duration = Duration::from_secs(20);
/// How long the software TPM may take to write its state when the machine is gone.
const TPM_ENDS: Duration = Duration::from_secs(5);

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

/// What a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Board {
    /// A PC with a TPM.
    X86,
    /// A 64-bit ARM machine; Debian's kernel for those drives no TPM that can be emulated.
    Arm64,
}

/// A machine that is switched off.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// What it is.
    pub(crate) board: Board,
    /// A directory below `target/image` with everything the machine keeps.
    pub(crate) dir: PathBuf,
    /// Its firmware.
    pub(crate) firmware: Firmware,
    /// File name of the firmware's variables, in `dir`.
    pub(crate) variables: String,
    /// File name of the disk, in `dir`; ending in `.raw` or `.qcow2`, or in `.sock` where a [`crate::disk::Disk`] serves it.
    pub(crate) disk: String,
    /// Its service port, inside and on this host; the same however often it is switched on.
    pub(crate) port: u16,
    /// Texts that the virtual firmware hands over (SMBIOS type 11).
    pub(crate) firmware_texts: Vec<String>,
    /// Files of the host with more of them.
    pub(crate) firmware_files: Vec<PathBuf>,
    /// Whether it stays off instead of starting again.
    pub(crate) no_reboot: bool,
}

/// A machine that is on; switched off hard when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    parts: Parts,
    emulator: Child,
    tpm: Option<Child>,
    hands: Hands,
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
        Self::of(dir)
    }

    fn of(dir: PathBuf) -> Result<Self> {
        Ok(Self {
            board: Board::X86,
            dir,
            firmware: Firmware::Secure,
            variables: "vars.fd".into(),
            disk: "disk.qcow2".into(),
            port: TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
            firmware_texts: Vec::new(),
            firmware_files: Vec::new(),
            no_reboot: false,
        })
    }

    /// The machine that an earlier run left in `dir`.
    pub(crate) fn left(dir: &Path) -> Result<Self> {
        ensure!(dir.is_dir(), "there is no {}", dir.display());
        Self::of(dir.to_owned())
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
        for socket in ["tpm.sock", "hands.sock", "qmp.sock"] {
            let _ = fs::remove_file(self.dir.join(socket));
        }
        let log = File::create(self.dir.join("machine.log"))?;
        let tpm = match self.board {
            Board::X86 => Some(self.tpm(places, &log)?),
            Board::Arm64 => None,
        };
        let port = self.port;
        let disk = match self.disk.rsplit_once('.') {
            Some((_, "sock")) => format!("file=nbd:unix:{},format=raw", at(&self.disk)),
            Some((_, "qcow2")) => format!("file={},format=qcow2,discard=unmap", at(&self.disk)),
            _ => format!("file={},format=raw,discard=unmap", at(&self.disk)),
        };
        let (mut command, code) = self.emulator(places, &at("tpm.sock"));
        // Never KVM: a test that is fast on one machine and impossible on another is worth less.
        command
            .args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1536"])
            .args(["-no-user-config", "-nodefaults", "-display", "none", "-monitor", "none"])
            .args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={code}")])
            .args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", at(&self.variables))])
            .args(["-drive", &format!("if=none,id=disk,{disk}")])
            .args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"])
            .args(["-device", "virtio-rng-pci"])
            .args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=hands,name=millrace.test"])
            .args(["-chardev", &format!("socket,id=hands,server=on,wait=off,path={}", at("hands.sock"))])
            .args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{port}")])
            .args(["-device", "virtio-net-pci,netdev=net", "-device", "qemu-xhci,id=usb"])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp.sock"))])
            .args(["-serial", &format!("file:{}", at("serial.log"))]);
        command.args(["-smbios", "type=1,serial=MILLRACE-TEST-1,uuid=5a6f1c1e-2f0b-4a53-9d0e-6b1c3f7a9e01"]);
        for text in &self.firmware_texts {
            command.args(["-smbios", &format!("type=11,value={text}")]);
        }
        for file in &self.firmware_files {
            command.args(["-smbios", &format!("type=11,path={}", places.inside(file)?.display())]);
        }
        if self.no_reboot {
            command.arg("-no-reboot");
        }
        let emulator = command.stdout(log.try_clone()?).stderr(log).spawn().context("the emulator")?;
        let mut on = Emulated { emulator: Some(emulator), tpm };
        let hands = Hands::connect(&self.dir.join("hands.sock"), SWITCHED_ON).with_context(|| {
            format!(
                "the emulator did not start: {}",
                fs::read_to_string(self.dir.join("machine.log")).unwrap_or_default()
            )
        })?;
        let (Some(emulator), tpm) = (on.emulator.take(), on.tpm.take()) else { bail!("nothing was started") };
        Ok(Machine { parts: self.clone(), emulator, tpm, hands, on_since: Instant::now() })
    }

    /// The emulator with what is particular to the board, and its firmware.
    fn emulator(&self, places: &Places, tpm: &str) -> (Command, &'static str) {
        match self.board {
            Board::X86 => {
                let mut command = places.tool("qemu-system-x86_64");
                command
                    .args(["-machine", "q35,smm=on", "-cpu", "max", "-vga", "std"])
                    .args(["-global", "driver=cfi.pflash01,property=secure,value=on"])
                    .args(["-chardev", &format!("socket,id=tpm,path={tpm}")])
                    .args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"])
                    .args(["-device", "i6300esb", "-action", "watchdog=reset"]);
                let code = match self.firmware {
                    Firmware::Secure => "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
                    Firmware::Open => "/usr/share/OVMF/OVMF_CODE_4M.fd",
                };
                (command, code)
            }
            Board::Arm64 => {
                let mut command = places.tool("qemu-system-aarch64");
                command.args(["-machine", "virt,gic-version=3", "-cpu", "cortex-a76"]);
                let code = match self.firmware {
                    Firmware::Secure => "/usr/share/AAVMF/AAVMF_CODE.secboot.fd",
                    Firmware::Open => "/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd",
                };
                (command, code)
            }
        }
    }

    /// Start the software TPM. It changes its directory, so its paths are whole ones.
    fn tpm(&self, places: &Places, log: &File) -> Result<Child> {
        let inside = places.inside(&self.dir)?;
        let child = places
            .tool("swtpm")
            .args(["socket", "--tpm2", "--terminate", "--tpmstate", &format!("dir={}", inside.join("tpm").display())])
            .args(["--ctrl", &format!("type=unixio,path={}", inside.join("tpm.sock").display())])
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .context("the software TPM")?;
        let deadline = Instant::now() + SWITCHED_ON;
        while !self.dir.join("tpm.sock").exists() {
            ensure!(Instant::now() < deadline, "the software TPM does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(child)
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
    /// What it is made of.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Take in what it says for a while; the next boot after `before`, if it comes in that time.
    pub(crate) fn next_boot(&mut self, before: &Hello, limit: Duration) -> Result<Option<Hello>> {
        self.hands.next_boot(Some(before), limit)
    }

    /// Put a stick into a USB port, while it runs.
    pub(crate) fn plug_in(&self, places: &Places, file: &Path) -> Result<()> {
        let file = places.inside(file)?;
        let drive = json!({"node-name": "stick", "driver": "raw", "read-only": false, "file": {"driver": "file", "filename": file}});
        self.emulator_does("blockdev-add", &drive)?;
        let device =
            json!({"driver": "usb-storage", "id": "stick", "drive": "stick", "bus": "usb.0", "removable": true});
        self.emulator_does("device_add", &device)
    }

    /// Pull the stick out.
    pub(crate) fn pull_out(&self) -> Result<()> {
        self.emulator_does("device_del", &json!({"id": "stick"}))
    }

    /// One order to the emulator, in its own protocol: a greeting, then an answer for each line.
    fn emulator_does(&self, order: &str, arguments: &Value) -> Result<()> {
        let mut line = UnixStream::connect(self.parts.dir.join("qmp.sock")).context("the emulator's line")?;
        line.set_read_timeout(Some(SWITCHED_ON))?;
        let mut answers = BufReader::new(line.try_clone()?).lines();
        answers.next().context("no greeting")??;
        for (order, arguments) in [("qmp_capabilities", &json!({})), (order, arguments)] {
            writeln!(line, "{}", json!({"execute": order, "arguments": arguments}))?;
            loop {
                let answer: Value = serde_json::from_str(&answers.next().context("the emulator is gone")??)?;
                if let Some(error) = answer.get("error") {
                    bail!("the emulator does not {order}: {error}");
                }
                if answer.get("return").is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The port of this host that leads to the machine's service port.
    pub(crate) fn port(&self) -> u16 {
        self.parts.port
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
        // It ends by itself when the machine is gone, with its state whole; a real one is a chip of its own.
        let deadline = Instant::now() + TPM_ENDS;
        let Some(tpm) = &mut self.tpm else { return };
        while matches!(tpm.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        end(tpm);
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
