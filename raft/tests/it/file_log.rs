//! The log in files, on a real file system.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use raft::{
    Config, DiskIdentity, Entries, Entry, EntryPayload, FileLogOptions, FileLogStore, HardState,
    LogIndex, LogStore, StableStore, StoreError, Term,
    testing::{kill_suite, power_cut_suite},
};

fn small() -> FileLogOptions {
    FileLogOptions::default().with(|it| it.segment_bytes = 1 << 20)
}

fn entries(first: u64, last: u64, length: usize) -> Entries {
    let entry = |index| Entry {
        term: Term(1),
        index: LogIndex(index),
        payload: EntryPayload::Command(vec![index as u8; length].into()),
    };
    (first..=last).map(entry).collect::<Vec<_>>().into()
}

fn open(dir: &Path) -> FileLogStore {
    FileLogStore::open(dir, small()).unwrap_or_else(|error| panic!("{error}"))
}

/// Why it does not open: one line that names the directory, and nothing is changed.
fn refusal(dir: &Path) -> String {
    let before = listing(dir);
    let error = FileLogStore::open(dir, small()).expect_err("it opened");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&*dir.to_string_lossy()), "{text}");
    assert_eq!(listing(dir), before, "{text}");
    text
}

fn listing(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(items) = fs::read_dir(dir) else { return Vec::new() };
    let item = |item: fs::DirEntry| {
        let bytes = fs::read(item.path()).unwrap_or_default();
        (item.file_name().into_string().unwrap(), bytes)
    };
    let mut items: Vec<_> = items.map(|it| item(it.unwrap())).collect();
    items.sort();
    items
}

#[tokio::test]
async fn what_was_acknowledged_survives_any_kill() {
    let dir = tempfile::tempdir().unwrap();
    kill_suite("file_log::what_was_acknowledged_survives_any_kill", dir.path(), |dir| {
        let log = FileLogStore::open(dir, small())?;
        Ok((log.clone(), log))
    })
    .await;
}

#[tokio::test]
async fn what_is_no_log_is_refused_by_name_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    fs::write(&dir, "text").unwrap();
    assert!(refusal(&dir).contains("is a file"));
    fs::remove_file(&dir).unwrap();

    fs::create_dir(&dir).unwrap();
    for (name, says) in [
        ("photo.jpg", "it has \"photo.jpg\", but no file RAFT-LOG"),
        ("CURRENT", "holds a RocksDB database"),
        ("RAFT-ROCKSDB", "holds a log of raft-rocksdb"),
        ("log-0000000000000003", "copy that file too"),
    ] {
        fs::write(dir.join(name), "text").unwrap();
        let text = refusal(&dir);
        assert!(text.contains(says), "{text}");
        fs::remove_file(dir.join(name)).unwrap();
    }
    for missing in ["nowhere", "log"] {
        let dir = root.path().join(missing);
        let error = FileLogStore::open_existing(&dir, small()).unwrap_err().to_string();
        assert!(error.contains("holds no Raft log"), "{error}");
        let error = FileLogStore::open_read_only(&dir).unwrap_err().to_string();
        assert!(error.contains("holds no Raft log"), "{error}");
    }
    assert!(!root.path().join("nowhere").exists());
    let long = root.path().join("x".repeat(300));
    let error = FileLogStore::open(long, small()).unwrap_err().to_string();
    assert!(error.contains("too long"), "{error}");
    for segment_bytes in [0, 4096, (1 << 20) + 1, (1 << 30) + 4096, u64::MAX] {
        let options = FileLogOptions::default().with(|it| it.segment_bytes = segment_bytes);
        let error = FileLogStore::open(root.path().join("new"), options).unwrap_err().to_string();
        assert!(error.contains(&format!("`segment_bytes` is {segment_bytes}; give")), "{error}");
    }
    assert!(!root.path().join("new").exists());
}

#[tokio::test]
async fn a_damaged_or_newer_identity_is_told() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    drop(open(&dir));
    let path = dir.join("RAFT-LOG");
    let text = fs::read_to_string(&path).unwrap();
    for (written, says) in [
        (text.replace("format 1", "format 7"), "is in format 7"),
        (text.replace("raft", "wrath"), "its first line is \"wrath log format 1\""),
        (text.replace("store ", "store x"), "its second line is \"store x"),
        (String::new(), "its first line is \"\""),
    ] {
        fs::write(&path, written).unwrap();
        let error = refusal(&dir);
        assert!(error.contains(says), "{error}");
    }
    fs::write(&path, text).unwrap();
    drop(open(&dir));
    fs::remove_file(dir.join("log-0000000000000001")).unwrap();
    assert!(refusal(&dir).contains("every segment that had a batch is missing"));
}

