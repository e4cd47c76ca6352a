//! What of the software encoder's recipe is a matter of taste: the presets, and what the bench may change of them.
use std::str::FromStr;

use sandbox::preset::Preset;

/// Most threads one encoder may use: beyond that x264 gains nothing on a ladder.
const MAX_THREADS: u64 = 4;

/// How x264 is told to code pictures of some sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Most pixels of such a picture.
    up_to: u64,
    /// Its speed preset.
    pub(crate) speed: String,
    /// What is changed of that, as x264 writes it; may be empty.
    pub(crate) options: String,
    /// B-frames between two others, where the profile asked for leaves it open.
    pub(crate) bframes: u32,
}

/// Pixels up to which a picture is small: 360p is, 480p is not.
const SMALL: u64 = 300_000;
/// Pixels up to which a B-frame is worth more than it costs: of 480p it is, of 720p it is not.
const MIDDLE: u64 = 450_000;
/// Of a picture of any size.
const ANY: u64 = u64::MAX;

/// Settings of the software encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// For pictures of each size, smallest first; the last one is for any.
    pub(super) recipes: Vec<Recipe>,
    /// B-frames between two others; unless set, profile and recipe decide.
    pub bframes: Option<u32>,
    /// Longest distance of key frames; unless set, the job decides.
    pub key_int: Option<u32>,
    /// Threads of each encoder, 0 for as many as x264 likes; unless set, the job decides.
    pub threads: Option<u32>,
}

impl Default for Tuning {
    fn default() -> Self {
        Preset::default().into()
    }
}

impl From<Preset> for Tuning {
    /// Measured and chosen as decision 20 tells.
    fn from(preset: Preset) -> Self {
        // x264's superfast with the lookahead that decides where bits go; small pictures get a little more care and
        // the B-frame that is worth most to them.
        const FAST: &str = "mbtree=1:rc-lookahead=10";
        const FINE: &str = "mbtree=1:rc-lookahead=10:trellis=1:subme=2";
        const BEST: &str = "mbtree=1:rc-lookahead=20:trellis=1:subme=4";
        let recipes: &[(u64, &str, &str, u32)] = match preset {
            Preset::Latency => &[(MIDDLE, "superfast", FAST, 1), (ANY, "superfast", FAST, 0)],
            Preset::Balanced => &[(MIDDLE, "superfast", FINE, 1), (ANY, "superfast", FAST, 0)],
            Preset::Quality => &[(SMALL, "faster", "", 1), (MIDDLE, "superfast", BEST, 1), (ANY, "superfast", BEST, 0)],
        };
        let recipe = |&(up_to, speed, options, bframes): &(u64, &str, &str, u32)| Recipe {
            up_to,
            speed: speed.to_owned(),
            options: options.to_owned(),
            bframes,
        };
        Self { recipes: recipes.iter().map(recipe).collect(), bframes: None, key_int: None, threads: None }
    }
}

impl Tuning {
    /// How pictures of this size are coded.
    pub(crate) fn recipe(&self, width: u32, height: u32) -> &Recipe {
        let pixels = u64::from(width) * u64::from(height);
        self.recipes.iter().find(|recipe| pixels <= recipe.up_to).expect("the last recipe is for any size")
    }

    /// Threads for an encoder that has `share` of `all` pixels of a ladder to do: its part of those allowed, as all
    /// encoders of a ladder work at the same time.
    pub(crate) fn threads_for(&self, share: u64, all: u64, allowed: u32) -> u32 {
        let all = all.max(1);
        let fair = (2 * share * u64::from(allowed) + all) / (2 * all);
        self.threads.unwrap_or_else(|| u32::try_from(fair.clamp(1, MAX_THREADS)).unwrap_or(1))
    }
}

/// A setting that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown encoder setting {0:?}")]
pub struct UnknownSetting(String);

impl FromStr for Tuning {
    type Err = UnknownSetting;

    /// Reads the same settings for pictures of any size, such as
    /// `preset=veryfast,options=subme=1:ref=1,bframes=3,keyint=60,threads=0`.
    fn from_str(text: &str) -> Result<Self, UnknownSetting> {
        let mut recipe = Recipe { up_to: ANY, speed: "veryfast".to_owned(), options: String::new(), bframes: 0 };
        let (mut bframes, mut key_int, mut threads) = (None, None, None);
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let unknown = || UnknownSetting(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(unknown)?;
            let number = || value.parse::<u32>().map_err(|_| unknown());
            match key {
                "preset" => recipe.speed = value.to_owned(),
                "options" => recipe.options = value.to_owned(),
                "bframes" => bframes = Some(number()?),
                "keyint" => key_int = Some(number()?),
                "threads" => threads = Some(number()?),
                _ => return Err(unknown()),
            }
        }
        Ok(Self { recipes: vec![recipe], bframes, key_int, threads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_or_refused() {
        let tuning: Tuning = "preset=medium,options=subme=1:ref=1,bframes=3,threads=0".parse().unwrap();
        let recipe = tuning.recipe(1920, 1080);
        assert_eq!((recipe.speed.as_str(), recipe.options.as_str()), ("medium", "subme=1:ref=1"));
        assert_eq!((tuning.bframes, tuning.threads), (Some(3), Some(0)));
        assert!("bframe=3".parse::<Tuning>().is_err());
        assert!("bframes=x".parse::<Tuning>().is_err());
    }

    #[test]
    fn every_preset_knows_what_to_do_with_pictures_of_any_size() {
        for tuning in Preset::ALL.map(Tuning::from) {
            assert!(tuning.recipes.is_sorted_by_key(|recipe| recipe.up_to), "{tuning:?}");
            for size in [(146, 50), (426, 240), (1280, 720), (4096, 4096), (u32::MAX, u32::MAX)] {
                assert!(!tuning.recipe(size.0, size.1).speed.is_empty());
            }
        }
    }

    #[test]
    fn encoders_share_the_threads_by_their_pixels() {
        let tuning = Tuning::default();
        let ladder: [u64; 4] = [1280 * 720, 854 * 480, 640 * 360, 426 * 240];
        let threads = |allowed| ladder.map(|share| tuning.threads_for(share, ladder.iter().sum(), allowed));
        assert_eq!(threads(1), [1, 1, 1, 1]);
        assert_eq!(threads(2), [1, 1, 1, 1]);
        assert_eq!(threads(4), [2, 1, 1, 1]);
        assert_eq!(threads(64), [4, 4, 4, 4]);
        assert_eq!(tuning.threads_for(ladder[0], ladder[0], 2), 2, "alone");
    }
}
