//! Sparse files: where their data are, in each form that is written of it, and the one form of a clean
//! archive, GNU tar's 1.0.
//!
//! ```text
//! GNU `S` · pax 0.0 · 0.1 · 1.0 ──► Map ──► pax 1.0: the map before the data, then pieces without holes
//! ```
//!
//! Never here: a byte of a file's contents.

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

/// The most pieces one file may have.
const MAX_PIECES: usize = 1 << 18;
/// The greatest file of ext4 with blocks of 4 KiB.
const MAX_FILE: u64 = (1 << 44) - 4096;
const BLOCK: u64 = 4096;
/// Bytes of one number in a map, at most, with its end.
const MAX_NUMBER: usize = 21;

/// Why a map was not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("its map of holes is malformed")]
    Malformed,
    #[error("it has more than {MAX_PIECES} pieces between holes")]
    Pieces,
    #[error("it would have {0} bytes, more than a file can have")]
    Size(u64),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Where a sparse file has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Map {
    /// Bytes of the file, with its holes.
    pub(crate) size: u64,
    /// Offset and length of each piece of data, in bytes: ascending, none empty, none over another.
    pub(crate) pieces: Vec<(u64, u64)>,
}

impl Map {
    /// Takes pieces as somebody wrote them.
    pub(crate) fn new(size: u64, pieces: Vec<(u64, u64)>) -> Result<Self, Unclear> {
        if size > MAX_FILE {
            return Err(Unclear::Size(size));
        }
        let mut end = 0;
        for (offset, length) in &pieces {
            let next = offset.checked_add(*length).ok_or(Unclear::Malformed)?;
            if *offset < end || next > size {
                return Err(Unclear::Malformed);
            }
            end = next;
        }
        let pieces = pieces.into_iter().filter(|(_, length)| *length > 0).collect();
        Ok(Self { size, pieces })
    }

    /// Of a file without holes.
    pub(crate) fn whole(size: u64) -> Result<Self, Unclear> {
        Self::new(size, vec![(0, size)])
    }

    /// Bytes of data in an archive.
    pub(crate) fn stored(&self) -> u64 {
        self.pieces.iter().map(|(_, length)| length).sum()
    }

    /// Bytes of the blocks that have data on a file system.
    pub(crate) fn allocated(&self) -> u64 {
        let mut free = 0;
        let mut blocks = 0;
        for (offset, length) in &self.pieces {
            let first = (offset / BLOCK).max(free);
            free = (offset + length).div_ceil(BLOCK).max(first);
            blocks += free - first;
        }
        blocks * BLOCK
    }

    /// Reads the map of a GNU header of type `S`, and the blocks that go on with it.
    pub(crate) fn read_gnu(header: &Header, input: &mut impl Read) -> Result<Self, Unclear> {
        let gnu = header.as_gnu().ok_or(Unclear::Malformed)?;
        let size = gnu.real_size().map_err(|_| Unclear::Malformed)?;
        let mut pieces = Vec::new();
        add(&mut pieces, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut next = GnuExtSparseHeader::new();
            input.read_exact(next.as_mut_bytes())?;
            add(&mut pieces, next.sparse())?;
            more = next.is_extended();
        }
        Self::new(size, pieces)
    }

    /// Reads the map at the beginning of a file's data, as pax 1.0 has it, with its padding. `room` is how
    /// many bytes the data have.
    pub(crate) fn read_before_data(
        size: u64,
        room: u64,
        input: &mut impl Read,
    ) -> Result<Self, Unclear> {
        let mut block = [0u8; 512];
        let (mut at, mut taken) = (block.len(), 0);
        let mut number = || -> Result<u64, Unclear> {
            let mut digits = Vec::with_capacity(MAX_NUMBER);
            loop {
                if at == block.len() {
                    if taken + 512 > room {
                        return Err(Unclear::Malformed);
                    }
                    input.read_exact(&mut block)?;
                    (at, taken) = (0, taken + 512);
                }
                let byte = block.get(at).copied().unwrap_or_default();
                at += 1;
                match byte {
                    b'\n' => return decimal(&digits).ok_or(Unclear::Malformed),
                    b if digits.len() < MAX_NUMBER => digits.push(b),
                    _ => return Err(Unclear::Malformed),
                }
            }
        };
        let count = usize::try_from(number()?).unwrap_or(usize::MAX);
        if count > MAX_PIECES {
            return Err(Unclear::Pieces);
        }
        let pieces = (0..count).map(|_| Ok((number()?, number()?)));
        let pieces = pieces.collect::<Result<_, Unclear>>()?;
        Self::new(size, pieces)
    }

