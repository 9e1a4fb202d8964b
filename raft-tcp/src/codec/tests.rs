use proptest::prelude::*;
use raft::{
    ClusterId, Server,
    rpc::{
        AppendEntriesReply, AppendOutcome, HeartbeatReply, HeartbeatRequest, InstallOutcome,
        InstallSnapshotReply, Promised, RemovedNotice, RequestVoteReply, RequestVoteRequest,
        TimeoutNowRequest,
    },
};

use super::*;
use crate::frame::SNAPSHOT_BYTES;

fn entry(term: u64, index: u64, payload: EntryPayload) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), payload }
}

fn append(entries: Vec<Entry>) -> Message {
    Message::AppendEntries(AppendEntriesRequest {
        term: Term(3),
        round: 4,
        prev: LogId::new(2, 5),
        entries: entries.into(),
        commit_index: LogIndex(1),
    })
}

/// The incarnation of one is known, that of the other is not.
fn configuration() -> Configuration {
    let known = Server::voter("a", "h:1").with(|it| it.incarnation = 0x0807_0605_0403_0201);
    Configuration::new([known, Server::nonvoter("b", "h:2")]).with_cluster(ClusterId(9))
}

fn every_entry() -> Message {
    append(vec![
        entry(2, 6, EntryPayload::Noop),
        entry(2, 7, EntryPayload::Command(b"cmd".as_slice().into())),
        entry(3, 8, EntryPayload::Barrier),
        entry(3, 9, EntryPayload::Configuration(configuration())),
    ])
}

fn snapshot(data: impl Into<Bytes>) -> InstallSnapshotRequest {
    InstallSnapshotRequest {
        term: Term(3),
        transfer: 300,
        last: LogId::new(2, 5),
        configuration: IndexedConfiguration { index: LogIndex(4), configuration: configuration() },
        size_bytes: 1 << 40,
        offset: 7,
        checksum: 0x0102_0304,
        data: data.into(),
    }
}

const PROMISED: Promised = Promised {
    incarnation: 0x0807_0605_0403_0201,
    life: 7,
    term: Term(3),
    matched: LogId { term: Term(2), index: LogIndex(5) },
};

/// Every kind of message, and its payload in hexadecimal. Changing any of these breaks clusters
/// whose servers are updated one by one: that takes a new protocol version.
fn fixtures() -> Vec<(Message, &'static str)> {
    let reply = |outcome| {
        Message::AppendEntriesReply(AppendEntriesReply { term: Term(3), round: 300, outcome })
    };
    let installing = |outcome| {
        let (term, transfer) = (Term(3), 300);
        Message::InstallSnapshotReply(InstallSnapshotReply { term, transfer, outcome })
    };
    let mut fixtures = vec![
        (
            every_entry(),
            "0300000000000000 0400000000000000 0200000000000000 0500000000000000 \
             0100000000000000 \
             0600000000000000 04000000 \
             0200000000000000 01 00000000 \
             0200000000000000 00 03000000 636d64 \
             0300000000000000 02 00000000 \
             0300000000000000 03 1a000000 02016103683a3100fd0102030405060708016203683a32010009",
        ),
        (
            append(vec![]),
            "0300000000000000 0400000000000000 0200000000000000 0500000000000000 \
             0100000000000000 \
             0000000000000000 00000000",
        ),
        (reply(AppendOutcome::Matched { match_index: LogIndex(9) }), "01 03 fb2c01 00 09"),
        (
            reply(AppendOutcome::Conflict { prev_index: LogIndex(5), hint: LogId::new(1, 4) }),
            "01 03 fb2c01 01 05 01 04",
        ),
        (reply(AppendOutcome::StaleTerm), "01 03 fb2c01 02"),
        (
            Message::Heartbeat(HeartbeatRequest {
                term: Term(3),
                round: 70_000,
                commit_index: LogIndex(u64::MAX),
                promised: None,
            }),
            "02 03 fc70110100 fdffffffffffffffff 00",
        ),
        (
            Message::HeartbeatReply(HeartbeatReply {
                term: Term(3),
                round: 4,
                accepted_index: LogIndex(9),
                match_index: LogIndex(8),
                applied_index: LogIndex(7),
            }),
            "03 03 04 09 08 07",
        ),
        (Message::TimeoutNow(TimeoutNowRequest { term: Term(3) }), "06 03"),
        (
            Message::InstallSnapshot(snapshot(b"abc".as_slice())),
            "0300000000000000 2c01000000000000 0200000000000000 0500000000000000 \
             0400000000000000 0000000000010000 0700000000000000 04030201 \
             1a000000 02016103683a3100fd0102030405060708016203683a32010009 \
             616263",
        ),
        (
            installing(InstallOutcome::Received { next_offset: 70_000 }),
            "08 03 fb2c01 00 fc70110100",
        ),
        (installing(InstallOutcome::Installed { match_index: LogIndex(5) }), "08 03 fb2c01 01 05"),
        (installing(InstallOutcome::Refused), "08 03 fb2c01 02"),
        (installing(InstallOutcome::StaleTerm), "08 03 fb2c01 03"),
        (
            Message::Removed(RemovedNotice { term: Term(3), configuration_index: LogIndex(9) }),
            "09 03 09",
        ),
    ];
    fixtures.extend(votes());
    fixtures
}

