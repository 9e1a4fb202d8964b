use bincode::{
    config::standard,
    serde::{decode_from_slice, encode_to_vec},
};

use super::*;
use crate::configuration::Server;

fn entry(term: u64, index: u64) -> Entry {
    let payload = EntryPayload::Command(format!("{term}/{index}").into_bytes().into());
    Entry { term: Term(term), index: LogIndex(index), payload }
}

/// Indices 10..=14, terms 2 2 3 3 5.
fn five() -> Entries {
    let terms = [2, 2, 3, 3, 5];
    terms.into_iter().zip(10..).map(|(term, index)| entry(term, index)).collect::<Vec<_>>().into()
}

fn found(entries: &Entries) -> Vec<u64> {
    entries.iter().map(|entry| entry.index.0).collect()
}

#[test]
fn entries_of_nothing_are_empty() {
    let none = Entries::new(Vec::new());
    assert!(none.is_empty());
    assert_eq!(none, Entries::default());
    assert_eq!(none.last_id(), None);
    assert_eq!(none.cost_bytes(), 0);
    assert!(none.skip(3).is_empty());
    assert!(none.within(LogIndex(0)..=LogIndex(u64::MAX)).is_empty());
}

#[test]
fn entries_give_what_they_were_made_of() {
    let entries = five();
    assert_eq!(entries.len(), 5);
    assert_eq!(entries[0], entry(2, 10));
    assert_eq!(entries.last_id(), Some(LogId::new(5, 14)));
    assert_eq!(entries.cost_bytes(), 5 * (32 + 4));
    assert_eq!(format!("{:?}", entries.skip(5)), "[]");
}

#[test]
fn entries_refuse_what_is_not_contiguous() {
    for (what, entries) in [
        ("a gap", vec![entry(1, 1), entry(1, 3)]),
        ("a repeated index", vec![entry(1, 1), entry(1, 1)]),
        ("a falling index", vec![entry(1, 2), entry(1, 1)]),
        ("a falling term", vec![entry(2, 1), entry(1, 2)]),
        ("a gap at the end", vec![entry(1, 1), entry(1, 2), entry(1, 3), entry(2, 5)]),
    ] {
        assert!(!are_contiguous(&entries), "{what}");
        let made = std::panic::catch_unwind(|| Entries::new(entries));
        assert!(made.is_err(), "{what} must be refused");
    }
}

#[test]
fn skipping_leaves_the_rest() {
    for (n, expected) in [(0, 10..15), (1, 11..15), (4, 14..15), (5, 15..15), (usize::MAX, 15..15)]
    {
        assert_eq!(found(&five().skip(n)), expected.collect::<Vec<_>>(), "without the first {n}");
    }
    assert_eq!(found(&five().skip(2).skip(2)), [14]);
    assert!(five().skip(1).skip(usize::MAX).is_empty());
}

#[test]
fn within_cuts_at_every_boundary() {
    for start in (0..=16).chain([u64::MAX]) {
        for end in (0..=16).chain([u64::MAX]) {
            let expected: Vec<u64> = (10..=14).filter(|i| start <= *i && *i <= end).collect();
            let part = five().within(LogIndex(start)..=LogIndex(end));
            assert_eq!(found(&part), expected, "{start}..={end}");
            let of_part = five().skip(2).within(LogIndex(start)..=LogIndex(end));
            let expected: Vec<u64> = expected.into_iter().filter(|i| 12 <= *i).collect();
            assert_eq!(found(&of_part), expected, "{start}..={end} of a part");
        }
    }
}

#[test]
fn parts_share_one_allocation() {
    let entries = five();
    let part = entries.skip(1).within(LogIndex(12)..=LogIndex(13));
    assert_eq!(part.as_ptr(), entries[2..].as_ptr());
    assert_eq!(entries.clone().as_ptr(), entries.as_ptr());
}

#[test]
fn entries_survive_encoding() {
    let configuration =
        Configuration::new([Server::voter("a", "h:1"), Server::nonvoter("ž", "h:2")]);
    let every_payload = [
        EntryPayload::Command(Bytes::new()),
        EntryPayload::Command((0..=255).collect()),
        EntryPayload::Noop,
        EntryPayload::Barrier,
        EntryPayload::Configuration(configuration),
    ];
    let mixed: Vec<Entry> = every_payload
        .into_iter()
        .zip(1..)
        .map(|(payload, i)| Entry { payload, ..entry(1, i) })
        .collect();
    for entries in [Entries::default(), five(), five().skip(3), mixed.into()] {
        let bytes = encode_to_vec(&entries, standard()).unwrap();
        let (decoded, len): (Entries, usize) = decode_from_slice(&bytes, standard()).unwrap();
        assert_eq!((decoded, len), (entries.clone(), bytes.len()));

        let text = serde_json::to_string(&entries).unwrap();
        assert_eq!(serde_json::from_str::<Entries>(&text).unwrap(), entries);
    }
}

#[test]
fn decoding_refuses_what_is_not_contiguous() {
    for entries in [
        vec![entry(1, 1), entry(1, 3)],
        vec![entry(1, 2), entry(1, 1)],
        vec![entry(2, 1), entry(1, 2)],
    ] {
        let bytes = encode_to_vec(&entries, standard()).unwrap();
        let decoded: Result<(Entries, usize), _> = decode_from_slice(&bytes, standard());
        assert!(decoded.unwrap_err().to_string().contains("entries are not contiguous"));

        let text = serde_json::to_string(&entries).unwrap();
        let error = serde_json::from_str::<Entries>(&text).unwrap_err();
        assert!(error.to_string().contains("entries are not contiguous"), "{error}");
    }
}

#[test]
fn decoding_refuses_bytes_that_end_early() {
    let bytes = encode_to_vec(five(), standard()).unwrap();
    for end in 0..bytes.len() {
        let decoded: Result<(Entries, usize), _> = decode_from_slice(&bytes[..end], standard());
        assert!(decoded.is_err(), "{end} of {} bytes", bytes.len());
    }
}

#[test]
fn an_entry_knows_its_data_and_cost() {
    let of = |payload| Entry { payload, ..entry(1, 1) };
    let command = of(EntryPayload::Command(Bytes::from_static(b"abc")));
    assert_eq!((command.data(), command.cost_bytes()), (&b"abc"[..], 35));
    for payload in [EntryPayload::Noop, EntryPayload::Barrier] {
        assert_eq!((of(payload.clone()).data(), of(payload).cost_bytes()), (&[][..], 32));
    }
    let configuration = Configuration::new([Server::voter("ab", "cde")]);
    let configuration = of(EntryPayload::Configuration(configuration));
    assert_eq!((configuration.data(), configuration.cost_bytes()), (&[][..], 32 + 16 + 5));
}

#[test]
fn positions_count_as_they_should() {
    assert_eq!(LogIndex::ZERO.prev(), LogIndex::ZERO);
    assert_eq!(LogIndex(7).prev().next(), LogIndex(7));
    assert_eq!(LogIndex(7).plus(3), LogIndex(10));
    assert_eq!(LogIndex(7).since(LogIndex(3)), 4);
    assert_eq!(LogIndex(3).since(LogIndex(7)), 0);
    assert_eq!(Term(7).next(), Term(8));
    assert_eq!(LogId::new(2, 7).to_string(), "7@2");
}

#[test]
fn log_ids_are_ordered_term_first() {
    assert!(LogId::new(1, 100) < LogId::new(2, 1));
    assert!(LogId::new(2, 1) < LogId::new(2, 2));
    assert!(LogId::ZERO < LogId::new(0, 1));
}
