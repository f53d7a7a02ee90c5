//! The loop devices of this machine as `losetup` tells them, and whose they are. Never here: a change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;

/// A loop device that shows a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// Its path: `/dev/loop0`.
    pub path: String,
    /// Its own number: `7:0`.
    pub number: String,
    /// The number of the file system that the file is on.
    pub on: String,
    /// The file's number there.
    pub inode: u64,
    /// The file's path, as whoever attached it knows it.
    pub file: String,
}

impl LoopDevice {
    /// Whether the file was removed.
    pub fn is_removed(&self) -> bool {
        self.file.ends_with("(deleted)")
    }

    /// Whether its file's path leads elsewhere here: it was attached in another root, which the kernel
    /// does not tell.
    pub fn is_elsewhere(&self) -> bool {
        let here = std::fs::metadata(Path::new(&self.file));
        let same = here.is_ok_and(|here| here.ino() == self.inode && device(&here) == self.on);
        !same && !self.is_removed()
    }
}

/// The number of the file system a file is on, as `7:0`.
fn device(file: &std::fs::Metadata) -> String {
    format!("{}:{}", rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()))
}

/// All that show a file.
///
/// # Errors
/// When `losetup` cannot be asked.
pub fn all() -> anyhow::Result<Vec<LoopDevice>> {
    let mut losetup = std::process::Command::new("losetup");
    losetup.args(["--list", "--json"]);
    losetup.args(["--output", "NAME,MAJ:MIN,BACK-MAJ:MIN,BACK-INO,BACK-FILE"]);
    let out = losetup.output().context("start losetup")?;
    parse(&String::from_utf8_lossy(&out.stdout))
}

fn parse(listed: &str) -> anyhow::Result<Vec<LoopDevice>> {
    if listed.trim().is_empty() {
        return Ok(Vec::new());
    }
    let listed: serde_json::Value =
        serde_json::from_str(listed).context("read what losetup says")?;
    let rows = listed["loopdevices"].as_array().context("losetup lists devices")?;
    let device = |row: &serde_json::Value| {
        // Some versions fill columns with blanks.
        let word = |column: &str| row[column].as_str().map(|text| text.trim().to_owned());
        Some(LoopDevice {
            path: word("name")?,
            number: word("maj:min")?,
            on: word("back-maj:min")?,
            inode: row["back-ino"].as_u64()?,
            file: word("back-file")?,
        })
    };
    Ok(rows.iter().filter_map(device).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_however_columns_are_filled() {
        let text = r#"{ "loopdevices": [
            { "name": "/dev/loop0", "maj:min": "  7:0  ", "back-maj:min": "     254:0  ",
              "back-ino": 12, "back-file": "/pool.img (deleted)" },
            { "name": "/dev/loop4", "maj:min": "7:4", "back-maj:min": null, "back-ino": null,
              "back-file": null } ]}"#;
        let devices = parse(text).expect("it is well formed");
        assert_eq!(devices.len(), 1, "one shows nothing");
        assert_eq!((devices[0].number.as_str(), devices[0].on.as_str()), ("7:0", "254:0"));
        assert!(devices[0].is_removed() && !devices[0].is_elsewhere());
        assert_eq!(parse("\n").expect("no device at all"), []);
    }

    #[test]
    fn a_path_that_is_another_file_here_is_elsewhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("image");
        std::fs::write(&file, "").expect("written");
        let about = std::fs::metadata(&file).expect("it is there");
        let mut loop_device = LoopDevice {
            path: "/dev/loop0".to_owned(),
            number: "7:0".to_owned(),
            on: device(&about),
            inode: about.ino(),
            file: file.display().to_string(),
        };
        assert!(!loop_device.is_elsewhere());
        loop_device.inode += 1;
        assert!(loop_device.is_elsewhere());
        "/no/such/file".clone_into(&mut loop_device.file);
        assert!(loop_device.is_elsewhere());
    }
}
