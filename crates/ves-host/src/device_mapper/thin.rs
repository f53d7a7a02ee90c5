//! What a thin pool and its volumes are told and say: lines of tables, messages, statuses
//! (`Documentation/admin-guide/device-mapper/thin-provisioning.rst`). Pure.
//!
//! A volume is a number in the pool, which exists or not; a device that shows it is another matter. The
//! pool commits its metadata with each message that makes or deletes one, so what was answered is kept.

use super::Target;
use crate::error::HostError;

/// Bytes of a sector, in which device-mapper counts.
pub const SECTOR: u64 = 512;

/// Bytes of a block of a pool's metadata.
pub const METADATA_BLOCK: u64 = 4096;

/// The number of a volume in its pool, of 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThinId(u32);

impl ThinId {
    /// The highest there is.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// This number, or `None` where it has more than 24 bits.
    pub fn new(id: u32) -> Option<Self> {
        (id <= Self::MAX.0).then_some(Self(id))
    }
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for ThinId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a pool can be told. `Display` is how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Make an empty volume. EEXIST where the number is taken.
    Create(ThinId),
    /// Make a volume with the contents of another; if that is shown by a device, this has to be
    /// suspended. EEXIST where the number is taken, ENODATA where the other is not there.
    Clone {
        /// Its number.
        id: ThinId,
        /// Whose contents.
        of: ThinId,
    },
    /// Delete a volume, which no device may show (EBUSY). ENODATA where it is not there.
    Delete(ThinId),
    /// Change the number by which whoever manages the pool knows how far it is; LVM refuses a pool whose
    /// number is not what it has on record.
    Transaction {
        /// What it is.
        from: u64,
        /// What it becomes.
        to: u64,
    },
    /// Keep the metadata as it is now, so that it can be read while the pool is used.
    ReserveMetadata,
    /// Give that up.
    ReleaseMetadata,
}

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(id) => write!(f, "create_thin {id}"),
            Self::Clone { id, of } => write!(f, "create_snap {id} {of}"),
            Self::Delete(id) => write!(f, "delete {id}"),
            Self::Transaction { from, to } => write!(f, "set_transaction_id {from} {to}"),
            Self::ReserveMetadata => f.write_str("reserve_metadata_snap"),
            Self::ReleaseMetadata => f.write_str("release_metadata_snap"),
        }
    }
}

/// The table of a device that shows a volume of the pool with this device number, so many bytes of it; a
/// last part of a sector is not shown.
pub fn table(pool: u64, id: ThinId, bytes: u64) -> [Target; 1] {
    let (major, minor) = (rustix::fs::major(pool), rustix::fs::minor(pool));
    [Target {
        start: 0,
        sectors: bytes / SECTOR,
        kind: "thin".to_owned(),
        text: format!("{major}:{minor} {id}"),
    }]
}

/// How much of something is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Blocks that are taken.
    pub used: u64,
    /// Blocks there are.
    pub total: u64,
}

impl Fill {
    fn parse(text: &str) -> Option<Self> {
        let (used, total) = text.split_once('/')?;
        Some(Self { used: used.parse().ok()?, total: total.parse().ok()? })
    }
}

/// What can be done with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All.
    Write,
    /// Only what needs no new block: all are taken.
    OutOfDataSpace,
    /// Only reading.
    Read,
}

/// What becomes of blocks that a volume gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discards {
    /// The pool has them again, and the disk below is told.
    PassedDown,
    /// The pool has them again.
    Taken,
    /// Nothing.
    Ignored,
}

/// How a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// The number that [`Message::Transaction`] changes.
    pub transaction: u64,
    /// Its metadata, in blocks of [`METADATA_BLOCK`].
    pub metadata: Fill,
    /// Its data, in blocks of the pool's own size (see [`PoolTable`]).
    pub data: Fill,
    /// In which block the metadata is that was told to be kept.
    pub kept_metadata: Option<u64>,
    /// What can be done.
    pub mode: Mode,
    /// What becomes of blocks that are given back.
    pub discards: Discards,
    /// Whether a write that needs a block fails where none is left, rather than to wait for more.
    pub errors_when_full: bool,
    /// Whether the metadata has to be checked by `thin_check` before it can be written again.
    pub needs_check: bool,
    /// With how few blocks of metadata left the kernel tells of it, where it says that.
    pub metadata_low: Option<u64>,
}

