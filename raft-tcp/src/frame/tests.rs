use super::*;

fn frame(payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    append(&mut out, 1 << 20, |out| -> Result<_, TooLong> {
        out.put_slice(payload);
        Ok((Kind::Message, Bytes::new()))
    })
    .unwrap();
    out
}

fn decoder() -> FrameDecoder {
    FrameDecoder::new(1 << 20)
}

#[test]
fn the_bytes_are_pinned() {
    // crc32, length, version, kind, payload
    assert_eq!(frame(b"abc")[..], *b"\x6e\xfe\x3d\x90\x03\0\0\0\x01\x01abc");
    let mut alive = BytesMut::new();
    append_alive(&mut alive);
    assert_eq!(alive[..], *b"\xe2\x90\xd9\xa8\0\0\0\0\x01\x00");
    let mut expects = BytesMut::new();
    append_expects(&mut expects, 0x0807_0605_0403_0201);
    assert_eq!(expects[..], *b"\x6f\x0a\x24\x0a\x08\0\0\0\x01\x04\x01\x02\x03\x04\x05\x06\x07\x08");
}

#[test]
fn frames_come_out_as_they_went_in() {
    let mut bytes = frame(b"first");
    append_alive(&mut bytes);
    append_expects(&mut bytes, 7);
    bytes.extend_from_slice(&frame(b""));
    let mut next = || decoder().decode(&mut bytes).unwrap();
    let found = |kind, payload: &'static [u8]| Some(Frame { kind, payload: payload.into() });
    assert_eq!(next(), found(Kind::Message, b"first"));
    assert_eq!(next(), found(Kind::Alive, b""));
    assert_eq!(next(), found(Kind::Expects, b"\x07\0\0\0\0\0\0\0"));
    assert_eq!(next(), found(Kind::Message, b""));
    assert_eq!(next(), None);
}

#[test]
fn a_frame_cut_at_any_byte_is_unfinished_and_at_the_end_an_error() {
    let whole = frame(b"some payload");
    for cut in 1..whole.len() {
        let mut part = BytesMut::from(&whole[..cut]);
        assert_eq!(decoder().decode(&mut part).unwrap(), None);
        assert_eq!(part.len(), cut, "nothing is taken");
        let error = decoder().decode_eof(&mut part).unwrap_err();
        assert!(matches!(error, FrameError::Truncated { bytes } if bytes == cut), "{error}");
    }
    assert_eq!(decoder().decode_eof(&mut BytesMut::new()).unwrap(), None);
}

#[test]
fn no_single_flipped_bit_goes_unnoticed() {
    let whole = frame(b"some payload");
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decoder().decode_eof(&mut bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn an_announcement_over_the_limit_is_refused_before_anything_is_read() {
    let mut bytes = frame(&[0; 100]);
    bytes.truncate(HEADER_BYTES);
    let error = FrameDecoder::new(99).decode(&mut bytes).unwrap_err();
    assert!(matches!(error, FrameError::TooLong { bytes: 100, limit: 99 }), "{error}");
    let mut expects = BytesMut::new();
    append_expects(&mut expects, 1);
    expects[4] = 9;
    let error = decoder().decode(&mut expects).unwrap_err();
    assert!(matches!(error, FrameError::TooLong { bytes: 9, limit: 8 }), "{error}");
}

#[test]
fn an_announcement_alone_takes_little_memory() {
    let mut bytes = frame(&vec![0; 1 << 20]);
    bytes.truncate(HEADER_BYTES);
    let mut bytes = BytesMut::from(&bytes[..]);
    assert_eq!(decoder().decode(&mut bytes).unwrap(), None);
    assert!(bytes.capacity() < 2 * MAX_RESERVE_BYTES, "{}", bytes.capacity());
}

#[test]
fn a_payload_that_does_not_fit_leaves_no_trace() {
    let mut out = frame(b"before");
    let before = out.clone();
    let error = append(&mut out, 9, |out| -> Result<_, TooLong> {
        out.put_slice(&[0; 10]);
        Ok((Kind::Message, Bytes::new()))
    })
    .unwrap_err();
    assert_eq!(error.bytes, 10);
    assert_eq!(out, before);
}

#[test]
fn what_a_frame_goes_on_with_counts_and_is_given_back() {
    let part = |max| {
        let mut out = BytesMut::new();
        let rest = append(&mut out, max, |out| -> Result<_, TooLong> {
            out.put_slice(b"ab");
            Ok((Kind::Message, Bytes::from_static(b"c")))
        });
        rest.map(|rest| (out, rest)).map_err(|error| error.bytes)
    };
    assert_eq!(part(2).unwrap_err(), 3);
    let (out, rest) = part(3).unwrap();
    assert_eq!([&out[..], &rest].concat(), frame(b"abc"));
}

#[test]
fn a_snapshot_may_bring_a_configuration_beside_the_longest_piece() {
    let limit = 100 + SNAPSHOT_BYTES + MAX_VALUE_BYTES;
    for (bytes, fits) in [(limit, true), (limit + 1, false)] {
        let mut out = BytesMut::new();
        let appended = append(&mut out, 100, |_| -> Result<_, TooLong> {
            Ok((Kind::Snapshot, vec![0; bytes].into()))
        });
        assert_eq!(appended.is_ok(), fits);
        // The receiver's limit is the same.
        let mut whole = BytesMut::new();
        append(&mut whole, limit, |out| -> Result<_, TooLong> {
            out.put_bytes(0, bytes);
            Ok((Kind::Snapshot, Bytes::new()))
        })
        .unwrap();
        assert_eq!(FrameDecoder::new(100).decode(&mut whole).is_ok(), fits);
    }
}
