//! What the host shows, in the planner's words. Pure.

use serde::{Deserialize, Serialize};
use ves_archive::Init;
use ves_types::{CtId, IdSlot, SnapshotId, TemplateName};

use crate::error::Error;
use crate::plan::{Record, snapshot};

/// The attribute of an image that says it is a volume, and which.
pub const RECORD_ATTRIBUTE: &str = "user.ves.volume";

/// What the attribute holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// The container; an image that was copied by hand to another name is not that one's.
    pub ct: CtId,
    /// The rest.
    pub record: Record,
}

/// Reads the attribute.
pub fn parse_volume_record(ct: CtId, bytes: &[u8]) -> Result<Record, String> {
    let read: VolumeRecord = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if read.ct == ct { Ok(read.record) } else { Err(format!("it is of container {}", read.ct)) }
}

/// The attribute of an image that says it is a snapshot, and which.
pub const SNAPSHOT_ATTRIBUTE: &str = "user.ves.snapshot";

/// What the attribute holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// The container.
    pub ct: CtId,
    /// The snapshot; an image that was copied by hand to another name is not that one.
    pub id: SnapshotId,
    /// The rest.
    pub record: snapshot::Record,
}

/// Reads the attribute.
pub fn parse_snapshot_record(
    ct: CtId,
    id: SnapshotId,
    bytes: &[u8],
) -> Result<snapshot::Record, String> {
    let read: SnapshotRecord = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if (read.ct, read.id) == (ct, id) {
        Ok(read.record)
    } else {
        Err(format!("it is of snapshot {} of container {}", read.id, read.ct))
    }
}

/// The name of a snapshot's image.
pub fn snapshot_name(id: SnapshotId) -> String {
    format!("{id}.img")
}

/// The snapshot whose image has this name.
pub fn parse_snapshot_name(name: &str) -> Option<SnapshotId> {
    name.strip_suffix(".img")?.parse().ok()
}

/// `template.json`: what is known of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateRecord {
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Its inodes.
    pub content_inodes: u64,
    /// The init system.
    pub init: Init,
    /// The operating system's name.
    pub os: Option<String>,
    /// SHA-256 of the archive it was made from.
    pub sha256: String,
    /// When it was made.
    pub created_unix: i64,
    /// What somebody should know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Reads `template.json`.
///
/// # Errors
/// [`Error::Record`].
pub fn parse_template_record(name: &TemplateName, bytes: &[u8]) -> Result<TemplateRecord, Error> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::Record { record: format!("of template {name}"), why: e.to_string() })
}

/// The name of a base image.
pub fn base_image_name(inodes_per_group: u64) -> String {
    format!("golden-{inodes_per_group}.img")
}

/// The inodes per group of the base image that has this name.
pub fn parse_base_image_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix("golden-")?.strip_suffix(".img")?.parse().ok()?;
    // Not "golden-010.img": one number, one name.
    (base_image_name(number) == name).then_some(number)
}

/// The container whose image has this name.
pub fn parse_image_name(name: &str) -> Option<CtId> {
    let ct: CtId = name.strip_suffix(".img")?.parse().ok()?;
    (image_name(ct) == name).then_some(ct)
}

/// The name of a container's image.
pub fn image_name(ct: CtId) -> String {
    format!("{ct}.img")
}

/// The slot an id map belongs to, from the host's owner of the volume's root: whoever owns the root
/// inside, it is within the slot's range.
pub fn slot_of(owner: u32) -> Option<IdSlot> {
    IdSlot::try_from(owner / 65_536).ok()
}

/// The first mirror of Debian itself among apt's sources, in either format.
pub fn parse_mirror(sources: &str) -> Option<String> {
    let debian = |url: &&str| {
        crate::template::is_mirror(url) && url.trim_end_matches('/').ends_with("/debian")
    };
    sources.lines().map(str::trim).filter(|l| !l.starts_with('#')).find_map(|line| {
        let words: Vec<&str> = match (line.strip_prefix("URIs:"), line.strip_prefix("deb ")) {
            (Some(rest), _) | (None, Some(rest)) => rest.split_whitespace().collect(),
            (None, None) => return None,
        };
        words.into_iter().find(debian).map(str::to_owned)
    })
}

/// Whether the kernel knows a file system, from `/proc/filesystems`.
pub fn knows_filesystem(table: &str, name: &str) -> bool {
    table.lines().any(|line| line.split_whitespace().last() == Some(name))
}

/// How many bytes a mounted xfs has, from what `xfs_growfs -n` says.
pub fn parse_xfs_reach(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("data "))?;
    let number = |name: &str| {
        let word = line.split([' ', ',']).find_map(|word| word.strip_prefix(name))?;
        word.parse::<u64>().ok()
    };
    number("bsize=")?.checked_mul(number("blocks=")?)
}

