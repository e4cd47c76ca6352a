//! Which image a program runs in, if it runs in one of ours.

use std::path::Path;
use std::sync::LazyLock;

/// Where the running image says what it is.
pub const OS_RELEASE: &str = "/etc/os-release";

/// The image's version; `None` on a machine that is none of our appliances.
#[must_use]
pub fn image_version(os_release: &Path) -> Option<String> {
    let text = std::fs::read_to_string(os_release).ok()?;
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        lines.next().map(|value| value.trim().trim_matches('"').to_owned())
    };
    field("IMAGE_ID").filter(|id| id == "millrace")?;
    field("IMAGE_VERSION").filter(|version| !version.is_empty())
}

/// What a daemon reports as its version: the image's where there is one, else that of the program.
#[must_use]
pub fn system_version(program: &str) -> String {
    // It does not change while a program runs.
    static IMAGE: LazyLock<Option<String>> = LazyLock::new(|| image_version(Path::new(OS_RELEASE)));
    IMAGE.clone().unwrap_or_else(|| program.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_images_have_a_version_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os-release");
        assert_eq!(image_version(&path), None);
        let with = |text: &str| {
            std::fs::write(&path, text).unwrap();
            image_version(&path)
        };
        assert_eq!(with("ID=debian\nIMAGE_ID=millrace\nIMAGE_VERSION=1.2.0\n"), Some("1.2.0".to_owned()));
        assert_eq!(with("IMAGE_ID=\"millrace\"\nIMAGE_VERSION=\"1.2.0~rc1\"\n"), Some("1.2.0~rc1".to_owned()));
        assert_eq!(with("IMAGE_ID=other\nIMAGE_VERSION=1.2.0\n"), None);
        assert_eq!(with("ID=debian\nVERSION_ID=13\n"), None);
    }
}
