use super::*;

const CLUSTER: u64 = 0x2827_2625_2423_2221;

fn identity() -> Identity {
    let (id, address, cluster_id) = ("b".into(), "h:2".into(), "c".to_owned());
    let (incarnation, life) = (0x0807_0605_0403_0201, 0x1817_1615_1413_1211);
    let cluster = Arc::new(AtomicU64::new(CLUSTER));
    Identity { id, address, cluster_id, incarnation, life, cluster }
}

fn hello() -> Hello {
    let dialler = Identity { id: "a".into(), address: "h:1".into(), ..identity() };
    dialler.hello(Lane::Entries, &"b".into())
}

/// What an acceptor answers to these bytes and then the end.
async fn answer(bytes: &[u8]) -> io::Result<Result<u16, HandshakeError>> {
    let (mut client, mut server) = tokio::io::duplex(1 << 16);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    accept(&mut server, &identity(), |_| None).await?;
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    Ok(decode_answer(&answer))
}

async fn reason(hello: &Hello) -> Reason {
    match answer(&hello.encode()).await.unwrap() {
        Err(HandshakeError::Refused(refusal)) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_bytes_are_pinned() {
    let found = hello().encode();
    let parts: [&[u8]; 8] = [
        b"raft-tcp\x01\0\x01\0",
        b"\x27\0\x02",
        b"\x01\0c\x01\0a\x03\0h:1",
        b"\x01\0b",
        b"\x01\x02\x03\x04\x05\x06\x07\x08",
        b"\x11\x12\x13\x14\x15\x16\x17\x18",
        b"\x21\x22\x23\x24\x25\x26\x27\x28",
        b"\x00\x7b\xdb\x35",
    ];
    assert_eq!(found, parts.concat());
    assert_eq!(encode_answer(&Ok(1)), b"RAFT-TCP\x01\0\0\0\0\xad\xde\x42\xfb");
    let refusal = Refusal { reason: Reason::Cluster, text: "no".to_owned() };
    assert_eq!(encode_answer(&Err(refusal)), b"RAFT-TCP\0\0\x03\x02\0no\xc5\x57\xb6\x56");
}

#[tokio::test]
async fn a_peer_is_let_in() {
    let (mut client, mut server) = tokio::io::duplex(1 << 16);
    let (hello, identity) = (hello(), identity());
    let (dialled, accepted) =
        tokio::join!(dial(&mut client, &hello), accept(&mut server, &identity, |_| None));
    assert_eq!(dialled.unwrap(), 1);
    match accepted.unwrap() {
        Decision::Accepted(said) => assert_eq!(said, hello),
        refused @ Decision::Refused { .. } => panic!("{refused:?}"),
    }
}

#[tokio::test]
async fn strangers_are_refused_by_reason() {
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        async move { reason(&hello).await }
    };
    assert_eq!(with(|h| h.cluster_id = "other".to_owned()).await, Reason::Cluster);
    assert_eq!(with(|h| h.cluster = CLUSTER + 1).await, Reason::Cluster);
    assert_eq!(with(|h| h.from = String::new()).await, Reason::InvalidId);
    assert_eq!(with(|h| h.from = "x".repeat(256)).await, Reason::InvalidId);
    assert_eq!(with(|h| h.from = "b".to_owned()).await, Reason::OwnId);
    assert_eq!(with(|h| h.to = "z".to_owned()).await, Reason::WrongServer);
    assert_eq!(with(|h| h.address = String::new()).await, Reason::Malformed);
    assert_eq!(with(|h| h.address = "x".repeat(513)).await, Reason::Malformed);
    assert_eq!(with(|h| h.to = "x".repeat(4096)).await, Reason::Malformed);
    assert_eq!(with(|h| h.versions = Versions { oldest: 2, newest: 9 }).await, Reason::Version);
    assert_eq!(with(|h| h.versions = Versions { oldest: 0, newest: 0 }).await, Reason::Version);
    // An inverted range has nothing in common with any.
    assert_eq!(with(|h| h.versions = Versions { oldest: 2, newest: 1 }).await, Reason::Version);
}

#[tokio::test]
async fn a_newer_dialler_that_still_speaks_version_1_is_let_in() {
    let mut hello = hello();
    hello.versions = Versions { oldest: 1, newest: 7 };
    assert_eq!(answer(&hello.encode()).await.unwrap().unwrap(), 1);
    // What it adds to its hello is skipped.
    let bytes = hello.encode();
    let mut longer = bytes[..bytes.len() - CRC_BYTES].to_vec();
    longer.extend(b"group 7");
    longer[12] += 7;
    assert_eq!(answer(&sealed(longer)).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_hello_cut_at_any_byte_is_an_error() {
    let whole = hello().encode();
    for cut in 0..whole.len() {
        let error = answer(&whole[..cut]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
    }
}

#[tokio::test]
async fn no_flipped_bit_of_a_hello_is_accepted() {
    let whole = hello().encode();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let answer = answer(&bytes).await;
        assert!(!matches!(answer, Ok(Ok(_))), "bit {bit}: {answer:?}");
    }
}

#[test]
fn no_damaged_answer_is_accepted() {
    let whole = encode_answer(&Ok(1));
    assert!(matches!(decode_answer(&whole), Ok(1)));
    for cut in 0..whole.len() {
        assert!(decode_answer(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_answer(&bytes).is_err(), "bit {bit}");
    }
    assert!(decode_answer(&encode_answer(&Ok(2))).is_err());
}

#[test]
fn a_server_that_dials_itself_does_not_take_its_hello_for_an_answer() {
    let error = decode_answer(&hello().encode()).unwrap_err();
    assert!(matches!(error, HandshakeError::NotAnAnswer(_)), "{error}");
}

#[test]
fn the_text_of_a_refusal_is_safe_to_log() {
    let refusal = Refusal { reason: Reason::Other(99), text: "no\n\x1b[31mway".to_owned() };
    match decode_answer(&encode_answer(&Err(refusal))).unwrap_err() {
        HandshakeError::Refused(Refusal { reason: Reason::Other(99), text }) => {
            assert_eq!(text, "no[31mway");
        }
        other => panic!("{other}"),
    }
}