#[tokio::test]
async fn files_are_for_their_owner_only() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("above").join("log");
    let mut log = open(&dir);
    for first in (1..=4000).step_by(100) {
        log.append(&[entries(first, first + 99, 1000)]).await.unwrap();
    }
    // What is being prepared meanwhile would be renamed while it is looked at.
    drop(log);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let names: Vec<_> = listing(&dir).into_iter().map(|(name, _)| name).collect();
    assert!(4 < names.len(), "{names:?}");
    for name in names {
        assert_eq!(mode(&dir.join(&name)), 0o600, "{name}");
    }
}

/// Not a test: holds the log open until its input ends. Does nothing in an ordinary run.
#[test]
fn holder() {
    let Ok(dir) = std::env::var("RAFT_FILE_LOG_HOLDER") else { return };
    let _log = open(Path::new(&dir));
    println!("\nopen");
    std::io::stdin().lines().for_each(drop);
}

#[tokio::test]
async fn a_second_owner_is_told_who_has_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let log = open(&dir);
    assert!(refusal(&dir).contains("in use by this process"));
    drop(log);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["file_log::holder", "--exact", "--nocapture"])
        .env("RAFT_FILE_LOG_HOLDER", &dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(output).map(Result::unwrap);
    assert!(lines.any(|line| line == "open"));
    let text = refusal(&dir);
    assert!(text.contains(&format!("in use by process {}; stop that first", child.id())), "{text}");
    drop(child.stdin.take());
    child.wait().unwrap();
    drop(open(&dir));
}

#[tokio::test]
async fn a_log_that_is_opened_for_reading_is_not_changed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let mut log = open(&dir);
    log.append(&[entries(1, 100, 10)]).await.unwrap();
    drop(log);
    let before = listing(&dir);
    let mut log = FileLogStore::open_read_only(&dir).unwrap();
    let read = log.reader().read(LogIndex(1)..=LogIndex(100), u64::MAX).await.unwrap();
    assert_eq!(read, entries(1, 100, 10));
    let error = log.append(&[entries(101, 101, 1)]).await.unwrap_err().to_string();
    assert!(error.contains("was opened for reading"), "{error}");
    let verified = FileLogStore::verify(&dir).unwrap();
    assert_eq!((verified.segments, verified.entries), (1, 100));
    assert_eq!(listing(&dir), before);
}

/// The read that meets it, and `verify`.
#[tokio::test]
async fn damage_of_an_older_segment_is_met_by_the_read_and_by_verify() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let mut log = open(&dir);
    for first in (1..=4000).step_by(100) {
        log.append(&[entries(first, first + 99, 1000)]).await.unwrap();
    }
    drop(log);
    let verified = FileLogStore::verify(&dir).unwrap();
    assert_eq!(verified.entries, 4000);
    assert!(3 < verified.segments && 4_000_000 < verified.bytes, "{verified:?}");
    let path = dir.join("log-0000000000000002");
    let mut bytes = fs::read(&path).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = FileLogStore::verify(&dir).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("log-0000000000000002 at offset"), "{error}");
    let log = open(&dir);
    let error = log.reader().read(LogIndex(1)..=LogIndex(4000), u64::MAX).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("log entry ") && text.contains("offset"), "{text}");
}

/// Term, vote and entries take one sync: nothing of it is there, or all.
#[tokio::test]
async fn dropped_segments_are_used_again_and_the_directory_stays_bounded() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let mut log = open(&dir);
    let hard_state = HardState { current_term: Term(3), voted_for: Some("b".into()) };
    log.save_hard_state(&hard_state).await.unwrap();
    let disk =
        DiskIdentity { server: "a".into(), incarnation: 5, starts: 1, was_rolled_back: false };
    log.save_disk_identity(&disk).await.unwrap();
    for first in (1..=40_000).step_by(100) {
        log.append(&[entries(first, first + 99, 1000)]).await.unwrap();
        log.truncate_prefix(LogIndex(first.saturating_sub(1000))).await.unwrap();
        let bytes: u64 =
            fs::read_dir(&dir).unwrap().map(|it| it.unwrap().metadata().unwrap().len()).sum();
        // The first segment has 1 MiB too; the log kept is about 1.1 MB.
        assert!(bytes <= 6 << 20, "{bytes} bytes after {first}");
    }
    drop(log);
    let mut log = open(&dir);
    assert_eq!(log.hard_state().await.unwrap(), Some(hard_state));
    assert_eq!(log.disk_identity().await.unwrap(), Some(disk));
    let bounds = log.reader().bounds().await.unwrap();
    assert_eq!(bounds, Some((LogIndex(38_902), LogIndex(40_000))));
}

