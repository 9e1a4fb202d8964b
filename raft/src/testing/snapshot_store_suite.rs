//! The promises of [`SnapshotStore`] and [`SnapshotSink`].

use std::{slice, sync::Arc};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kept;
use crate::{
    configuration::{Configuration, IndexedConfiguration, Server},
    position::{LogId, LogIndex},
    snapshot::{SnapshotId, SnapshotMeta, SnapshotReader, SnapshotSink, SnapshotStore},
    store_error::StoreError,
};

/// Checks every promise of a [`SnapshotStore`] and its sinks. `fresh` makes an empty store that
/// keeps at least two snapshots; it is called once per check.
///
/// - An empty store lists nothing; opening what is not there is [`StoreError::NotFound`].
/// - A snapshot is invisible until it is finished, also when its bytes are flushed or its sink was
///   shut down as a writer; finishing returns the description that is listed from then on: the
///   given `last` and configuration, and the length of the data.
/// - A sink that is cancelled or dropped leaves no trace and disturbs no other snapshot.
/// - Opening gives that description and exactly the bytes that were written, from the start, each
///   time anew: none, a few, ten mebibytes, written in pieces of any size.
/// - Opening at an offset gives the rest of those bytes, nothing at the end, and
///   [`StoreError::Refused`] beyond it.
/// - The list is ordered by `last`, term first, newest first, in whatever order snapshots were
///   finished. Ids differ.
/// - A snapshot that is removed is not there any more, the others are; removing what is not there is
///   no error.
/// - Two sinks at once, also of the same `last`, and two readers at once, do not mix.
///
/// Runs on tokio, of any flavour.
///
/// # Panics
/// On the first broken promise, naming it.
pub async fn snapshot_store_suite<S: SnapshotStore, Fut: Future<Output = S>>(
    mut fresh: impl FnMut() -> Fut,
) {
    empty_store(fresh().await).await;
    invisible_until_finished(fresh().await).await;
    for size in [0, 1, 1000, 65_536, 10 << 20] {
        round_trip(fresh().await, size).await;
    }
    for size in [1 << 20, 1, 0] {
        opened_at_an_offset(fresh().await, size).await;
    }
    cancelled_and_dropped(fresh().await).await;
    for (older, newer) in [
        (LogId::new(1, 5), LogId::new(1, 6)),
        (LogId::new(1, 100), LogId::new(2, 5)),
        (LogId::new(9, 9), LogId::new(10, 9)),
        (LogId::new(3, 99), LogId::new(3, 100)),
        (LogId::new(255, 255), LogId::new(256, 1)),
    ] {
        ordered(fresh().await, [older, newer]).await;
        ordered(fresh().await, [newer, older]).await;
    }
    newest_stays(fresh().await).await;
    two_sinks(fresh().await, [LogId::new(1, 1), LogId::new(1, 2)]).await;
    two_sinks(fresh().await, [LogId::new(1, 1), LogId::new(1, 1)]).await;
    removed(fresh().await).await;
    two_readers(fresh().await).await;
}

fn configuration() -> IndexedConfiguration {
    let configuration = Configuration::new([
        Server::voter("a", "127.0.0.1:7001"),
        Server::voter("Žofie 🦀", "[::1]:7002"),
        Server::nonvoter("c", "host.example:7003"),
    ]);
    IndexedConfiguration { index: LogIndex(3), configuration }
}

fn data(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8 ^ (i >> 12) as u8 ^ seed).collect()
}

async fn create<S: SnapshotStore>(store: &S, last: LogId) -> Box<dyn SnapshotSink> {
    kept(store.create(last, configuration()).await, "a snapshot can be begun")
}

async fn write(sink: &mut dyn SnapshotSink, bytes: &[u8]) {
    kept(sink.write_all(bytes).await, "a sink takes bytes");
}

async fn finish(sink: Box<dyn SnapshotSink>) -> SnapshotMeta {
    kept(sink.finish().await, "a snapshot can be finished")
}

async fn finished<S: SnapshotStore>(store: &S, last: LogId, bytes: &[u8]) -> SnapshotMeta {
    let mut sink = create(store, last).await;
    write(&mut *sink, bytes).await;
    finish(sink).await
}

async fn list<S: SnapshotStore>(store: &S) -> Vec<SnapshotMeta> {
    kept(store.list().await, "the snapshots can be listed")
}

async fn open<S: SnapshotStore>(store: &S, id: &SnapshotId) -> (SnapshotMeta, SnapshotReader) {
    kept(store.open(id).await, "a listed snapshot can be opened")
}

async fn read_all(mut reader: SnapshotReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    kept(reader.read_to_end(&mut bytes).await, "a snapshot can be read to its end");
    bytes
}

async fn open_at<S: SnapshotStore>(store: &S, id: &SnapshotId, offset: usize) -> SnapshotReader {
    kept(store.open_at(id, offset as u64).await, "a snapshot can be opened at an offset").1
}

