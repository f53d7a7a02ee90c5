//! Compressions: which one it is, and its undoing within a bound of memory; and what is no archive that
//! is read, by its name.
//!
//! Never here: what is in an archive.

use std::io::{self, BufRead, Read};

/// What is not read, by its first bytes: its name, and what to do.
const OTHERS: &[(&[u8], &str)] = &[
    (b"LZIP", "compressed with lzip; unpack it with `lzip -d` and import what comes out"),
    (b"\x5d\0\0", "compressed as lzma-alone; unpack it with `xz -d` and import what comes out"),
    (b"\x89LZO\0", "compressed with lzop; unpack it with `lzop -d` and import what comes out"),
    (
        b"\x1f\x9d",
        "compressed with compress (.Z); unpack it with `gzip -d` and import what comes out",
    ),
    (
        b"\x1f\xa0",
        "compressed with compress (.Z); unpack it with `gzip -d` and import what comes out",
    ),
    (b"\x1f\x1e", "compressed with pack (.z); unpack it with `gzip -d` and import what comes out"),
    (b"\xff\x06\0\0sNaPpY", "compressed with snappy; unpack it and import what comes out"),
    (b"\x28\x52\xb5\x2f\xfd", "compressed with a zstd of before 2016; compress it anew"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it as root and import the directory"),
    (b"PK\x03\x04", "a zip archive, which knows no owners; make a tar archive of the system"),
    (b"PK\x05\x06", "an empty zip archive; make a tar archive of the system"),
    (b"Rar!\x1a\x07", "a rar archive; make a tar archive of the system"),
    (b"xar!", "a xar archive; unpack it as root and import the directory"),
    (b"070701", "a cpio archive; unpack it as root and import the directory"),
    (b"070702", "a cpio archive; unpack it as root and import the directory"),
    (b"070707", "a cpio archive; unpack it as root and import the directory"),
    (b"\xc7\x71", "a cpio archive; unpack it as root and import the directory"),
    (b"\x71\xc7", "a cpio archive; unpack it as root and import the directory"),
    (b"!<arch>\n", "an ar archive or a Debian package, not a system"),
    (b"\xed\xab\xee\xdb", "a package of rpm, not a system"),
    (b"hsqs", "an image of squashfs; unpack it with `unsquashfs` as root and import the directory"),
    (b"QFI\xfb", "a disk image (qcow2); mount its file system and import the directory"),
    (b"KDMV", "a disk image (vmdk); mount its file system and import the directory"),
    (b"conectix", "a disk image (vhd); mount its file system and import the directory"),
    (b"vhdxfile", "a disk image (vhdx); mount its file system and import the directory"),
    (b"VMA\0", "a backup of a virtual machine (vma), not of a container"),
    (
        b"\xef\xac\x88\xe5\x74\x64\x95\xd5",
        "an archive of Proxmox Backup Server (pxar); restore it and import the directory",
    ),
    (b"-----BEGIN PGP", "encrypted or signed with PGP; decrypt it first"),
    (b"Salted__", "encrypted by openssl; decrypt it first"),
    (b"age-encryption", "encrypted with age; decrypt it first"),
];

/// What begins so and is no tar archive, where it is known. Names of files begin so too, so this is asked
/// only where there is no tar header.
pub(crate) fn foreign(begin: &[u8]) -> Option<&'static str> {
    OTHERS.iter().find(|(magic, _)| begin.starts_with(magic)).map(|(_, what)| *what)
}

/// Recognises the compression by content and undoes it; what is compressed in no known way stays as it is.
pub(crate) fn decompress<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(6);
    input.by_ref().take(6).read_to_end(&mut magic)?;
    let whole = io::BufReader::with_capacity(1 << 17, io::Cursor::new(magic.clone()).chain(input));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            // What `xz -9` needs, and some; a stream that asks for more is refused.
            let stream = liblzma::stream::Stream::new_stream_decoder(
                192 << 20,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(whole, stream))
        }
        // Also with a frame before it that is to be skipped, as programs with threads write it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => {
            Box::new(Lz4(lz4_flex::frame::FrameDecoder::new(whole)))
        }
        _ => Box::new(whole),
    })
}

/// Frames of LZ4, one after the other; the decoder of one says its end as that of all.
struct Lz4<R: Read>(lz4_flex::frame::FrameDecoder<R>);

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.0.read(buffer)?;
            if got > 0 || buffer.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(got);
            }
        }
    }
}