/// Descriptors of files of the log in this directory that this process has open.
#[cfg(target_os = "linux")]
fn open_files(dir: &Path) -> usize {
    let targets =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|it| fs::read_link(it.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(dir)).count()
}

/// Only what is written to stays open: a long log of small segments does not use up the descriptors.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_long_log_keeps_few_files_open() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().canonicalize().unwrap().join("log");
    let mut log = open(&dir);
    for first in (1..=3000).step_by(10) {
        log.append(&[entries(first, first + 9, 10_000)]).await.unwrap();
    }
    let segments = listing(&dir).iter().filter(|(name, _)| name.starts_with("log-")).count();
    assert!(25 < segments, "{segments}");
    let read = log.reader().read(LogIndex(1)..=LogIndex(3000), u64::MAX).await.unwrap();
    assert_eq!(read.len(), 3000);
    // The lock, the segment in use, and one that is being prepared.
    assert!(open_files(&dir) <= 4, "{}", open_files(&dir));
    drop((log, read));
    let log = open(&dir);
    assert!(open_files(&dir) <= 4, "{}", open_files(&dir));
    let bounds = log.reader().bounds().await.unwrap();
    assert_eq!(bounds, Some((LogIndex(1), LogIndex(3000))));
}

/// A segment may be dropped between the look at the index and the read: the entry is there, or is said to be
/// gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_while_it_is_read_is_whole_or_not_found() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root.path().join("log"));
    let reader = log.reader();
    log.append(&[entries(1, 100, 1000)]).await.unwrap();
    let reads = tokio::spawn(async move {
        let (mut whole, mut gone) = (0, 0);
        // Until the log is reset at the end.
        while let Some((first, _)) = reader.bounds().await.unwrap() {
            match reader.read(first..=LogIndex(first.0 + 50), u64::MAX).await {
                Ok(read) => {
                    let is_right = |(entry, index): (&Entry, u64)| match &entry.payload {
                        EntryPayload::Command(data) => {
                            entry.index.0 == index && data.iter().all(|byte| *byte == index as u8)
                        }
                        _ => false,
                    };
                    assert!(read.iter().zip(first.0..).all(is_right), "{first}");
                    whole += 1;
                }
                Err(StoreError::NotFound { .. }) => gone += 1,
                Err(error) => panic!("{error}"),
            }
        }
        (whole, gone)
    });
    for first in (101..=60_000).step_by(100) {
        log.append(&[entries(first, first + 99, 1000)]).await.unwrap();
        log.truncate_prefix(LogIndex(first - 1)).await.unwrap();
    }
    log.truncate_prefix(LogIndex(60_000)).await.unwrap();
    let (whole, gone) = reads.await.unwrap();
    assert!(0 < whole, "{whole} and {gone}");
}

/// Two nodes one after the other on the same directory: what the first has applied the second has.
#[tokio::test]
async fn a_node_runs_on_it_and_starts_again() {
    use raft::{
        Configuration, Raft, Server,
        inmem::{InmemNetwork, InmemSnapshotStore},
        testing::Journal,
    };
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    for start in 0..3 {
        let (log, network) = (open(&dir), InmemNetwork::new());
        let (snapshots, transport) = (InmemSnapshotStore::new(), network.transport("a"));
        let snapshots = std::sync::Arc::new(snapshots);
        let fsm = Journal::default();
        let stable = log.clone();
        let raft = Raft::new(Config::new("a"), fsm.clone(), log, stable, snapshots, transport);
        let raft = raft.await.unwrap();
        if start == 0 {
            raft.bootstrap_cluster(Configuration::new([Server::voter("a", "a")])).await.unwrap();
        }
        while raft.barrier().await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        raft.apply(format!("command {start}")).await.unwrap();
        assert_eq!(fsm.commands().len(), start + 1);
        assert_eq!(raft.status().await.unwrap().log_trouble, None);
        raft.shutdown().await;
    }
}

