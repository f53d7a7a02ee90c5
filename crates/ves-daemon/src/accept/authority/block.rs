//! One header block (RFC 7541): where the value of its `:authority` is, and that value mended in place. Pure.
//!
//! Never here: what the block means; only the syntax of its representations is read.

use std::ops::Range;

use http::uri::Authority;

use super::NotUnderstood;

/// The name that is looked for.
const NAME: &[u8] = b":authority";
/// The same, Huffman-coded; there is no other code for it.
const CODED_NAME: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// Its place in the static table.
const INDEX: usize = 1;

/// The most octets of an integer, as `h2` has it: more are refused there.
const OCTETS: u32 = 5;

/// A string literal within a block.
#[derive(Debug, Clone)]
struct Text {
    at: Range<usize>,
    is_coded: bool,
}

/// Mends the authority of a block that has one as a literal, and needs it.
pub(super) fn mend(block: &mut [u8]) -> Result<(), NotUnderstood> {
    let Some(Text { at, is_coded }) = authority(block)? else { return Ok(()) };
    let value = block.get_mut(at).ok_or(NotUnderstood)?;
    if is_coded {
        mend_coded(value);
    } else if !is_authority(value) {
        value.iter_mut().filter(|byte| !is_of_name(**byte)).for_each(|byte| *byte = b'-');
    }
    Ok(())
}

/// Where the authority of this block is, where that is a literal. Of two, which are refused, the first.
fn authority(block: &[u8]) -> Result<Option<Text>, NotUnderstood> {
    let mut reader = Reader { block, at: 0 };
    let mut found = None;
    while let Some(first) = reader.peek() {
        // What kind of representation it is, and how many bits of its first octet are an integer's.
        let (is_literal, bits) = match first {
            0x80.. => (false, 7),
            0x40.. => (true, 6),
            0x20.. => (false, 5),
            _ => (true, 4),
        };
        let index = reader.integer(bits)?;
        if !is_literal {
            continue;
        }
        let is_named = if index == 0 {
            let name = reader.text()?;
            let spelled = if name.is_coded { CODED_NAME } else { NAME };
            block.get(name.at) == Some(spelled)
        } else {
            index == INDEX
        };
        let value = reader.text()?;
        if is_named && found.is_none() {
            found = Some(value);
        }
    }
    Ok(found)
}

#[derive(Debug)]
struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.block.get(self.at).copied()
    }

    fn octet(&mut self) -> Result<u8, NotUnderstood> {
        let octet = self.peek().ok_or(NotUnderstood)?;
        self.at += 1;
        Ok(octet)
    }

    /// An integer that begins in the last `bits` of an octet.
    fn integer(&mut self, bits: u32) -> Result<usize, NotUnderstood> {
        let full = (1_usize << bits) - 1;
        let mut value = usize::from(self.octet()?) & full;
        if value < full {
            return Ok(value);
        }
        for nth in 0..OCTETS - 1 {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << (7 * nth);
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(NotUnderstood)
    }

    fn text(&mut self) -> Result<Text, NotUnderstood> {
        let is_coded = self.peek().is_some_and(|octet| octet & 0x80 != 0);
        let length = self.integer(7)?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.block.len());
        let at = self.at..end.ok_or(NotUnderstood)?;
        self.at = at.end;
        Ok(Text { at, is_coded })
    }
}

/// Whether `h2` takes it.
fn is_authority(value: &[u8]) -> bool {
    Authority::try_from(value).is_ok()
}

/// Whether it may stay in a value that is mended: whatever consists of these is an authority.
const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'+')
}

/// Huffman codes of one length, which follow each other.
#[derive(Debug)]
struct Codes {
    bits: usize,
    first: u32,
    symbols: &'static [u8],
    /// What stands for those of them that no name has, where any can.
    instead: Option<u8>,
}

