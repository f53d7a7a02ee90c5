//! Frames of sessions: what exec helpers and monitors speak with the daemon over a stream socket.
//!
//! A frame is a tag, the length of its payload as four little-endian bytes, and the payload. A
//! longer payload than [`LONGEST`] or an unknown tag ends the session.

/// The longest payload.
pub const LONGEST: usize = 64 * 1024;
const HEAD: usize = 5;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// What to do, as JSON; the first frame.
    Request = 1,
    /// Input.
    Input = 2,
    /// The end of input.
    InputEnd = 3,
    /// Rows and columns, two little-endian bytes each.
    Resize = 4,
    /// The number of a signal, one byte.
    Signal = 5,
    /// What was started in the session is to be killed: its container stops.
    Close = 6,
    /// The caller is gone, though whoever passes on what it said is not. A release that does not know this
    /// takes it for the end of the session, which is the same where nothing is to be left.
    HangUp = 7,
    /// The command runs.
    Started = 16,
    /// Output.
    Output = 17,
    /// Error output.
    ErrorOutput = 18,
    /// How it ended, as JSON.
    Ended = 19,
    /// Why it could not be done, as JSON.
    Failed = 20,
    /// The answer to a request, as JSON.
    Answer = 21,
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Request,
            Self::Input,
            Self::InputEnd,
            Self::Resize,
            Self::Signal,
            Self::Close,
            Self::HangUp,
            Self::Started,
            Self::Output,
            Self::ErrorOutput,
            Self::Ended,
            Self::Failed,
            Self::Answer,
        ]
        .into_iter()
        .find(|tag| *tag as u8 == byte)
    }
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub tag: Tag,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Why a stream is no stream of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// A tag that does not exist.
    #[error("a frame has the unknown tag {0}")]
    Tag(u8),
    /// A payload that is too long.
    #[error("a frame of {0} bytes is too long")]
    Long(usize),
}

impl Frame {
    /// A frame.
    pub fn new(tag: Tag, payload: impl Into<Vec<u8>>) -> Self {
        Self { tag, payload: payload.into() }
    }
    /// A frame whose payload is `value` as JSON.
    pub fn json(tag: Tag, value: &impl serde::Serialize) -> Self {
        // Our messages have no maps with keys that JSON lacks, the only way to fail.
        Self::new(tag, serde_json::to_vec(value).unwrap_or_default())
    }
    /// A frame with a terminal's size.
    pub fn resize(rows: u16, cols: u16) -> Self {
        Self::new(Tag::Resize, [rows.to_le_bytes(), cols.to_le_bytes()].concat())
    }
    /// The size in a [`Tag::Resize`] frame.
    pub fn size(&self) -> Option<(u16, u16)> {
        match *self.payload.as_slice() {
            [a, b, c, d] => Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))),
            _ => None,
        }
    }
    /// Reads a payload of JSON.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.payload).ok()
    }
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.payload.len());
        bytes.push(self.tag as u8);
        let len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        bytes.extend(len.to_le_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// Puts frames together from pieces of a stream.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes a piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }
    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`BadFrame`]; the stream cannot be understood any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        let Some((&[tag, a, b, c, d], rest)) = self.bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if len > LONGEST {
            return Err(BadFrame::Long(len));
        }
        let tag = Tag::from_byte(tag).ok_or(BadFrame::Tag(tag))?;
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        let frame = Frame::new(tag, payload);
        self.bytes.drain(..HEAD + len);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cutting() {
        let frames = [
            Frame::new(Tag::Input, b"abc".to_vec()),
            Frame::new(Tag::InputEnd, []),
            Frame::resize(25, 80),
            Frame::new(Tag::Output, vec![7; LONGEST]),
        ];
        let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        for piece in [1, 3, 4096, stream.len()] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in stream.chunks(piece) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().expect("good frames") {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames);
        }
        assert_eq!(frames[2].size(), Some((25, 80)));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[99, 0, 0, 0, 0]);
        assert_eq!(decoder.next_frame(), Err(BadFrame::Tag(99)));
        let mut decoder = Decoder::default();
        decoder.push(&[2, 255, 255, 255, 255]);
        assert!(matches!(decoder.next_frame(), Err(BadFrame::Long(_))));
    }
}