fn votes() -> [(Message, &'static str); 2] {
    [
        (
            Message::RequestVote(RequestVoteRequest {
                term: Term(3),
                last: LogId::new(2, 5),
                is_pre_vote: true,
                is_leadership_transfer: false,
                promised: None,
                configuration_index: LogIndex(1),
                life: 9,
            }),
            "04 03 02 05 01 00 00 01 09",
        ),
        (
            Message::RequestVoteReply(RequestVoteReply {
                term: Term(3),
                requested_term: Term(4),
                is_pre_vote: false,
                is_granted: true,
                promised: Some(PROMISED),
                life: 9,
            }),
            "05 03 04 00 01 01 fd0102030405060708 07 03 02 05 09",
        ),
    ]
}

fn payload(message: &Message) -> (Kind, Bytes) {
    let mut out = BytesMut::new();
    let (kind, rest) = encode(message, &mut out).unwrap();
    out.extend_from_slice(&rest);
    (kind, out.freeze())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_are_pinned() {
    let found: Vec<_> = fixtures().iter().map(|(message, _)| hex(&payload(message).1)).collect();
    let pinned: Vec<_> = fixtures().iter().map(|(_, bytes)| bytes.replace(' ', "")).collect();
    assert_eq!(found, pinned);
}

#[test]
fn every_message_comes_back() {
    for (message, _) in fixtures() {
        let (kind, payload) = payload(&message);
        assert_eq!(decode(kind, &payload), Ok(Said::Message(message)));
    }
    assert_eq!(decode(Kind::Alive, &Bytes::new()), Ok(Said::Alive));
}

#[test]
fn a_payload_cut_at_any_byte_is_an_error() {
    for (message, _) in fixtures() {
        let (kind, payload) = payload(&message);
        // Where the piece of a snapshot ends is known from the frame alone.
        let must_be_there = match &message {
            Message::InstallSnapshot(request) => payload.len() - request.data.len(),
            _ => payload.len(),
        };
        for cut in 0..must_be_there {
            assert!(decode(kind, &payload.slice(..cut)).is_err(), "{message} cut at {cut}");
        }
    }
}

#[test]
fn a_byte_too_many_is_an_error() {
    for (message, _) in fixtures() {
        let (kind, payload) = payload(&message);
        if kind == Kind::Snapshot {
            continue;
        }
        let longer = [&payload[..], &[0]].concat().into();
        assert!(decode(kind, &longer).is_err(), "{message}");
    }
    assert!(decode(Kind::Alive, &Bytes::from_static(b"x")).is_err());
}

#[test]
fn an_expectation_has_eight_bytes() {
    let decode = |bytes: &'static [u8]| decode(Kind::Expects, &Bytes::from_static(bytes));
    assert_eq!(decode(b"\x01\0\0\0\0\0\0\x80"), Ok(Said::Expects(1 << 63 | 1)));
    for bytes in [&b""[..], b"\x01", b"\x01\0\0\0\0\0\0", b"\x01\0\0\0\0\0\0\0\0"] {
        assert!(decode(bytes).is_err(), "{bytes:?}");
    }
}

/// The checksum of the frame keeps such payloads out; nothing must hang on that.
#[test]
fn flipped_bits_never_panic() {
    for (message, _) in fixtures() {
        let (kind, payload) = payload(&message);
        for bit in 0..payload.len() * 8 {
            let mut bytes = payload.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(kind, &bytes.into());
        }
    }
}

#[test]
fn entries_and_snapshots_do_not_travel_in_the_general_form() {
    for (message, variant) in [
        (every_entry(), APPEND_ENTRIES_VARIANT),
        (Message::InstallSnapshot(snapshot("abc")), INSTALL_SNAPSHOT_VARIANT),
    ] {
        let mut out = BytesMut::new();
        encode_value(&message, &mut out).unwrap();
        assert_eq!(out[0], variant);
        // The same number, the long way.
        let long: Bytes = [&[251, variant, 0], &out[1..]].concat().into();
        let error = decode(Kind::Message, &out.freeze()).unwrap_err();
        assert!(error.to_string().contains("in the form of another message"), "{error}");
        let error = decode(Kind::Message, &long).unwrap_err();
        assert!(error.to_string().contains("is not one byte"), "{error}");
    }
}

/// With indices that overflow, the general form of entries would panic.
#[test]
fn entries_in_a_disguise_do_not_panic() {
    let noop = |index| [1, 253, 255, 255, 255, 255, 255, 255, 255, index, 1];
    let mut bytes = vec![251, 0, 0, 1, 1, 1, 1, 2];
    bytes.extend(noop(255));
    bytes.extend(noop(255));
    bytes.push(0);
    assert!(decode(Kind::Message, &bytes.into()).is_err());
}

#[test]
fn entries_that_break_the_order_of_a_log_are_refused() {
    let (kind, good) =
        payload(&append(vec![entry(2, 6, EntryPayload::Noop), entry(3, 7, EntryPayload::Noop)]));
    let with = |at: usize, number: u64| {
        let mut bytes = good.to_vec();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        decode(kind, &bytes.into())
    };
    let first_index = 5 * 8;
    let second_term = REQUEST_BYTES as usize + ENTRY_BYTES;
    assert!(with(first_index, 1).is_ok());
    assert!(with(first_index, u64::MAX - 1).unwrap_err().to_string().contains("range"));
    assert!(with(first_index, u64::MAX).unwrap_err().to_string().contains("range"));
    assert!(with(first_index, u64::MAX - 2).is_ok());
    assert!(with(second_term, 2).is_ok());
    assert!(with(second_term, 1).unwrap_err().to_string().contains("terms"));
}

#[test]
fn a_false_count_takes_no_memory() {
    let (kind, payload) = payload(&append(vec![]));
    let mut bytes = payload.to_vec();
    bytes[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(decode(kind, &bytes.into()).unwrap_err().to_string().contains("too early"));
}

#[test]
fn a_large_command_shares_the_buffer_and_a_small_one_does_not() {
    let command = |bytes| EntryPayload::Command(vec![1; bytes].into());
    let received = |sizes: &[usize]| -> Vec<bool> {
        let entries = (1..).zip(sizes).map(|(index, bytes)| entry(1, index, command(*bytes)));
        let (kind, payload) = payload(&append(entries.collect()));
        let range = payload.as_ptr_range();
        match decode(kind, &payload) {
            Ok(Said::Message(Message::AppendEntries(request))) => {
                request.entries.iter().map(|e| range.contains(&e.data().as_ptr())).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(received(&[100]), [false]);
    assert_eq!(received(&[1 << 20]), [true]);
    assert_eq!(received(&[1 << 20, 100, 9_000, 1 << 18]), [true, false, false, true]);
}

/// The codec passes on what it is told: the receiver of snapshots asks whether it makes sense.
#[test]
fn impossible_places_in_a_snapshot_come_through() {
    for (offset, size_bytes) in [(8, 0), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
        let message = Message::InstallSnapshot(InstallSnapshotRequest {
            offset,
            size_bytes,
            ..snapshot("x")
        });
        let (kind, payload) = payload(&message);
        assert_eq!(decode(kind, &payload), Ok(Said::Message(message)));
    }
}

#[test]
fn a_damaged_configuration_of_a_snapshot_is_refused() {
    let (kind, good) = payload(&Message::InstallSnapshot(snapshot(vec![9; 100])));
    let length = SNAPSHOT_BYTES - 4;
    // Lengths beyond the payload; and the right one, but of other bytes.
    for claimed in [127, 1 << 20, u32::MAX] {
        let mut bytes = good.to_vec();
        bytes[length..length + 4].copy_from_slice(&u32::to_le_bytes(claimed));
        let error = decode(kind, &bytes.into()).unwrap_err();
        assert!(error.to_string().contains("too early"), "{error}");
    }
    for claimed in [0, 25, 27] {
        let mut bytes = good.to_vec();
        bytes[length..length + 4].copy_from_slice(&u32::to_le_bytes(claimed));
        assert!(decode(kind, &bytes.into()).is_err(), "{claimed} bytes");
    }
    // So many servers, and an id of so many bytes.
    for claim in [&[253, 255, 255, 255, 255, 255, 255, 255, 255][..], &[1, 252, 0, 0, 0, 64]] {
        let mut bytes = good.to_vec();
        bytes[SNAPSHOT_BYTES..SNAPSHOT_BYTES + claim.len()].copy_from_slice(claim);
        assert!(decode(kind, &bytes.into()).is_err(), "{claim:?}");
    }
}

#[test]
fn a_large_piece_is_copied_neither_by_its_sender_nor_by_its_receiver() {
    let sent = Bytes::from(vec![7; 1 << 18]);
    let mut head = BytesMut::new();
    let message = Message::InstallSnapshot(snapshot(sent.clone()));
    let (_, rest) = encode(&message, &mut head).unwrap();
    assert_eq!(rest.as_ptr(), sent.as_ptr());
    assert_eq!(head.len(), SNAPSHOT_BYTES + 26);

    let shares = |bytes: usize| {
        let (kind, payload) = payload(&Message::InstallSnapshot(snapshot(vec![7; bytes])));
        match decode(kind, &payload) {
            Ok(Said::Message(Message::InstallSnapshot(request))) => {
                payload.as_ptr_range().contains(&request.data.as_ptr())
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(shares(1 << 18));
    assert!(!shares(100));
}

#[test]
fn the_estimate_covers_the_payload() {
    for (message, _) in fixtures() {
        let (kind, payload) = payload(&message);
        if kind == Kind::Entries {
            assert!(payload.len() as u64 <= max_bytes(&message), "{message}");
        }
    }
}

#[test]
fn a_value_over_the_limit_is_not_sent() {
    let name = "x".repeat(MAX_VALUE_BYTES);
    let configuration = Configuration::new([Server::voter(name.as_str(), "h:1")]);
    let message = append(vec![entry(1, 1, EntryPayload::Configuration(configuration))]);
    let error = encode(&message, &mut BytesMut::new()).unwrap_err();
    assert!(matches!(error, EncodeError::TooLong { .. }), "{error}");
}

proptest! {
    #[test]
    fn any_piece_comes_back(
        numbers in any::<[u64; 7]>(),
        checksum in any::<u32>(),
        data in prop::collection::vec(any::<u8>(), 0..20_000),
    ) {
        let [term, transfer, last_term, last_index, index, size_bytes, offset] = numbers;
        let configuration = IndexedConfiguration { index: LogIndex(index), ..snapshot("").configuration };
        let message = Message::InstallSnapshot(InstallSnapshotRequest {
            term: Term(term),
            transfer,
            last: LogId::new(last_term, last_index),
            configuration,
            size_bytes,
            offset,
            checksum,
            data: data.into(),
        });
        let (kind, payload) = payload(&message);
        prop_assert_eq!(decode(kind, &payload), Ok(Said::Message(message)));
    }

    #[test]
    fn any_entries_come_back(
        prev in any::<(u32, u32)>(),
        commands in prop::collection::vec((0..3u64, prop::collection::vec(any::<u8>(), 0..200)), 0..20),
    ) {
        let mut term = 1;
        let entries = (1..).zip(commands).map(|(index, (step, data))| {
            term += step;
            entry(term, index, EntryPayload::Command(data.into()))
        });
        let message = Message::AppendEntries(AppendEntriesRequest {
            term: Term(9),
            round: 1,
            prev: LogId::new(prev.0.into(), prev.1.into()),
            entries: entries.collect::<Vec<_>>().into(),
            commit_index: LogIndex(0),
        });
        let (kind, payload) = payload(&message);
        prop_assert!(payload.len() as u64 <= max_bytes(&message));
        prop_assert_eq!(decode(kind, &payload), Ok(Said::Message(message)));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        for kind in [Kind::Alive, Kind::Message, Kind::Entries, Kind::Snapshot, Kind::Expects] {
            let _ = decode(kind, &bytes);
        }
    }
}