impl PoolStatus {
    /// Reads what a pool says; `None` where it has failed for good and says no more than that.
    ///
    /// # Errors
    /// [`HostError::Parse`].
    pub fn parse(status: &Target) -> Result<Option<Self>, HostError> {
        let text = of_kind(status, "thin-pool")?;
        if ["Fail", "Error"].contains(&text.trim()) {
            return Ok(None);
        }
        Self::read(text).map(Some).ok_or_else(|| HostError::parse("a thin pool's status", text))
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            transaction: words.next()?.parse().ok()?,
            metadata: Fill::parse(words.next()?)?,
            data: Fill::parse(words.next()?)?,
            kept_metadata: match words.next()? {
                "-" => None,
                block => Some(block.parse().ok()?),
            },
            mode: match words.next()? {
                "rw" => Mode::Write,
                "ro" => Mode::Read,
                "out_of_data_space" => Mode::OutOfDataSpace,
                _ => return None,
            },
            discards: match words.next()? {
                "discard_passdown" => Discards::PassedDown,
                "no_discard_passdown" => Discards::Taken,
                "ignore_discard" => Discards::Ignored,
                _ => return None,
            },
            errors_when_full: match words.next()? {
                "error_if_no_space" => true,
                "queue_if_no_space" => false,
                _ => return None,
            },
            needs_check: match words.next()? {
                "needs_check" => true,
                "-" => false,
                _ => return None,
            },
            metadata_low: words.next().map(str::parse).transpose().ok()?,
        })
    }
}

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTable {
    /// The device with its metadata, as `major:minor`.
    pub metadata: String,
    /// The device with its data, as `major:minor`.
    pub data: String,
    /// Bytes of a block of data.
    pub block: u64,
    /// Whether a block that is given out is not filled with zeros first.
    pub skips_zeroing: bool,
}

impl PoolTable {
    /// Reads a pool's table.
    ///
    /// # Errors
    /// [`HostError::Parse`].
    pub fn parse(table: &Target) -> Result<Self, HostError> {
        let text = of_kind(table, "thin-pool")?;
        Self::read(text).ok_or_else(|| HostError::parse("a thin pool's table", text))
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (metadata, data) = (words.next()?.to_owned(), words.next()?.to_owned());
        let block = words.next()?.parse::<u64>().ok()?.checked_mul(SECTOR)?;
        let _low_water: u64 = words.next()?.parse().ok()?;
        let features: usize = words.next()?.parse().ok()?;
        let features: Vec<_> = words.take(features).collect();
        Some(Self {
            metadata,
            data,
            block,
            skips_zeroing: features.contains(&"skip_block_zeroing"),
        })
    }
}

/// Bytes of the pool that a volume maps, those that it shares included; `None` where the pool has failed.
///
/// # Errors
/// [`HostError::Parse`].
pub fn mapped_bytes(status: &Target) -> Result<Option<u64>, HostError> {
    let text = of_kind(status, "thin")?;
    if ["Fail", "Error", "-"].contains(&text.trim()) {
        return Ok(None);
    }
    let sectors = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    let bytes = sectors.and_then(|sectors| sectors.checked_mul(SECTOR));
    bytes.map(Some).ok_or_else(|| HostError::parse("a thin volume's status", text))
}