/// What a line of mmdebstrap's says is being done.
pub fn parse_build_line(line: &str) -> Option<String> {
    let said = line.trim().strip_prefix("I: ")?;
    let noise = [
        "chroot architecture",
        "finding correct",
        "automatically",
        "using ",
        "removing",
        "success",
    ];
    if noise.iter().any(|n| said.starts_with(n)) {
        return None;
    }
    if said.starts_with("running --customize-hook") {
        return Some("adapting to a container".to_owned());
    }
    Some(said.trim_end_matches("...").chars().filter(|c| !c.is_control()).take(120).collect())
}

/// The cause of a failed build, from all that mmdebstrap, apt and dpkg said of it: they go on for long after
/// it. One line; `None` where it names none.
pub fn parse_build_failure(said: &str) -> Option<String> {
    /// So many lines tell enough.
    const MOST: usize = 12;
    /// What each program says when the one it has called fails.
    const ECHOES: [&str; 5] =
        ["E: apt-get ", "E: mmdebstrap ", "E: setup failed", "E: run_", "E: process "];
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    // A heading, and the lines below it that are indented.
    let block = |headings: &[&str], title: &'static str| {
        let at = lines.iter().position(|line| headings.iter().any(|h| line.contains(h)))?;
        let below = lines.iter().skip(at + 1).take_while(|l| l.starts_with([' ', '\t']));
        let below: Vec<&str> = below.map(|line| line.trim()).collect();
        (!below.is_empty()).then_some((title, below))
    };
    let conflict = || {
        let headings = ["have unmet dependencies:", "Unable to satisfy dependencies"];
        block(&headings, "packages cannot be installed together: ")
    };
    let broken = || block(&["dpkg: error processing"], "a package cannot be installed: ");
    let told = || {
        let is_told = |line: &&str| {
            let error = line.starts_with("E: ") && !ECHOES.iter().any(|e| line.starts_with(e));
            error || line.contains("NO_PUBKEY") || line.contains("No space left on device")
        };
        let told: Vec<&str> = lines.iter().copied().filter(is_told).collect();
        (!told.is_empty()).then_some(("", told))
    };
    let (title, mut found) = conflict().or_else(broken).or_else(told)?;
    found.dedup();
    found.truncate(MOST);
    let text = [title, &found.join("; ")].concat();
    Some(text.chars().filter(|c| !c.is_control()).take(1000).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_build_says_why_first() {
        let cause = |text: &str| parse_build_failure(text).expect("it names one");
        let conflict = "I: running apt-get update...\nSome packages could not be installed.\n\
            The following packages have unmet dependencies:\n chrony : Conflicts: time-daemon\n \
            systemd-timesyncd : Conflicts: time-daemon\nE: Unable to correct problems, you have held \
            broken packages.\nE: apt-get --yes install failed\nI: main() received signal PIPE\n";
        let wanted = "packages cannot be installed together: chrony : Conflicts: time-daemon; \
                      systemd-timesyncd : Conflicts: time-daemon";
        assert_eq!(cause(conflict), wanted);
        let solver = "E: Unable to satisfy dependencies. Reached two conflicting assignments:\n   \
            1. chrony:amd64 is selected for install\n   2. chrony:amd64 is not selected\nE: mmdebstrap failed";
        assert!(cause(solver).contains("together: 1. chrony:amd64 is selected"));
        let unknown = "E: Unable to locate package nonesuch\nE: Unable to locate package other\n\
            E: process exited with 100\nE: setup failed: \nI: removing tempdir\n";
        let wanted = "E: Unable to locate package nonesuch; E: Unable to locate package other";
        assert_eq!(cause(unknown), wanted);
        let mirror = "Err:1 http://m.example trixie InRelease\n  Could not resolve 'm.example'\n\
            E: Failed to fetch http://m.example/x  Could not resolve 'm.example'\nE: apt-get update failed";
        assert!(cause(mirror).starts_with("E: Failed to fetch"));
        let script = "dpkg: error processing package x (--configure):\n installed x package post-installation \
            script subprocess returned error exit status 1\nErrors were encountered while processing:\n x\n";
        assert!(cause(script).starts_with("a package cannot be installed: installed x package"));
        assert_eq!(parse_build_failure("I: success\nI: removing tempdir\n"), None);
        let long = "E: \u{1b}[2J".to_owned() + &"x".repeat(5000);
        assert!(cause(&long).len() <= 1000 && !cause(&long).contains('\u{1b}'));
    }

    fn ct(n: u32) -> CtId {
        CtId::try_from(n).expect("valid")
    }

    #[test]
    fn records() {
        let record = Record {
            template: "debian".parse().expect("a name"),
            inodes: Some(100_000),
            inodes_per_group: 1248,
            reverted: None,
            checked: None,
        };
        let text = serde_json::to_vec(&VolumeRecord { ct: ct(7), record: record.clone() })
            .expect("it is plain data");
        assert_eq!(parse_volume_record(ct(7), &text), Ok(record));
        assert!(parse_volume_record(ct(8), &text).is_err_and(|e| e.contains("container 7")));
        assert!(parse_volume_record(ct(7), b"{}").is_err());
        assert!(parse_volume_record(ct(7), b"\xff").is_err());
        // As written before there were snapshots.
        let old =
            br#"{"ct":7,"record":{"template":"debian","inodes":100000,"inodes_per_group":1248}}"#;
        assert_eq!(text, old);
    }

    #[test]
    fn snapshot_records() {
        let id = SnapshotId::from(5);
        let record = snapshot::Record {
            name: Some("before".parse().expect("a name")),
            created_unix_ms: 1,
            generation: ves_types::Generation(3),
            parent: Some(SnapshotId::from(4)),
            volume: Record {
                template: "debian".parse().expect("a name"),
                inodes: None,
                inodes_per_group: 8192,
                reverted: None,
                checked: None,
            },
        };
        let text = serde_json::to_vec(&SnapshotRecord { ct: ct(7), id, record: record.clone() })
            .expect("it is plain data");
        assert_eq!(parse_snapshot_record(ct(7), id, &text), Ok(record));
        assert!(parse_snapshot_record(ct(8), id, &text).is_err_and(|e| e.contains("container 7")));
        let other = SnapshotId::from(6);
        assert!(parse_snapshot_record(ct(7), other, &text).is_err());
        assert_eq!(parse_snapshot_name(&snapshot_name(id)), Some(id));
        assert_eq!(parse_snapshot_name(&format!("{}.new", snapshot_name(id))), None);
        assert_eq!(parse_snapshot_name("../x.img"), None);
    }

    #[test]
    fn names() {
        let files =
            ["golden-8192.img", "golden-16.img", "golden-016.img", "golden-x.img", "template.json"];
        let found: Vec<_> = files.into_iter().filter_map(parse_base_image_name).collect();
        assert_eq!(found, [8192, 16]);
        assert_eq!(parse_image_name("101.img"), Some(ct(101)));
        for bad in ["0101.img", "101.img.new", "101", "x.img", "0.img"] {
            assert_eq!(parse_image_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn slots() {
        assert_eq!(slot_of(0), None);
        assert_eq!(slot_of(20 * 65_536 + 1000).map(IdSlot::get), Some(20));
    }

    #[test]
    fn mirrors() {
        let deb822 =
            "# URIs: http://old.example/debian\nTypes: deb\nURIs: http://a.example/debian\n";
        assert_eq!(parse_mirror(deb822).as_deref(), Some("http://a.example/debian"));
        let other = "deb [arch=amd64] https://b.example/apt stable main\n\
                     deb http://c.example/debian/ trixie main\n";
        assert_eq!(parse_mirror(other).as_deref(), Some("http://c.example/debian/"));
        assert_eq!(parse_mirror("deb cdrom:[x]/ trixie main\n"), None);
        assert_eq!(parse_mirror(""), None);
    }

    #[test]
    fn build_lines() {
        assert_eq!(
            parse_build_line("I: downloading packages with apt..."),
            Some("downloading packages with apt".to_owned())
        );
        assert_eq!(parse_build_line("I: success in 18.6003 seconds"), None);
        assert_eq!(parse_build_line("W: something"), None);
        assert_eq!(
            parse_build_line("I: running --customize-hook in shell: sh -c 'set -e'"),
            Some("adapting to a container".to_owned())
        );
    }

    #[test]
    fn how_far_an_xfs_reaches() {
        // As xfsprogs 6.1 says it.
        let said = "meta-data=/dev/loop0  isize=512    agcount=4, agsize=65536 blks\n\
                    data     =            bsize=4096   blocks=262144, imaxpct=25\n\
                    log      =internal    bsize=4096   blocks=16384, version=2\n";
        assert_eq!(parse_xfs_reach(said), Some(1 << 30));
        assert_eq!(parse_xfs_reach("data = bsize=4096"), None);
        assert_eq!(parse_xfs_reach("not an xfs"), None);
    }

    #[test]
    fn file_systems() {
        assert!(knows_filesystem("nodev\ttmpfs\n\txfs\n", "xfs"));
        assert!(!knows_filesystem("nodev\ttmpfs\n\txfs\n", "btrfs"));
    }
}
