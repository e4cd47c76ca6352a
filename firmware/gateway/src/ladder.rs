//! The renditions as a ladder that plays: one media playlist per profile, one master playlist.
//!
//! ```text
//! DIR/in/00000.ts …          the source segments as sent
//! DIR/out/master.m3u8        names the playlists
//! DIR/out/720p.m3u8          names the segments
//! DIR/out/720p/00000.ts …    the renditions
//! ```
//! Playlists grow with each segment and are replaced whole, so the ladder plays while it is written.
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use livepeer::profile::Profile;

use crate::session::RenditionFile;

/// The ladder could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {path}")]
pub struct LadderError {
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

#[derive(Debug)]
pub(crate) struct Ladder {
    root: PathBuf,
    rungs: Vec<Rung>,
    /// A segment is missing before the next one.
    gap: bool,
    target_s: u64,
    ended: bool,
}

#[derive(Debug)]
struct Rung {
    name: String,
    bitrate: u32,
    lines: String,
    size: Option<(u32, u32)>,
    codecs: String,
    peak_bits_per_second: u64,
    bits: u64,
    millis: u64,
}

impl Ladder {
    pub(crate) fn create(root: &Path, profiles: &[Profile]) -> Result<Self, LadderError> {
        let rung = |profile: &Profile| Rung {
            name: file_name(&profile.name),
            bitrate: profile.bitrate.0,
            lines: String::new(),
            size: None,
            codecs: String::new(),
            peak_bits_per_second: 0,
            bits: 0,
            millis: 0,
        };
        let rungs: Vec<Rung> = profiles.iter().map(rung).collect();
        let dirs = rungs.iter().map(|rung| root.join("out").join(&rung.name)).chain([root.join("in")]);
        for path in dirs {
            fs::create_dir_all(&path).map_err(|source| LadderError { path, source })?;
        }
        Ok(Self { root: root.to_owned(), rungs, gap: false, target_s: 1, ended: false })
    }

    pub(crate) fn source(&self, seq: u64) -> PathBuf {
        self.root.join("in").join(segment_name(seq))
    }

    pub(crate) fn targets(&self, seq: u64) -> Vec<PathBuf> {
        self.rungs.iter().map(|rung| self.root.join("out").join(&rung.name).join(segment_name(seq))).collect()
    }

    /// A segment did not come back.
    pub(crate) fn skip(&mut self) {
        self.gap = true;
    }

    /// A segment is there: adds it to every playlist.
    pub(crate) fn add(&mut self, seq: u64, duration_ms: u64, renditions: &[RenditionFile]) -> Result<(), LadderError> {
        self.target_s = self.target_s.max(duration_ms.div_ceil(1000));
        for (rung, rendition) in self.rungs.iter_mut().zip(renditions) {
            if self.gap {
                rung.lines.push_str("#EXT-X-DISCONTINUITY\n");
            }
            rung.add(seq, duration_ms, rendition);
        }
        self.gap = false;
        self.write()
    }

    /// No more segments come.
    pub(crate) fn finish(&mut self) -> Result<(), LadderError> {
        self.ended = true;
        self.write()
    }

    fn write(&self) -> Result<(), LadderError> {
        for rung in &self.rungs {
            let mut text = format!(
                "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n",
                self.target_s
            );
            text.push_str(&rung.lines);
            if self.ended {
                text.push_str("#EXT-X-ENDLIST\n");
            }
            self.replace(&format!("{}.m3u8", rung.name), &text)?;
        }
        let mut master = String::from("#EXTM3U\n#EXT-X-VERSION:3\n");
        for rung in &self.rungs {
            rung.describe(&mut master);
        }
        self.replace("master.m3u8", &master)
    }

    fn replace(&self, name: &str, text: &str) -> Result<(), LadderError> {
        let path = self.root.join("out").join(name);
        let fresh = self.root.join("out").join(format!(".{name}.new"));
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|source| LadderError { path, source })
    }
}

impl Rung {
    fn add(&mut self, seq: u64, duration_ms: u64, rendition: &RenditionFile) {
        let name = &self.name;
        let (seconds, millis) = (duration_ms / 1000, duration_ms % 1000);
        writeln!(self.lines, "#EXTINF:{seconds}.{millis:03},\n{name}/{}", segment_name(seq)).expect("a String grows");
        let bits = rendition.bytes.saturating_mul(8);
        self.bits = self.bits.saturating_add(bits);
        self.millis = self.millis.saturating_add(duration_ms);
        let rate = bits.saturating_mul(1000).checked_div(duration_ms).unwrap_or(bits);
        self.peak_bits_per_second = self.peak_bits_per_second.max(rate);
        if let (None, Some(seen)) = (self.size, &rendition.inspected) {
            self.size = Some((seen.width, seen.height));
            self.codecs.clone_from(&seen.codecs);
        }
    }

    fn describe(&self, master: &mut String) {
        let peak = if self.peak_bits_per_second == 0 { self.bitrate.into() } else { self.peak_bits_per_second };
        write!(master, "#EXT-X-STREAM-INF:BANDWIDTH={peak}").expect("a String grows");
        if let Some(average) = self.bits.saturating_mul(1000).checked_div(self.millis) {
            write!(master, ",AVERAGE-BANDWIDTH={average}").expect("a String grows");
        }
        if let Some((width, height)) = self.size {
            write!(master, ",RESOLUTION={width}x{height},CODECS=\"{}\"", self.codecs).expect("a String grows");
        }
        writeln!(master, "\n{}.m3u8", self.name).expect("a String grows");
    }
}

fn segment_name(seq: u64) -> String {
    format!("{seq:05}.ts")
}

/// A profile's name as a file name: nothing that leads elsewhere.
pub(crate) fn file_name(profile: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    let name: String = profile.chars().take(64).map(safe).collect();
    if name.is_empty() { "rendition".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::Inspected;
    use livepeer::profile::preset;
    use livepeer::units::Pixels;

    fn rendition(bytes: u64) -> RenditionFile {
        let inspected = Inspected { width: 426, height: 240, frames: 60, codecs: "avc1.64001e,mp4a.40.2".into() };
        RenditionFile { path: PathBuf::new(), bytes, pixels: Pixels(1), inspected: Some(inspected) }
    }

    #[test]
    fn the_ladder_plays_while_it_grows_and_says_where_a_segment_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut ladder = Ladder::create(dir.path(), &[preset("240p").unwrap()]).unwrap();
        ladder.add(0, 2000, &[rendition(100_000)]).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
        assert!(!read("240p.m3u8").contains("ENDLIST"));
        ladder.skip();
        ladder.add(2, 2040, &[rendition(51_000)]).unwrap();
        ladder.finish().unwrap();
        assert_eq!(
            read("240p.m3u8"),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:EVENT\n\
             #EXTINF:2.000,\n240p/00000.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:2.040,\n240p/00002.ts\n#EXT-X-ENDLIST\n"
        );
        assert_eq!(
            read("master.m3u8"),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-STREAM-INF:BANDWIDTH=400000,AVERAGE-BANDWIDTH=299009,\
             RESOLUTION=426x240,CODECS=\"avc1.64001e,mp4a.40.2\"\n240p.m3u8\n"
        );
    }

    #[test]
    fn a_profile_name_cannot_lead_out_of_the_directory() {
        assert_eq!(file_name("../../etc/passwd"), "______etc_passwd");
        assert_eq!(file_name(""), "rendition");
    }
}
