//! Laws: whatever a client may write comes out as it was, but for an authority that `h2` takes; and what is no
//! HTTP/2 comes out as it was altogether. The judge is `h2` itself, the Huffman coder another's.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

/// How a literal may be written.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Its pattern and how many bits of the index follow.
    kind: (u8, u32),
    names_index: bool,
    codes_name: bool,
    codes_value: bool,
}

const INDEXED: (u8, u32) = (0x40, 6);

fn forms() -> impl Strategy<Value = Form> {
    let kind = prop::sample::select(vec![INDEXED, (0x00, 4), (0x10, 4)]);
    (kind, any::<[bool; 3]>()).prop_map(|(kind, [names_index, codes_name, codes_value])| Form {
        kind,
        names_index,
        codes_name,
        codes_value,
    })
}

fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let full = (1_usize << bits) - 1;
    let octet = |value: usize| u8::try_from(value).expect("it fits");
    if value < full {
        return out.push(pattern | octet(value));
    }
    out.push(pattern | octet(full));
    let mut left = value - full;
    while left >= 0x80 {
        out.push(octet(left % 0x80) | 0x80);
        left /= 0x80;
    }
    out.push(octet(left));
}

fn text(out: &mut Vec<u8>, value: &[u8], is_coded: bool) {
    if is_coded {
        let mut coded = Vec::new();
        httlib_huffman::encode(value, &mut coded).expect("all can be coded");
        integer(out, 0x80, 7, coded.len());
        out.extend(coded);
    } else {
        integer(out, 0x00, 7, value.len());
        out.extend(value);
    }
}

fn literal(out: &mut Vec<u8>, name: &str, index: usize, value: &[u8], form: Form) {
    let (pattern, bits) = form.kind;
    integer(out, pattern, bits, if form.names_index { index } else { 0 });
    if !form.names_index || index == 0 {
        text(out, name.as_bytes(), form.codes_name);
    }
    text(out, value, form.codes_value);
}

/// A request, and how it is written.
#[derive(Debug, Clone)]
struct Asked {
    /// Said again, from the dynamic table, if it is the last that went there.
    authority: Option<(Vec<u8>, Form)>,
    path: (String, Form),
    field: (String, Form),
    padding: Option<u8>,
    has_priority: bool,
    cuts: Vec<Index>,
    data: Vec<u8>,
}

fn asked(authority: impl Strategy<Value = (Vec<u8>, Form)>) -> impl Strategy<Value = Asked> {
    let shape = (any::<Option<u8>>(), any::<bool>(), prop::collection::vec(any::<Index>(), 0..4));
    let path = ("/[a-z%/]{0,9}", forms());
    let field = ("[ -~]{0,80}", forms());
    let data = prop::collection::vec(any::<u8>(), 0..60);
    (prop::option::weighted(0.8, authority), path, field, shape, data).prop_map(
        |(authority, path, field, (padding, has_priority, cuts), data)| Asked {
            authority,
            path,
            field,
            padding,
            has_priority,
            cuts,
            data,
        },
    )
}

/// What is no authority, nor has anything that cannot be mended in that form.
fn authorities() -> impl Strategy<Value = (Vec<u8>, Form)> {
    let plain = prop::collection::vec(any::<u8>(), 1..60);
    let usual = "(run|/run|%2Frun)?[a-zA-Z0-9%/._~:@?\"|!'()*+,;=&$\\[\\] -]{1,60}";
    (plain, usual, any::<bool>(), forms()).prop_map(|(plain, usual, is_plain, form)| {
        if is_plain {
            (plain, Form { codes_value: false, ..form })
        } else {
            (usual.into_bytes(), form)
        }
    })
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
    out.extend(length);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

fn begun() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    frame(&mut out, 0x4, 0, 0, &[]);
    out
}

