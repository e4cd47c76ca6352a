//! What of the software encoder's recipe is a matter of taste, and what the bench may change of it.
use std::str::FromStr;

/// Most threads one encoder may use: beyond that x264 gains nothing on a ladder.
const MAX_THREADS: u32 = 4;
/// Pixels up to which a picture is small: 240p is, 360p is not. Measured on our clip at 240p, 600 kb/s, without
/// B-frames: veryfast is 2.6 VMAF points behind ffmpeg's veryfast with B-frames, faster is level with it.
const SMALL_PICTURE: u64 = 160_000;

/// Settings of the software encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Speed preset of x264.
    pub preset: String,
    /// Speed preset for small pictures, where a slower one costs little and makes up for the missing B-frames.
    pub small_preset: String,
    /// B-frames between two others; unless set, the profile asked for decides.
    pub bframes: Option<u32>,
    /// Longest distance of key frames; unless set, the job decides.
    pub key_int: Option<u32>,
    /// Threads of each encoder, 0 for as many as x264 likes; unless set, the job decides.
    pub threads: Option<u32>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            preset: "veryfast".to_owned(),
            small_preset: "faster".to_owned(),
            bframes: None,
            key_int: None,
            threads: None,
        }
    }
}

impl Tuning {
    /// The speed preset for pictures of this size.
    pub(crate) fn preset_for(&self, width: u32, height: u32) -> &str {
        let small = u64::from(width) * u64::from(height) <= SMALL_PICTURE;
        if small { &self.small_preset } else { &self.preset }
    }

    /// Threads for the encoder at this place in the ladder, largest first: the two largest are the bulk of the work.
    pub(crate) fn threads_for(&self, rank: usize, allowed: u32) -> u32 {
        self.threads.unwrap_or(if rank < 2 { allowed.clamp(1, MAX_THREADS) } else { 1 })
    }
}

/// A setting that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown encoder setting {0:?}")]
pub struct UnknownSetting(String);

impl FromStr for Tuning {
    type Err = UnknownSetting;

    /// Reads settings such as `preset=veryfast,bframes=3,keyint=60,threads=0`.
    fn from_str(text: &str) -> Result<Self, UnknownSetting> {
        let mut tuning = Self::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let unknown = || UnknownSetting(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(unknown)?;
            let number = || value.parse::<u32>().map_err(|_| unknown());
            match key {
                "preset" => {
                    tuning.preset = value.to_owned();
                    tuning.small_preset = value.to_owned();
                }
                "bframes" => tuning.bframes = Some(number()?),
                "keyint" => tuning.key_int = Some(number()?),
                "threads" => tuning.threads = Some(number()?),
                _ => return Err(unknown()),
            }
        }
        Ok(tuning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_or_refused() {
        let tuning: Tuning = "preset=medium,bframes=3,threads=0".parse().unwrap();
        assert_eq!((tuning.preset.as_str(), tuning.bframes, tuning.threads), ("medium", Some(3), Some(0)));
        assert!("bframe=3".parse::<Tuning>().is_err());
        assert!("bframes=x".parse::<Tuning>().is_err());
    }
}