/// The codes of RFC 7541, appendix B, but for control characters and what is not ASCII, which are longer and
/// have nothing that could stand for them.
const CODES: [Codes; 10] = [
    Codes { bits: 5, first: 0x0, symbols: b"012aceiost", instead: None },
    Codes { bits: 6, first: 0x14, symbols: b" %-./3456789=A_bdfghlmnpru", instead: Some(b'-') },
    Codes {
        bits: 7,
        first: 0x5c,
        symbols: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
        instead: Some(b'x'),
    },
    Codes { bits: 8, first: 0xf8, symbols: b"&*,;XZ", instead: Some(b'X') },
    Codes { bits: 10, first: 0x3f8, symbols: b"!\"()?", instead: Some(b'!') },
    Codes { bits: 11, first: 0x7fa, symbols: b"'+|", instead: Some(b'+') },
    Codes { bits: 12, first: 0xffa, symbols: b"#>", instead: None },
    Codes { bits: 13, first: 0x1ff8, symbols: b"\0$@[]~", instead: Some(b'~') },
    Codes { bits: 14, first: 0x3ffc, symbols: b"^}", instead: None },
    Codes { bits: 15, first: 0x7ffc, symbols: b"<`{", instead: None },
];

impl Codes {
    fn code_of(&self, symbol: u8) -> Option<u32> {
        let nth = self.symbols.iter().position(|s| *s == symbol)?;
        Some(self.first + u32::try_from(nth).ok()?)
    }

    fn symbol_of(&self, code: u32) -> Option<u8> {
        let nth = usize::try_from(code.checked_sub(self.first)?).ok()?;
        self.symbols.get(nth).copied()
    }
}

/// A symbol of a coded string, and where its code begins, in bits.
#[derive(Debug)]
struct Symbol {
    byte: u8,
    at: usize,
    codes: &'static Codes,
}

/// Mends a Huffman-coded value, unless nothing can stand for some part of it.
fn mend_coded(value: &mut [u8]) {
    let Some(symbols) = decode(value) else { return };
    let plain: Vec<u8> = symbols.iter().map(|s| s.byte).collect();
    if is_authority(&plain) {
        return;
    }
    let bad = symbols.iter().filter(|s| !is_of_name(s.byte));
    let instead = |s: &Symbol| Some((s.at, s.codes.bits, s.codes.code_of(s.codes.instead?)?));
    if let Some(changes) = bad.map(instead).collect::<Option<Vec<_>>>() {
        changes.into_iter().for_each(|(at, bits, code)| put(value, at, bits, code));
    }
}

/// The symbols of a string; none where it has some that are not among [`CODES`], or ends wrongly.
fn decode(coded: &[u8]) -> Option<Vec<Symbol>> {
    let end = coded.len() * 8;
    let mut symbols = Vec::new();
    let mut at = 0;
    let symbol = |at: usize| {
        CODES.iter().take_while(|codes| at + codes.bits <= end).find_map(|codes| {
            let byte = codes.symbol_of(get(coded, at, codes.bits))?;
            Some(Symbol { byte, at, codes })
        })
    };
    while let Some(next) = symbol(at) {
        at += next.codes.bits;
        symbols.push(next);
    }
    // What fills the last octet are ones.
    let left = end - at;
    (left < 8 && get(coded, at, left) == (1 << left) - 1).then_some(symbols)
}

/// The octets with the bits at `at`, as one number, the first octet highest.
fn octets(bytes: &[u8], at: usize) -> u32 {
    let octet = |nth| bytes.get(at / 8 + nth).copied().unwrap_or_default();
    u32::from_be_bytes([octet(0), octet(1), octet(2), octet(3)])
}

/// How far `bits` of them, from `at`, are from the end of [`octets`].
const fn shift(at: usize, bits: usize) -> usize {
    32 - at % 8 - bits
}

fn get(bytes: &[u8], at: usize, bits: usize) -> u32 {
    if bits == 0 { 0 } else { (octets(bytes, at) >> shift(at, bits)) & ((1 << bits) - 1) }
}

fn put(bytes: &mut [u8], at: usize, bits: usize, code: u32) {
    let (shift, mask) = (shift(at, bits), (1 << bits) - 1);
    let new = (octets(bytes, at) & !(mask << shift)) | (code << shift);
    let places = bytes.iter_mut().skip(at / 8);
    places.zip(new.to_be_bytes()).for_each(|(place, octet)| *place = octet);
}
