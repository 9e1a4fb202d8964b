use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    configuration::Server,
    file_log::{FileLogOptions, FileLogStore},
    log::LogStore,
    position::LogIndex,
    stable::{HardState, StableStore},
};

fn members(ids: &[&str]) -> Configuration {
    Configuration::new(ids.iter().map(|id| Server::voter(*id, format!("{id}:1").as_str())))
}

/// The error, if there is one.
fn refusal<T>(claimed: Result<T, DataDirError>) -> Option<String> {
    claimed.err().map(|error| error.to_string())
}

#[test]
fn a_directory_stays_with_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let claim = |id: &str, cluster: &str, ids: &[&str]| {
        let members = members(ids);
        let members = Some(&members).filter(|_| !ids.is_empty());
        refusal(DataDir::claim(dir.path(), id, cluster, members))
    };
    assert_eq!(claim("a", "orders", &["a", "b"]), None);
    assert_eq!(claim("a", "orders", &["a", "b"]), None, "the same again");
    assert_eq!(claim("a", "orders", &[]), None, "no members at all");
    let other = claim("b", "orders", &[]).unwrap();
    assert!(other.ends_with("belongs to server a, not to b"), "{other}");
    let other = claim("a", "orders", &["a"]).unwrap();
    assert!(other.contains("was bootstrapped with a=a:1 b=b:1"), "{other}");
    let other = claim("a", "other", &[]).unwrap();
    assert!(other.ends_with("belongs to cluster orders, not to other"), "{other}");
}

/// Wrong advice is worse than none.
#[test]
fn a_damaged_file_is_called_that_whatever_the_damage_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(OWNER);
    let claim = || DataDir::claim(dir.path(), "a", "orders", Some(&members(&["a", "b"])));
    drop(claim().unwrap());
    let whole = fs::read(&path).unwrap();
    let mut damaged = 0;
    for (position, bit) in (0..whole.len()).flat_map(|at| [(at, 0), (at, 1), (at, 5)]) {
        let mut bytes = whole.clone();
        bytes[position] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        match claim() {
            // White space became other white space, or such.
            Ok(dir) => assert_eq!(dir.owner().id().as_str(), "a", "byte {position}, bit {bit}"),
            Err(DataDirError::Damaged { .. }) => damaged += 1,
            Err(error) => panic!("byte {position}, bit {bit}: {error}"),
        }
    }
    assert!(whole.len() < damaged, "{damaged}");
    // Two that fit each other: another server's name in both places.
    let text = String::from_utf8(whole).unwrap();
    fs::write(&path, text.replace(r#""a""#, r#""c""#)).unwrap();
    let error = refusal(claim()).unwrap();
    assert!(error.contains("is damaged: its checksum is "), "{error}");
    // As the message says.
    fs::write(&path, r#"{"id": "a", "cluster": "orders", "first_members": null}"#).unwrap();
    assert_eq!(refusal(DataDir::claim(dir.path(), "a", "orders", None)), None);
}

#[test]
fn what_is_made_is_private_and_what_is_there_stays_as_it_is() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("deep/down");
    drop(DataDir::claim(&made, "a", "orders", None).unwrap());
    assert_eq!((mode(&made), mode(&dir.path().join("deep"))), (0o700, 0o700));
    assert_eq!(mode(&made.join(OWNER)), 0o600);
    fs::set_permissions(&made, fs::Permissions::from_mode(0o750)).unwrap();
    drop(DataDir::claim(&made, "a", "orders", None).unwrap());
    assert_eq!(mode(&made), 0o750);
}

#[test]
fn a_directory_in_use_is_refused_and_one_that_is_missing_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    assert!(matches!(DataDir::open(&absent), Err(DataDirError::Missing { .. })));
    assert!(matches!(DataDir::open_read_only(&absent), Err(DataDirError::Missing { .. })));
    assert!(!absent.exists());

    let claimed = DataDir::claim(dir.path(), "a", "orders", None).unwrap();
    assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse { .. })));
    assert!(matches!(DataDir::open_read_only(dir.path()), Err(DataDirError::InUse { .. })));
    let again = DataDir::claim(dir.path(), "a", "orders", None);
    assert!(matches!(again, Err(DataDirError::InUse { .. })));
    drop(claimed);
    let several = (DataDir::open_read_only(dir.path()), DataDir::open_read_only(dir.path()));
    assert!(several.0.is_ok() && several.1.is_ok());
    assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse { .. })));
}