async fn assert_not_found<S: SnapshotStore>(store: &S, id: &SnapshotId) {
    for opened in [store.open(id).await, store.open_at(id, 0).await] {
        match opened {
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => {
                panic!("broken promise: opening an unknown snapshot is NotFound: {error}")
            }
            Ok(_) => {
                panic!("broken promise: opening an unknown snapshot is NotFound, but it opened")
            }
        }
    }
}

async fn empty_store<S: SnapshotStore>(store: S) {
    assert_eq!(list(&store).await, [], "broken promise: an empty store lists nothing");
    for id in ["", "unknown", "1-1-1", "../..", "/", "Žofie 🦀", "1-1-1.tmp"] {
        assert_not_found(&store, &SnapshotId::new(id)).await;
    }
    assert_eq!(list(&store).await, [], "broken promise: looking for a snapshot makes none");
}

async fn invisible_until_finished<S: SnapshotStore>(store: S) {
    let mut sink = create(&store, LogId::new(2, 9)).await;
    let promise = "broken promise: a snapshot is invisible until it is finished";
    assert_eq!(list(&store).await, [], "{promise} (begun)");
    write(&mut *sink, b"some bytes").await;
    assert_eq!(list(&store).await, [], "{promise} (written)");
    kept(sink.flush().await, "a sink can be flushed");
    assert_eq!(list(&store).await, [], "{promise} (flushed)");
    write(&mut *sink, b" and more").await;
    kept(sink.shutdown().await, "a sink can be shut down as a writer");
    assert_eq!(list(&store).await, [], "{promise} (shut down)");
    let meta = finish(sink).await;
    let promise = "broken promise: a finished snapshot is described as it was written";
    assert_eq!(meta.last, LogId::new(2, 9), "{promise} (last)");
    assert_eq!(meta.configuration, configuration(), "{promise} (configuration)");
    assert_eq!(meta.size_bytes, 19, "{promise} (size)");
    let opened = open(&store, &meta.id).await;
    assert_eq!(
        list(&store).await,
        [meta],
        "broken promise: a finished snapshot is listed as its sink described it"
    );
    assert_eq!(
        read_all(opened.1).await,
        b"some bytes and more",
        "broken promise: a flush or a shutdown loses no bytes"
    );
}

async fn round_trip<S: SnapshotStore>(store: S, size: usize) {
    let bytes = data(size, 0);
    let mut sink = create(&store, LogId::new(u64::MAX, u64::MAX)).await;
    let mut rest = &bytes[..];
    for piece in [1, 2, 3, 1000, 4096, 4097, 65_536, 1 << 20].into_iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(piece));
        write(&mut *sink, now).await;
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let meta = finish(sink).await;
    assert_eq!(meta.size_bytes, size as u64, "broken promise: the size is the length of the data");
    for _ in 0..2 {
        let (opened, reader) = open(&store, &meta.id).await;
        assert_eq!(
            opened, meta,
            "broken promise: an opened snapshot is described as it was finished"
        );
        assert!(
            read_all(reader).await == bytes,
            "broken promise: the bytes read are the bytes written ({size})"
        );
    }
}

async fn opened_at_an_offset<S: SnapshotStore>(store: S, size: usize) {
    let bytes = data(size, 4);
    let meta = finished(&store, LogId::new(1, 1), &bytes).await;
    let offsets = [0, 1, size / 3, size / 2 + 1, size.saturating_sub(1), size];
    for offset in offsets.into_iter().filter(|offset| *offset <= size) {
        assert!(
            read_all(open_at(&store, &meta.id, offset).await).await == bytes[offset..],
            "broken promise: from an offset on, the bytes are those written ({offset} of {size})"
        );
    }
    for beyond in [size as u64 + 1, u64::MAX] {
        match store.open_at(&meta.id, beyond).await {
            Err(StoreError::Refused { .. }) => {}
            Err(error) => panic!("broken promise: an offset beyond the end is Refused: {error}"),
            Ok(_) => panic!("broken promise: an offset beyond the end is Refused, but it opened"),
        }
    }
}

async fn cancelled_and_dropped<S: SnapshotStore>(store: S) {
    let promise = "broken promise: a sink that is given up leaves no trace";
    let sink = create(&store, LogId::new(1, 1)).await;
    sink.cancel().await;
    let mut sink = create(&store, LogId::new(1, 2)).await;
    write(&mut *sink, &data(100_000, 1)).await;
    sink.cancel().await;
    assert_eq!(list(&store).await, [], "{promise} (cancelled)");
    drop(create(&store, LogId::new(1, 3)).await);
    let mut sink = create(&store, LogId::new(1, 4)).await;
    write(&mut *sink, &data(100_000, 2)).await;
    kept(sink.flush().await, "a sink can be flushed");
    drop(sink);
    assert_eq!(list(&store).await, [], "{promise} (dropped)");

    let meta = finished(&store, LogId::new(1, 4), b"the one").await;
    let mut sink = create(&store, LogId::new(1, 4)).await;
    write(&mut *sink, b"another of the same place").await;
    drop(sink);
    let mut sink = create(&store, LogId::new(1, 5)).await;
    write(&mut *sink, b"a newer one").await;
    sink.cancel().await;
    assert_eq!(list(&store).await, slice::from_ref(&meta), "{promise} (beside a finished one)");
    let (_, reader) = open(&store, &meta.id).await;
    assert_eq!(read_all(reader).await, b"the one", "{promise} (in a finished one)");
}