/// What a target says, if it is of this kind.
fn of_kind<'a>(target: &'a Target, kind: &str) -> Result<&'a str, HostError> {
    if target.kind == kind {
        Ok(&target.text)
    } else {
        Err(HostError::parse(format!("a target of the kind {kind}"), &target.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(kind: &str, text: &str) -> Target {
        Target { start: 0, sectors: 8_388_608, kind: kind.to_owned(), text: text.to_owned() }
    }

    fn pool(text: &str) -> PoolStatus {
        PoolStatus::parse(&target("thin-pool", text)).expect("understood").expect("it works")
    }

    // Statuses and tables are those of Linux 6.12.

    #[test]
    fn a_healthy_pool_is_understood() {
        let text = "0 1654/16384 148/65536 - rw discard_passdown error_if_no_space - 1024 ";
        let expected = PoolStatus {
            transaction: 0,
            metadata: Fill { used: 1654, total: 16384 },
            data: Fill { used: 148, total: 65536 },
            kept_metadata: None,
            mode: Mode::Write,
            discards: Discards::PassedDown,
            errors_when_full: true,
            needs_check: false,
            metadata_low: Some(1024),
        };
        assert_eq!(pool(text), expected);
    }

    #[test]
    fn full_pools_say_what_they_are_full_of() {
        let text =
            "0 114/1024 256/256 - out_of_data_space discard_passdown error_if_no_space - 256 ";
        let data = pool(text);
        assert_eq!((data.mode, data.data.used), (Mode::OutOfDataSpace, data.data.total));
        let text = "0 512/512 0/16384 240 ro discard_passdown queue_if_no_space - 128 ";
        let metadata = pool(text);
        assert_eq!((metadata.mode, metadata.metadata.used), (Mode::Read, metadata.metadata.total));
        assert_eq!((metadata.kept_metadata, metadata.errors_when_full), (Some(240), false));
    }

    #[test]
    fn older_and_damaged_pools_are_understood() {
        // Before 4.19 nothing was said of a low water mark.
        let old = pool("7 1/2 3/4 - ro ignore_discard queue_if_no_space needs_check");
        assert!(old.needs_check && old.metadata_low.is_none());
        assert_eq!((old.transaction, old.discards), (7, Discards::Ignored));
        for failed in ["Fail", "Error"] {
            assert_eq!(PoolStatus::parse(&target("thin-pool", failed)).expect("understood"), None);
        }
    }

    #[test]
    fn what_is_no_status_of_a_pool_is_refused() {
        let whole = "0 1/2 3/4 - rw discard_passdown error_if_no_space - 1024";
        // Each word is needed but the last, and none may be another.
        let words: Vec<_> = whole.split(' ').collect();
        for n in 0..words.len() - 1 {
            let mut less = words.clone();
            less.remove(n);
            let text = less.join(" ");
            assert!(PoolStatus::parse(&target("thin-pool", &text)).is_err(), "{text:?}");
        }
        assert!(PoolStatus::parse(&target("linear", whole)).is_err());
    }

    #[test]
    fn a_pools_table_tells_what_it_is_made_of() {
        let text = "253:0 253:1 128 0 2 skip_block_zeroing error_if_no_space ";
        let table = PoolTable::parse(&target("thin-pool", text)).expect("understood");
        assert_eq!((table.metadata.as_str(), table.data.as_str()), ("253:0", "253:1"));
        assert_eq!((table.block, table.skips_zeroing), (65536, true));
        let zeroed =
            PoolTable::parse(&target("thin-pool", "7:1 7:2 128 0 0 ")).expect("understood");
        assert!(!zeroed.skips_zeroing);
        assert!(PoolTable::parse(&target("thin-pool", "7:1 7:2 0x80 0 0")).is_err());
    }

    #[test]
    fn a_volume_says_how_much_it_maps() {
        let mapped = |text| mapped_bytes(&target("thin", text));
        assert_eq!(mapped("18688 524287").expect("understood"), Some(18688 * 512));
        assert_eq!(mapped("0 -").expect("understood"), Some(0));
        assert_eq!(mapped("Fail").expect("understood"), None);
        assert!(mapped("").is_err() && mapped_bytes(&target("linear", "0 -")).is_err());
    }

    #[test]
    fn messages_and_tables_are_written_as_the_kernel_reads_them() {
        let id = |n| ThinId::new(n).expect("24 bits");
        assert_eq!(Message::Create(id(7)).to_string(), "create_thin 7");
        assert_eq!(Message::Clone { id: id(8), of: id(7) }.to_string(), "create_snap 8 7");
        assert_eq!(Message::Delete(id(8)).to_string(), "delete 8");
        let next = Message::Transaction { from: 3, to: 4 };
        assert_eq!(next.to_string(), "set_transaction_id 3 4");
        let [line] = table(rustix::fs::makedev(253, 2), ThinId::MAX, (1 << 30) + 511);
        let shown = (line.start, line.sectors, line.kind.as_str(), line.text.as_str());
        assert_eq!(shown, (0, 2_097_152, "thin", "253:2 16777215"));
        assert_eq!(ThinId::new(1 << 24), None);
    }
}