/// What a client sends that asks all this, and the authorities that it names.
fn written(all: &[Asked]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut out, mut named) = (begun(), Vec::new());
    // The authority that went into the dynamic table last, and how many others did since.
    let mut indexed: Option<(Vec<u8>, usize)> = None;
    for (nth, asked) in (0..).zip(all) {
        let mut block = vec![0x83, 0x86];
        let name = match (&asked.authority, &indexed) {
            (Some((value, form)), _) => {
                literal(&mut block, ":authority", 1, value, *form);
                if form.kind == INDEXED {
                    indexed = Some((value.clone(), 0));
                }
                value.clone()
            }
            (None, Some((value, newer))) => {
                integer(&mut block, 0x80, 7, 62 + newer);
                value.clone()
            }
            (None, None) => {
                let form = Form { kind: (0x00, 4), ..asked.path.1 };
                literal(&mut block, ":authority", 1, b"localhost", form);
                b"localhost".to_vec()
            }
        };
        named.push(name);
        literal(&mut block, ":path", 4, asked.path.0.as_bytes(), asked.path.1);
        literal(&mut block, "x-field", 0, asked.field.0.as_bytes(), asked.field.1);
        if let Some((_, newer)) = &mut indexed {
            *newer += [asked.path.1, asked.field.1].iter().filter(|f| f.kind == INDEXED).count();
        }

        let mut cuts: Vec<_> = asked.cuts.iter().map(|cut| cut.index(block.len())).collect();
        cuts.sort_unstable();
        cuts.push(block.len());
        let (stream, mut from) = (2 * nth + 1, 0);
        for (part, to) in cuts.iter().enumerate() {
            let end = if part + 1 == cuts.len() { END_HEADERS } else { 0 };
            let fragment = &block[from..*to];
            from = *to;
            if part > 0 {
                frame(&mut out, CONTINUATION, end, stream, fragment);
                continue;
            }
            let (mut flags, mut payload) = (end, Vec::new());
            if let Some(padding) = asked.padding {
                flags |= PADDED;
                payload.push(padding);
            }
            if asked.has_priority {
                flags |= PRIORITY;
                payload.extend([0, 0, 0, 0, 7]);
            }
            payload.extend(fragment);
            payload.extend(vec![0; asked.padding.unwrap_or_default().into()]);
            frame(&mut out, HEADERS, flags, stream, &payload);
        }
        frame(&mut out, 0x0, 0x1, stream, &asked.data);
    }
    (out, named)
}

/// Cut into pieces.
fn pieces(whole: &[u8], cuts: &[Index]) -> VecDeque<Vec<u8>> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
    cuts.extend([0, whole.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| whole[pair[0]..pair[1]].to_vec()).filter(|p| !p.is_empty()).collect()
}

/// What comes out, piece by piece.
fn through(pieces: &VecDeque<Vec<u8>>) -> Vec<u8> {
    let (mut filter, mut held, mut out) = (Filter::new(), Vec::new(), Vec::new());
    for piece in pieces {
        held.extend(piece);
        let settled = filter.settle(&mut held);
        out.extend(held.drain(..settled));
        assert!(held.len() < MOST + HEAD, "no more is held");
    }
    out.extend(held);
    out
}

/// What the other side of a connection sends.
#[derive(Debug)]
struct Sent {
    pieces: VecDeque<Vec<u8>>,
    /// Whether it says no more then, but does not go.
    stays: bool,
}