/// An ext4 in a file, which can be made to lose what was not synced.
struct LoopDisk {
    root: tempfile::TempDir,
}

impl LoopDisk {
    /// Needs root, loop devices and the programs; says what is missing.
    fn mount(bytes: u64) -> Result<Self, String> {
        let disk = Self { root: tempfile::tempdir().map_err(|error| error.to_string())? };
        let image = fs::File::create(disk.image()).and_then(|file| file.set_len(bytes));
        image.map_err(|error| error.to_string())?;
        fs::create_dir(disk.dir()).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", &disk.image()])?;
        run("python3", &["-c", "import fcntl"])?;
        disk.attach()?;
        Ok(disk)
    }

    fn mount_or_skip(bytes: u64, test: &str) -> Option<Self> {
        let mounted = Self::mount(bytes);
        if let Err(why) = &mounted {
            // Past the capture of the test program.
            let line = format!("skipped: {test}: {why}\n");
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        }
        mounted.ok()
    }

    fn image(&self) -> String {
        format!("{}/image", self.root.path().display())
    }

    fn dir(&self) -> String {
        format!("{}/mounted", self.root.path().display())
    }

    fn attach(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image(), &self.dir()])
    }

    /// From now on nothing reaches the file any more, not even what is in the journal only.
    fn shut_down(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        const CALL: &str = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run("python3", &["-c", CALL, &self.dir()]).unwrap();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = run("umount", &[&self.dir()]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Where the machine lets it: a real kernel forgets what was not synced, 50 times.
#[tokio::test]
async fn what_was_acknowledged_survives_any_power_cut_of_a_real_kernel() {
    const NAME: &str = "file_log::what_was_acknowledged_survives_any_power_cut_of_a_real_kernel";
    let open = |dir: &Path| {
        let log = FileLogStore::open(dir, small())?;
        Ok((log.clone(), log))
    };
    if std::env::var("RAFT_KILL_SUITE_DIR").is_ok() {
        power_cut_suite(NAME, Path::new(""), 0, open, |_| ()).await;
    }
    let Some(disk) = LoopDisk::mount_or_skip(256 << 20, NAME) else { return };
    let dir = format!("{}/log", disk.dir());
    power_cut_suite(NAME, Path::new(&dir), 50, open, |child| {
        disk.shut_down();
        child.kill().unwrap();
        child.wait().unwrap();
        run("umount", &[&disk.dir()]).unwrap();
        disk.attach().unwrap();
    })
    .await;
}

/// It is told before it hurts, nothing is lost, and with room it goes on.
#[tokio::test]
async fn a_real_file_system_that_is_full_loses_nothing() {
    const NAME: &str = "file_log::a_real_file_system_that_is_full_loses_nothing";
    let Some(disk) = LoopDisk::mount_or_skip(96 << 20, NAME) else { return };
    let ballast = Path::new(&disk.dir()).join("ballast");
    fs::write(&ballast, vec![1; 40 << 20]).unwrap();
    let dir = Path::new(&disk.dir()).join("log");
    // Large enough to fill half of one takes longer than to find out that there is no room for the next.
    let options = FileLogOptions::default().with(|it| it.segment_bytes = 8 << 20);
    let mut log = FileLogStore::open(&dir, options).unwrap();
    let reader = log.reader();
    let (mut last, mut told_at) = (0, None);
    let error = loop {
        if let Err(error) = log.append(&[entries(last + 1, last + 10, 1000)]).await {
            break error;
        }
        last += 10;
        told_at = told_at.or(reader.trouble().map(|_| last));
    };
    assert!(error.to_string().contains("No space left"), "{error}");
    let told_at = told_at.expect("it is told before");
    assert!(told_at < last, "told at {told_at}, and it hurt at {last}");
    drop((log, reader));
    let mut log = FileLogStore::open(&dir, options).unwrap();
    let all = log.reader().read(LogIndex(1)..=LogIndex(last), u64::MAX).await.unwrap();
    assert_eq!(all, entries(1, last, 1000));
    fs::remove_file(ballast).unwrap();
    log.append(&[entries(last + 1, last + 10_000, 1000)]).await.unwrap();
    assert_eq!(log.reader().trouble(), None);
}