#[test]
fn somebodys_files_are_not_buried() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "all of it").unwrap();
    let error = refusal(DataDir::claim(dir.path(), "a", "orders", None)).unwrap();
    assert!(error.contains("it holds thesis.tex but no server.json"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Opens the stores and makes them ready, as a start does.
async fn start(path: &Path, first: Option<&Configuration>) -> Result<FileStores, DataDirError> {
    let mut dir = DataDir::claim(path, "a", "orders", first)?;
    let stores = dir.open_stores(FileLogOptions::default(), 2).await?;
    let (mut log, mut stable) = (stores.log.clone(), stores.log.clone());
    dir.prepare(&mut log, &mut stable, &*stores.snapshots, first).await?;
    Ok(stores)
}

#[tokio::test]
async fn a_first_member_is_bootstrapped_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = members(&["a", "b"]);
    for _ in 0..2 {
        let stores = start(dir.path(), Some(&first)).await.unwrap();
        let bounds = stores.log.reader().bounds().await.unwrap();
        assert_eq!(bounds, Some((LogIndex(1), LogIndex(1))));
        drop(stores);
    }
    assert!(DataDir::open(dir.path()).unwrap().has_begun());
    // Later it needs no members.
    drop(start(dir.path(), None).await.unwrap());
}

#[tokio::test]
async fn a_log_that_is_gone_is_not_begun_anew() {
    let first = members(&["a"]);
    for is_emptied in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        drop(start(dir.path(), Some(&first)).await.unwrap());
        fs::remove_dir_all(dir.path().join("log")).unwrap();
        if is_emptied {
            // Another one, which holds nothing.
            FileLogStore::open(dir.path().join("log"), FileLogOptions::default()).unwrap();
        }
        for members in [Some(&first), None] {
            let error = start(dir.path(), members).await.unwrap_err();
            assert!(matches!(error, DataDirError::LogMissing { .. }), "{error}");
        }
        assert_eq!(dir.path().join("log").exists(), is_emptied);
    }
}

#[tokio::test]
async fn a_server_that_joins_begins_when_it_has_something_to_lose() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = start(dir.path(), None).await.unwrap();
    let claimed = DataDir::claim(dir.path(), "a", "orders", None).unwrap();
    assert!(!claimed.has_begun());
    // It may still be the first of a cluster.
    assert!(claimed.check(&Owner::new(&"a".into(), "orders", Some(&members(&["a"])))).is_ok());
    stores.log.save_hard_state(&HardState::default()).await.unwrap();
    claimed.mark().note().unwrap();
    claimed.note_begun().unwrap();
    drop((stores, claimed));
    let error = start(dir.path(), Some(&members(&["a"]))).await.unwrap_err();
    assert!(matches!(error, DataDirError::HasJoined { .. }), "{error}");
}

/// Cut short between the note of the first members and the bootstrap, the same start goes on.
#[tokio::test]
async fn a_first_start_that_was_cut_short_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let first = members(&["a", "b"]);
    let mut claimed = DataDir::claim(dir.path(), "a", "orders", None).unwrap();
    claimed.note_first_members(&first).unwrap();
    assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse { .. })), "still locked");
    drop(claimed);
    let other = start(dir.path(), Some(&members(&["a"]))).await.unwrap_err();
    assert!(matches!(other, DataDirError::OtherMembers { .. }), "{other}");
    start(dir.path(), Some(&first)).await.unwrap();
}
