//! A disk that forgets what was not synced. (A process that is killed forgets nothing.)
//!
//! The store runs on real files; beside them it is noted what a sync has made durable: the bytes of a
//! file, the names in a directory. After every step the power could fail, and what a disk may keep of
//! the rest is tried in three ways: nothing; every name, but no bytes; the names of the directory of
//! the store as they were, and what is below it as it is.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{FileSnapshotStore, directory::Disk};
use crate::{
    configuration::IndexedConfiguration,
    position::LogId,
    snapshot::{SnapshotMeta, SnapshotStore},
};

/// The number of a file or directory, which stays when it is renamed.
type Inode = u64;

#[derive(Clone, Copy, Debug)]
enum Keeps {
    OnlyWhatIsSynced,
    EveryName,
    NamesBelow,
}

/// What a power cut leaves: the files, by their place in the directory of the store.
type Image = Vec<(PathBuf, Vec<u8>)>;

#[derive(Default)]
struct Notes {
    bytes: BTreeMap<Inode, Vec<u8>>,
    names: BTreeMap<Inode, Vec<(String, Inode)>>,
    cuts: Vec<(Keeps, Image)>,
}

#[derive(Clone)]
struct Forgetful {
    root: PathBuf,
    notes: Arc<Mutex<Notes>>,
}

impl Disk for Forgetful {
    fn create(&self, path: &Path) -> io::Result<File> {
        let file = File::create_new(path)?;
        self.cut()?;
        Ok(file)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        // The path is not known here, and the handle was opened for writing only.
        let path =
            PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)));
        let bytes = fs::read(path)?;
        self.notes.lock().bytes.insert(file.metadata()?.ino(), bytes);
        self.cut()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        self.cut()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let inode = fs::metadata(dir)?.ino();
        let names = names(dir)?;
        self.notes.lock().names.insert(inode, names);
        self.cut()
    }
}

impl Forgetful {
    fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), notes: Arc::default() }
    }

    /// Notes what a power cut would leave now.
    fn cut(&self) -> io::Result<()> {
        let mut notes = self.notes.lock();
        for keeps in [Keeps::OnlyWhatIsSynced, Keeps::EveryName, Keeps::NamesBelow] {
            let mut image = Image::new();
            let inode = fs::metadata(&self.root)?.ino();
            let is_synced = !matches!(keeps, Keeps::EveryName);
            let places = places(&self.root, Path::new(""))?;
            for (name, inode) in notes.names_of(inode, is_synced, &places) {
                let is_synced = matches!(keeps, Keeps::OnlyWhatIsSynced);
                for (file, inode) in notes.names_of(inode, is_synced, &places) {
                    let bytes = notes.bytes.get(&inode).cloned().unwrap_or_default();
                    image.push((Path::new(&name).join(file), bytes));
                }
            }
            notes.cuts.push((keeps, image));
        }
        Ok(())
    }

    fn take_cuts(&self) -> Vec<(Keeps, Image)> {
        std::mem::take(&mut self.notes.lock().cuts)
    }
}

impl Notes {
    /// The names in a directory: those that are durable, or those that are there.
    fn names_of(
        &self,
        dir: Inode,
        is_synced: bool,
        places: &BTreeMap<Inode, Vec<(String, Inode)>>,
    ) -> Vec<(String, Inode)> {
        let names = if is_synced { self.names.get(&dir) } else { places.get(&dir) };
        names.cloned().unwrap_or_default()
    }
}

/// The names in every directory from here on down.
fn places(root: &Path, dir: &Path) -> io::Result<BTreeMap<Inode, Vec<(String, Inode)>>> {
    let path = root.join(dir);
    let mut all = BTreeMap::new();
    let names = names(&path)?;
    for (name, _) in &names {
        if path.join(name).is_dir() {
            all.extend(places(root, &dir.join(name))?);
        }
    }
    all.insert(fs::metadata(&path)?.ino(), names);
    Ok(all)
}

fn names(dir: &Path) -> io::Result<Vec<(String, Inode)>> {
    let item = |item: io::Result<fs::DirEntry>| {
        let item = item?;
        Ok((item.file_name().into_string().unwrap_or_default(), item.metadata()?.ino()))
    };
    fs::read_dir(dir)?.map(item).collect()
}

/// Starts on what a power cut has left: every snapshot that is listed can be read, and these are there.
async fn check(keeps: Keeps, image: &Image, wanted: &[(SnapshotMeta, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in image {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let store = FileSnapshotStore::open(&dir, 2).unwrap();
    let listed = store.list().await.unwrap();
    for meta in &listed {
        let opened = store.open(&meta.id).await.err();
        assert!(opened.is_none(), "{keeps:?}: {opened:?} in {image:?}");
    }
    for (meta, text) in wanted {
        assert!(listed.contains(meta), "{keeps:?}: {} is lost in {image:?}", meta.id);
        let mut found = String::new();
        store.open(&meta.id).await.unwrap().1.read_to_string(&mut found).await.unwrap();
        assert_eq!(found, *text);
    }
}

/// hashicorp/raft 1.1.2 and before: a snapshot was given its name before it was synced.
#[tokio::test]
async fn a_power_cut_leaves_every_finished_snapshot_and_of_the_others_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Forgetful::new(dir.path());
    let store = FileSnapshotStore::open_on(disk.clone(), dir.path(), 2).unwrap();
    let mut kept: Vec<(SnapshotMeta, &str)> = Vec::new();
    let mut cuts = 0;
    for (index, text) in [(5, "the first"), (7, "the second"), (9, "the third"), (8, "a late one")]
    {
        let last = LogId::new(1, index);
        let mut sink = store.create(last, IndexedConfiguration::default()).await.unwrap();
        sink.write_all(text.as_bytes()).await.unwrap();
        let meta = sink.finish().await.unwrap();
        disk.cut().unwrap();
        let during = disk.take_cuts();
        let (after, before) = (during.len() - 3, kept.clone());
        kept.push((meta, text));
        kept.sort_by_key(|(meta, _)| std::cmp::Reverse(meta.last));
        kept.truncate(2);
        let before: Vec<_> = before.into_iter().filter(|it| kept.contains(it)).collect();
        for (number, (keeps, image)) in during.iter().enumerate() {
            check(*keeps, image, if number < after { &before } else { &kept }).await;
        }
        cuts += during.len();
    }
    assert!(3 * 4 * 6 <= cuts, "only {cuts} power cuts");
}