    /// The map as it stands before a file's data in pax 1.0, padded.
    pub(crate) fn before_data(&self) -> Vec<u8> {
        let mut text = format!("{}\n", self.pieces.len());
        for (offset, length) in &self.pieces {
            text.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut text = text.into_bytes();
        text.resize(text.len().next_multiple_of(512), 0);
        text
    }
}

/// What extended headers say of a sparse file, as they come.
#[derive(Debug, Default, Clone)]
pub(crate) struct Said {
    major: Option<u64>,
    size: Option<u64>,
    offset: Option<u64>,
    pieces: Vec<(u64, u64)>,
    sparse: bool,
}

impl Said {
    /// Takes a record over, whose key begins with `GNU.sparse.`; `key` is what follows.
    pub(crate) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Unclear> {
        let number = || decimal(value).ok_or(Unclear::Malformed);
        self.sparse = true;
        match key {
            b"major" => self.major = Some(number()?),
            b"realsize" | b"size" => self.size = Some(number()?),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or(Unclear::Malformed)?;
                push(&mut self.pieces, (offset, number()?))?;
            }
            b"map" => {
                let mut numbers = value.split(|b| *b == b',').filter(|n| !n.is_empty());
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().and_then(decimal);
                    let piece = decimal(offset).zip(length).ok_or(Unclear::Malformed)?;
                    push(&mut self.pieces, piece)?;
                }
            }
            // The number of pieces, which are counted; a name; the smaller number of the version.
            _ => {}
        }
        Ok(())
    }

    /// Whether it is one.
    pub(crate) const fn is_sparse(&self) -> bool {
        self.sparse
    }

    /// The map; of 1.0 it is read from the data, which have `room` bytes.
    pub(crate) fn map(self, room: u64, input: &mut impl Read) -> Result<Map, Unclear> {
        let size = self.size.ok_or(Unclear::Malformed)?;
        match self.major {
            None | Some(0) => Map::new(size, self.pieces),
            Some(1) => Map::read_before_data(size, room, input),
            Some(_) => Err(Unclear::Malformed),
        }
    }
}

fn push(pieces: &mut Vec<(u64, u64)>, piece: (u64, u64)) -> Result<(), Unclear> {
    if pieces.len() == MAX_PIECES {
        return Err(Unclear::Pieces);
    }
    pieces.push(piece);
    Ok(())
}

fn add(pieces: &mut Vec<(u64, u64)>, more: &[GnuSparseHeader]) -> Result<(), Unclear> {
    for piece in more.iter().take_while(|p| !p.is_empty()) {
        let offset = piece.offset().map_err(|_| Unclear::Malformed)?;
        let length = piece.length().map_err(|_| Unclear::Malformed)?;
        push(pieces, (offset, length))?;
    }
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_as_it_is_written() {
        for pieces in [
            vec![],
            vec![(0, 1)],
            vec![(512, 512), (8192, 1)],
            (0..99).map(|n| (n * 9000, 7)).collect(),
        ] {
            let map = Map::new(1 << 30, pieces).expect("good");
            let mut text = map.before_data();
            let length = text.len() as u64;
            text.extend([7; 600]);
            let room = text.len() as u64;
            let mut rest = text.as_slice();
            let again = Map::read_before_data(1 << 30, room, &mut rest).expect("good");
            assert_eq!((again, rest.len()), (map, 600));
            let short = Map::read_before_data(1 << 30, length - 1, &mut text.as_slice());
            assert!(short.is_err(), "the map is no longer than the data");
        }
    }

    #[test]
    fn pieces_are_in_order_and_inside() {
        for bad in [vec![(0, 2), (1, 1)], vec![(5, 1), (0, 1)], vec![(10, 1)], vec![(u64::MAX, 2)]]
        {
            assert!(matches!(Map::new(10, bad), Err(Unclear::Malformed)));
        }
        assert!(matches!(Map::new(1 << 60, vec![]), Err(Unclear::Size(_))));
        let end = Map::new(10, vec![(2, 3), (10, 0)]).expect("an end of nothing is usual");
        assert_eq!(end.pieces, [(2, 3)]);
        let many = format!("{}\n", MAX_PIECES + 1);
        let many = [many.as_bytes(), &[0; 600]].concat();
        let many = Map::read_before_data(1, 512, &mut many.as_slice());
        assert!(matches!(many, Err(Unclear::Pieces)));
    }

    #[test]
    fn blocks_are_counted_once() {
        let allocated = |pieces| Map::new(1 << 30, pieces).expect("good").allocated();
        assert_eq!(allocated(vec![]), 0);
        assert_eq!(allocated(vec![(0, 1)]), 4096);
        assert_eq!(allocated(vec![(4095, 2)]), 8192);
        assert_eq!(allocated(vec![(0, 10), (100, 10), (4000, 10)]), 4096);
        assert_eq!(allocated(vec![(0, 4097), (4200, 1), (1 << 20, 1)]), 3 * 4096);
    }
}
