//! The renditions as a ladder that plays: one media playlist per profile, one master playlist.
//!
//! ```text
//! DIR/in/00000.ts …          the source segments as sent
//! DIR/out/master.m3u8        names the playlists
//! DIR/out/720p.m3u8          names the segments
//! DIR/out/720p/00000.ts …    the renditions
//! ```
//! Playlists grow with each segment and are replaced whole, so the ladder plays while it is written. With a window
//! only the last segments stay in them, and a segment's files go once it has been out of them for as long again.
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
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
    window: Option<NonZeroUsize>,
    /// Segments whose files may still be there, oldest first.
    kept: VecDeque<u64>,
    /// Segments and gaps that have left the playlists.
    gone: u64,
    gaps_gone: u64,
}

#[derive(Debug)]
struct Rung {
    name: String,
    /// As the profile has it.
    title: String,
    bitrate: u32,
    entries: VecDeque<Entry>,
    size: Option<(u32, u32)>,
    codecs: String,
    peak_bits_per_second: u64,
    bits: u64,
    millis: u64,
}

/// A segment in a playlist.
#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: u64,
    duration_ms: u64,
    after_gap: bool,
}

impl Ladder {
    pub(crate) fn create(root: &Path, profiles: &[Profile], window: Option<NonZeroUsize>) -> Result<Self, LadderError> {
        let rung = |profile: &Profile| Rung {
            name: file_name(&profile.name),
            title: profile.name.clone(),
            bitrate: profile.bitrate.0,
            entries: VecDeque::new(),
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
        Ok(Self {
            root: root.to_owned(),
            rungs,
            gap: false,
            target_s: 1,
            ended: false,
            window,
            kept: VecDeque::new(),
            gone: 0,
            gaps_gone: 0,
        })
    }

    pub(crate) fn source(&self, seq: u64) -> PathBuf {
        self.root.join("in").join(segment_name(seq))
    }

    pub(crate) fn targets(&self, seq: u64) -> Vec<PathBuf> {
        self.rungs.iter().map(|rung| self.root.join("out").join(&rung.name).join(segment_name(seq))).collect()
    }

    /// The renditions with the names of their profiles.
    pub(crate) fn named(&self, renditions: &[RenditionFile]) -> Vec<(String, RenditionFile)> {
        self.rungs.iter().map(|rung| rung.title.clone()).zip(renditions.iter().cloned()).collect()
    }

    /// A segment did not come back.
    pub(crate) fn skip(&mut self, seq: u64) {
        self.gap = true;
        self.kept.push_back(seq);
    }

    /// A segment is there: adds it to every playlist.
    pub(crate) fn add(&mut self, seq: u64, duration_ms: u64, renditions: &[RenditionFile]) -> Result<(), LadderError> {
        self.target_s = self.target_s.max(duration_ms.div_ceil(1000));
        for (rung, rendition) in self.rungs.iter_mut().zip(renditions) {
            rung.add(Entry { seq, duration_ms, after_gap: self.gap }, rendition);
        }
        self.gap = false;
        self.kept.push_back(seq);
        self.slide();
        self.write()
    }

    /// Takes what is older than the window out of the playlists, and off the disk when that is long enough ago.
    fn slide(&mut self) {
        let Some(window) = self.window.map(NonZeroUsize::get) else { return };
        let listed = self.rungs.first().map_or(0, |rung| rung.entries.len());
        for _ in window..listed {
            let left: Vec<_> = self.rungs.iter_mut().filter_map(|rung| rung.entries.pop_front()).collect();
            self.gone += 1;
            self.gaps_gone += u64::from(left.first().is_some_and(|entry| entry.after_gap));
        }
        while self.kept.len() > window.saturating_mul(2) {
            let Some(seq) = self.kept.pop_front() else { return };
            for path in self.targets(seq).into_iter().chain([self.source(seq)]) {
                // What was never written, or is gone, need not go.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// No more segments come.
    pub(crate) fn finish(&mut self) -> Result<(), LadderError> {
        self.ended = true;
        self.write()
    }

    fn write(&self) -> Result<(), LadderError> {
        for rung in &self.rungs {
            let mut text = format!(
                "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n",
                self.target_s, self.gone
            );
            match self.window {
                // A player counts discontinuities from the first one ever.
                Some(_) => {
                    writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.gaps_gone).expect("a String grows");
                }
                None => text.push_str("#EXT-X-PLAYLIST-TYPE:EVENT\n"),
            }
            rung.list(&mut text);
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
    fn list(&self, text: &mut String) {
        let name = &self.name;
        for Entry { seq, duration_ms, after_gap } in self.entries.iter().copied() {
            if after_gap {
                text.push_str("#EXT-X-DISCONTINUITY\n");
            }
            let (seconds, millis) = (duration_ms / 1000, duration_ms % 1000);
            writeln!(text, "#EXTINF:{seconds}.{millis:03},\n{name}/{}", segment_name(seq)).expect("a String grows");
        }
    }

    fn add(&mut self, entry: Entry, rendition: &RenditionFile) {
        self.entries.push_back(entry);
        let duration_ms = entry.duration_ms;
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
        let mut ladder = Ladder::create(dir.path(), &[preset("240p").unwrap()], None).unwrap();
        ladder.add(0, 2000, &[rendition(100_000)]).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
        assert!(!read("240p.m3u8").contains("ENDLIST"));
        ladder.skip(1);
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
    fn a_window_forgets_what_is_old_and_says_how_much() {
        let dir = tempfile::tempdir().unwrap();
        let mut ladder = Ladder::create(dir.path(), &[preset("240p").unwrap()], NonZeroUsize::new(2)).unwrap();
        for seq in 0..6 {
            for path in ladder.targets(seq).into_iter().chain([ladder.source(seq)]) {
                fs::write(path, "media").unwrap();
            }
            if seq == 1 { ladder.skip(seq) } else { ladder.add(seq, 2000, &[rendition(1)]).unwrap() }
        }
        assert_eq!(
            fs::read_to_string(dir.path().join("out/240p.m3u8")).unwrap(),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:3\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:1\n#EXTINF:2.000,\n240p/00004.ts\n#EXTINF:2.000,\n240p/00005.ts\n"
        );
        for place in ["in", "out/240p"] {
            let mut left: Vec<_> =
                fs::read_dir(dir.path().join(place)).unwrap().map(|e| e.unwrap().file_name()).collect();
            left.sort();
            assert_eq!(left, ["00002.ts", "00003.ts", "00004.ts", "00005.ts"], "{place}");
        }
    }

    #[test]
    fn a_profile_name_cannot_lead_out_of_the_directory() {
        assert_eq!(file_name("../../etc/passwd"), "______etc_passwd");
        assert_eq!(file_name(""), "rendition");
    }
}