impl AsyncRead for Sent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        } else if self.stays {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// The same, mended.
#[derive(Debug)]
struct Connection(Sent, read::Mended);

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let Self(sent, mended) = &mut *self;
        mended.poll_read(sent, cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that `h2` sees.
async fn seen(pieces: VecDeque<Vec<u8>>) -> Vec<http::Request<()>> {
    let connection = Connection(Sent { pieces, stays: true }, read::Mended::new());
    let mut server = h2::server::handshake(connection).await.expect("it speaks HTTP/2");
    let mut seen = Vec::new();
    loop {
        let next = std::future::poll_fn(|cx| Poll::Ready(server.poll_accept(cx))).await;
        let Poll::Ready(Some(Ok((request, _answer)))) = next else { return seen };
        seen.push(request.map(drop));
    }
}

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn h2_sees_each_request_as_it_was_but_for_its_authority(
        all in prop::collection::vec(asked(authorities()), 1..5),
        cuts in prop::collection::vec(any::<Index>(), 0..40),
    ) {
        let (sent, named) = written(&all);
        let pieces = pieces(&sent, &cuts);
        let out = through(&pieces);
        prop_assert_eq!(out.len(), sent.len());
        let fine = |name: &Vec<u8>| http::uri::Authority::try_from(&**name).is_ok();
        if named.iter().all(fine) {
            prop_assert_eq!(&out, &sent, "what needs nothing is left alone");
        }
        let seen = now(seen(pieces));
        prop_assert_eq!(seen.len(), all.len());
        for ((request, asked), name) in seen.iter().zip(&all).zip(&named) {
            let authority = request.uri().authority().expect("it has one").as_str().as_bytes();
            prop_assert_eq!(authority.len(), name.len());
            if fine(name) {
                prop_assert_eq!(authority, &**name);
            }
            for (now, then) in authority.iter().zip(name) {
                prop_assert!(now == then || !(then.is_ascii_alphanumeric() || b"-._~".contains(then)));
            }
            prop_assert_eq!(request.uri().path(), &*asked.path.0);
            let field = request.headers().get("x-field").expect("it has one");
            prop_assert_eq!(field.as_bytes(), asked.field.0.as_bytes());
        }
    }

    #[test]
    fn what_nothing_can_stand_for_stays(value in "[a-z/]{0,20}[#^{}<>`\u{1}é][a-z/]{0,20}", form in forms()) {
        let form = Form { codes_value: true, ..form };
        let mut block = Vec::new();
        literal(&mut block, ":authority", 1, value.as_bytes(), form);
        let before = block.clone();
        block::mend(&mut block).expect("it is whole");
        prop_assert_eq!(block, before);
    }

    #[test]
    fn other_headers_stay(name in "[a-z:]{1,12}", index in 2_usize..80, value in "[ -~]{0,200}", form in forms()) {
        prop_assume!(name != ":authority");
        let mut block = Vec::new();
        literal(&mut block, &name, index, value.as_bytes(), form);
        let before = block.clone();
        block::mend(&mut block).expect("it is whole");
        prop_assert_eq!(block, before);
    }

    #[test]
    fn garbage_comes_out_as_it_was(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(any::<Index>(), 0..40),
    ) {
        prop_assert_eq!(&through(&pieces(&garbage, &cuts)), &garbage);
    }

    #[test]
    fn no_frames_make_it_fail_or_change_a_length(
        frames in prop::collection::vec((any::<[u8; 3]>(), prop::collection::vec(any::<u8>(), 0..80)), 0..8),
        tail in prop::collection::vec(any::<u8>(), 0..80),
        cuts in prop::collection::vec(any::<Index>(), 0..40),
    ) {
        let mut sent = begun();
        for ([kind, flags, stream], payload) in frames {
            let kind = [HEADERS, CONTINUATION, kind][usize::from(kind % 3)];
            frame(&mut sent, kind, flags, u32::from(stream % 3), &payload);
        }
        sent.extend(tail);
        let pieces = pieces(&sent, &cuts);
        let out = through(&pieces);
        prop_assert_eq!(out.len(), sent.len());
        let whole = through(&VecDeque::from([sent.clone()]));
        prop_assert_eq!(&out, &whole, "however it is cut");
        let read = now(async {
            let mut read = Vec::new();
            let mut connection = Connection(Sent { pieces, stays: false }, read::Mended::new());
            tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut read).await.map(|_| read)
        });
        prop_assert_eq!(read.expect("nothing fails"), whole);
    }
}

#[test]
fn what_clients_send_is_mended_as_people_would() {
    let form =
        |codes_value| Form { kind: INDEXED, names_index: true, codes_name: false, codes_value };
    for (sent, mended) in [
        ("run%2Fves%2Fapi%2Fcoordinator.sock", "run-2Fves-2Fapi-2Fcoordinator.sock"),
        ("/run/ves/api/coordinator.sock", "-run-ves-api-coordinator.sock"),
        ("localhost", "localhost"),
        ("[::1]:50051", "[::1]:50051"),
    ] {
        for codes_value in [false, true] {
            let (mut block, mut expected) = (Vec::new(), Vec::new());
            literal(&mut block, ":authority", 1, sent.as_bytes(), form(codes_value));
            literal(&mut expected, ":authority", 1, mended.as_bytes(), form(codes_value));
            block::mend(&mut block).expect("it is whole");
            assert_eq!(block, expected, "{sent}");
        }
    }
}

#[test]
fn who_never_ends_a_block_is_not_held_for_ever() {
    let mut sent = begun();
    frame(&mut sent, HEADERS, 0, 1, &[0x83; 16_000]);
    for _ in 0..5000 {
        frame(&mut sent, CONTINUATION, 0, 1, &[0x86; 20]);
    }
    let pieces: VecDeque<_> = sent.chunks(1000).map(<[u8]>::to_vec).collect();
    assert_eq!(
        through(&pieces),
        sent,
        "and nothing that is held then may be more than there may be"
    );
}