async fn ordered<S: SnapshotStore>(store: S, lasts: [LogId; 2]) {
    let mut metas = Vec::new();
    for last in lasts {
        metas.push(finished(&store, last, format!("{last}").as_bytes()).await);
    }
    assert_ne!(metas[0].id, metas[1].id, "broken promise: ids are unique in the store");
    metas.sort_by_key(|meta| std::cmp::Reverse(meta.last));
    assert_eq!(
        list(&store).await,
        metas,
        "broken promise: snapshots are listed newest first, term before index"
    );
    for meta in metas {
        let (opened, reader) = open(&store, &meta.id).await;
        assert_eq!(opened, meta, "broken promise: each snapshot keeps its description");
        assert_eq!(
            read_all(reader).await,
            format!("{}", meta.last).as_bytes(),
            "broken promise: each snapshot keeps its bytes"
        );
    }
}

async fn newest_stays<S: SnapshotStore>(store: S) {
    for index in 1..=10 {
        let last = LogId::new(1, index);
        let meta = finished(&store, last, &data(100, index as u8)).await;
        let listed = list(&store).await;
        assert_eq!(
            listed.first(),
            Some(&meta),
            "broken promise: the newest finished snapshot is the first of the list"
        );
        assert!(
            listed.windows(2).all(|pair| pair[1].last < pair[0].last),
            "broken promise: snapshots are listed newest first"
        );
        for meta in listed {
            let (_, reader) = open(&store, &meta.id).await;
            assert!(
                read_all(reader).await == data(100, meta.last.index.0 as u8),
                "broken promise: what is listed can be read"
            );
        }
    }
}

async fn two_sinks<S: SnapshotStore>(store: S, lasts: [LogId; 2]) {
    let mut one = create(&store, lasts[0]).await;
    let mut other = create(&store, lasts[1]).await;
    for _ in 0..100 {
        write(&mut *one, b"one").await;
        write(&mut *other, b"other").await;
    }
    let other = finish(other).await;
    let one = finish(one).await;
    assert_ne!(one.id, other.id, "broken promise: ids are unique in the store");
    for (meta, word) in [(one, "one"), (other, "other")] {
        let (_, reader) = open(&store, &meta.id).await;
        assert!(
            read_all(reader).await == word.repeat(100).as_bytes(),
            "broken promise: two snapshots written at once do not mix"
        );
    }
}

async fn two_readers<S: SnapshotStore>(store: S) {
    let bytes = data(1 << 20, 3);
    let meta = finished(&store, LogId::new(1, 1), &bytes).await;
    let (_, mut slow) = open(&store, &meta.id).await;
    let mut start = vec![0; 1000];
    kept(slow.read_exact(&mut start).await, "a snapshot can be read in pieces");
    let store = Arc::new(store);
    let task = tokio::spawn({
        let (store, id) = (Arc::clone(&store), meta.id.clone());
        async move { read_all(open(&*store, &id).await.1).await }
    });
    let (_, other) = open(&*store, &meta.id).await;
    let promise = "broken promise: readers of one snapshot do not disturb each other";
    assert!(read_all(other).await == bytes, "{promise}");
    start.extend(read_all(slow).await);
    assert!(start == bytes, "{promise} (begun first, ended last)");
    assert!(kept(task.await, "a snapshot can be read by another task") == bytes, "{promise}");
}

async fn removed<S: SnapshotStore>(store: S) {
    let older = finished(&store, LogId::new(1, 1), &data(100, 1)).await;
    let newer = finished(&store, LogId::new(1, 2), &data(100, 2)).await;
    kept(store.remove(&newer.id).await, "a snapshot can be removed");
    assert_eq!(
        list(&store).await,
        slice::from_ref(&older),
        "broken promise: a removed snapshot is not listed, the others are"
    );
    assert_not_found(&store, &newer.id).await;
    for id in [newer.id, SnapshotId::new("unknown"), SnapshotId::new("../..")] {
        kept(store.remove(&id).await, "removing what is not there is no error");
    }
    let (_, reader) = open(&store, &older.id).await;
    assert!(
        read_all(reader).await == data(100, 1),
        "broken promise: removing one snapshot leaves the others"
    );
}
