//! Whose directory is it? A small file beside the stores says which server it belongs to and how
//! that server came to its cluster, so that a mixed-up flag is refused before anything is touched.
//! It has a checksum: what is damaged must not be taken for another server's. Whoever uses the directory
//! holds a lock on that file.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

const FILE: &str = "server.json";
const DRAFT: &str = "server.json.draft";
/// Beside it as soon as the server has something to lose.
const BEGUN: &str = "server.begun";

/// What stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// The server's name.
    pub(crate) id: String,
    /// The cluster's name. Directories of the first release do not say it.
    #[serde(default)]
    pub(crate) cluster: Option<String>,
    /// The cluster's first members and their addresses, if this server was one of them.
    pub(crate) first_members: Option<BTreeMap<String, String>>,
    /// Of the rest. Only in the file; one of the first release, or of somebody's hand, has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

impl Identity {
    pub(crate) fn new(
        id: &str,
        cluster: &str,
        first_members: Option<BTreeMap<String, String>>,
    ) -> Self {
        let (id, cluster) = (id.to_owned(), Some(cluster.to_owned()));
        Self { id, cluster, first_members, checksum: None }
    }

    /// The CRC-32 of all but the checksum, as JSON without spaces.
    fn sum(&self) -> serde_json::Result<String> {
        let bytes = serde_json::to_vec(&Self { checksum: None, ..self.clone() })?;
        Ok(format!("{:08x}", crc32fast::hash(&bytes)))
    }
}

/// The directory is in use by this process until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock(Vec<File>);

/// Whether the server has had something in its log: then that cannot be missing.
pub(crate) fn has_begun(data: &Path) -> bool {
    data.join(BEGUN).exists()
}

/// Notes durably that the server has something in its log.
pub(crate) fn note_begun(data: &Path) -> std::io::Result<()> {
    let text = "This server has begun: what its log holds cannot be missing. Do not remove.\n";
    make_file(&data.join(BEGUN), text)?;
    File::open(data)?.sync_all()
}

/// The directory's path, made if it was missing.
pub(crate) fn directory(data: &Path) -> Result<PathBuf, Failure> {
    make_private(data).map_err(|error| {
        Failure::new(format!("cannot make the data directory {}: {error}", data.display()))
    })?;
    Ok(data.to_owned())
}

/// Makes a directory that is nobody else's affair. One that is there stays as it is.
pub(crate) fn make_private(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Checks that the directory belongs to this server, or claims it if it belongs to nobody. Returns what
/// it says of itself.
///
/// # Errors
/// When it belongs to another server, when it was bootstrapped differently, when a server runs in
/// it, or when it cannot be used. Nothing was changed.
pub(crate) fn claim(data: &Path, wanted: &Identity) -> Result<(Identity, Lock), Failure> {
    let found = match read(data)? {
        Some(found) => {
            check(data, wanted, &found)?;
            found
        }
        None => {
            refuse_strangers(data)?;
            return Ok((wanted.clone(), Lock(vec![write(data, wanted)?])));
        }
    };
    Ok((found, lock(data, File::try_lock)?))
}

/// Replaces what the directory says of itself, and keeps it locked.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn replace(data: &Path, identity: &Identity, lock: &mut Lock) -> Result<(), Failure> {
    // Somebody may have opened the old one before it was replaced: both stay locked.
    lock.0.push(write(data, identity)?);
    Ok(())
}

/// The identity of a directory in which no server runs, for a tool that will change what is there.
/// Nothing is made.
///
/// # Errors
/// When it is no data directory, or is in use.
pub(crate) fn take(data: &Path) -> Result<(Identity, Lock), Failure> {
    Ok((existing(data)?, lock(data, File::try_lock)?))
}

/// The same for a tool that only looks, of which there may be several.
///
/// # Errors
/// When it is no data directory, or is in use.
pub(crate) fn look(data: &Path) -> Result<(Identity, Lock), Failure> {
    Ok((existing(data)?, lock(data, File::try_lock_shared)?))
}

fn existing(data: &Path) -> Result<Identity, Failure> {
    read(data)?.ok_or_else(|| {
        let shown = data.display();
        Failure::new(format!("{shown} is not a data directory of this program: it has no {FILE}"))
    })
}

fn lock(data: &Path, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Lock, Failure> {
    let path = data.join(FILE);
    let cannot = |error| Failure::new(format!("cannot lock {}: {error}", path.display()));
    let file = File::open(&path).map_err(cannot)?;
    match lock(&file) {
        Ok(()) => Ok(Lock(vec![file])),
        Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
            "the data directory {} is in use by a running server or tool; stop that one first",
            data.display()
        ))),
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

fn read(data: &Path) -> Result<Option<Identity>, Failure> {
    let path = data.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).map(Some).map_err(|why| damaged(&path, &why)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(damaged(&path, &error.to_string()))
        }
        Err(error) => Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
    }
}

fn parse(text: &str) -> Result<Identity, String> {
    let found: Identity = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match (&found.checksum, found.sum().map_err(|error| error.to_string())?) {
        (Some(noted), sum) if *noted != sum => {
            Err(format!("its checksum is {noted}, but what it says has {sum}"))
        }
        _ => Ok(Identity { checksum: None, ..found }),
    }
}

/// The file is no part of what the server has promised, and can be written by hand.
fn damaged(path: &Path, why: &str) -> Failure {
    Failure::new(format!(
        "{} is damaged: {why}. The log and the snapshots beside it may be well: if you know whose \
         directory it is, write {{\"id\": \"ID\", \"cluster\": \"NAME\", \"first_members\": null}} there, with \
         the server's --id and --cluster, and start it without --bootstrap",
        path.display()
    ))
}

fn check(data: &Path, wanted: &Identity, found: &Identity) -> Result<(), Failure> {
    let shown = data.display();
    if found.id != wanted.id {
        return Err(Failure::new(format!(
            "the data directory {shown} belongs to server {}, not to {}",
            found.id, wanted.id
        )));
    }
    if let (Some(wanted), Some(found)) = (&wanted.cluster, &found.cluster)
        && wanted != found
    {
        return Err(Failure::new(format!(
            "the data directory {shown} belongs to cluster {found}, not to {wanted}"
        )));
    }
    match (&wanted.first_members, &found.first_members) {
        (Some(_), None) if has_begun(data) => Err(has_joined(data, found)),
        (Some(wanted), Some(found)) if wanted != found => Err(Failure::new(format!(
            "cannot bootstrap: the cluster in {shown} was bootstrapped with {}; a cluster is \
             bootstrapped once, start without --bootstrap and change members with `kv ctl`",
            list(found)
        ))),
        _ => Ok(()),
    }
}

/// Why it cannot be bootstrapped.
pub(crate) fn has_joined(data: &Path, found: &Identity) -> Failure {
    Failure::new(format!(
        "cannot bootstrap: server {} in {} has joined a cluster; start it without --bootstrap",
        found.id,
        data.display()
    ))
}

fn list(members: &BTreeMap<String, String>) -> String {
    let members: Vec<_> = members.iter().map(|(id, address)| format!("{id}={address}")).collect();
    members.join(" ")
}

/// A directory without our file must be empty, or we might bury somebody's files.
fn refuse_strangers(data: &Path) -> Result<(), Failure> {
    let shown = data.display();
    let entries = fs::read_dir(data).map_err(|error| {
        Failure::new(format!("cannot read the data directory {shown}: {error}"))
    })?;
    let names =
        entries.filter_map(Result::ok).map(|e| e.file_name().to_string_lossy().into_owned());
    // What a crash in `write` leaves, and what a fresh file system has.
    match names.into_iter().find(|name| name != DRAFT && name != "lost+found") {
        None => Ok(()),
        Some(name) => Err(Failure::new(format!(
            "{shown} is not a data directory of this program: it holds {name} but no {FILE}"
        ))),
    }
}

/// The new file is locked before it has its name.
fn write(data: &Path, identity: &Identity) -> Result<File, Failure> {
    let path = data.join(FILE);
    let draft = data.join(DRAFT);
    let write = || {
        let checksum = Some(identity.sum()?);
        let text = serde_json::to_string_pretty(&Identity { checksum, ..identity.clone() })?;
        let file = make_file(&draft, &text)?;
        file.try_lock()?;
        fs::rename(&draft, &path)?;
        File::open(data)?.sync_all()?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| {
        Failure::new(format!("cannot write {}: {error}", path.display()))
    })
}

/// A private file with this text, synced; its name is not.
fn make_file(path: &Path, text: &str) -> std::io::Result<File> {
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn identity(id: &str, members: &[&str]) -> Identity {
        let members: BTreeMap<_, _> =
            members.iter().map(|id| (id.to_string(), format!("{id}:1"))).collect();
        let first_members = (!members.is_empty()).then_some(members);
        Identity::new(id, "kv", first_members)
    }

    #[test]
    fn a_directory_stays_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |identity: &Identity| {
            claim(dir.path(), identity).map(drop).map_err(|failure| failure.to_string())
        };
        assert_eq!(claim(&identity("a", &["a", "b"])), Ok(()));
        assert_eq!(claim(&identity("a", &["a", "b"])), Ok(()), "the same flags again");
        assert_eq!(claim(&identity("a", &[])), Ok(()), "no flags at all");
        assert!(claim(&identity("b", &[])).unwrap_err().contains("belongs to server a, not to b"));
        let other = claim(&identity("a", &["a"])).unwrap_err();
        assert!(other.contains("was bootstrapped with a=a:1 b=b:1"), "{other}");
        let other = Identity::new("a", "other", None);
        assert!(claim(&other).unwrap_err().contains("belongs to cluster kv, not to other"));
    }

    #[test]
    fn a_directory_of_the_first_release_is_still_understood() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{ "id": "a", "first_members": { "a": "a:1" } }"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        claim(dir.path(), &identity("a", &["a"])).unwrap();
        assert_eq!(look(dir.path()).unwrap().0.cluster, None);
    }

    /// Wrong advice is worse than none.
    #[test]
    fn a_damaged_file_is_called_that_whatever_the_damage_says() {
        let dir = tempfile::tempdir().unwrap();
        let (path, wanted) = (dir.path().join(FILE), identity("a", &["a", "b"]));
        drop(claim(dir.path(), &wanted).unwrap());
        let whole = fs::read(&path).unwrap();
        let mut told = 0;
        for (position, bit) in (0..whole.len()).flat_map(|at| [(at, 0), (at, 1), (at, 5)]) {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();
            match claim(dir.path(), &wanted) {
                // White space became other white space, or such.
                Ok((found, _)) => assert_eq!(found, wanted, "byte {position}, bit {bit}"),
                Err(failure) => {
                    told += 1;
                    let expected = format!("{} is damaged: ", path.display());
                    assert!(failure.to_string().starts_with(&expected), "{failure}");
                }
            }
        }
        assert!(whole.len() < told, "{told}");
        // Two that fit each other: another server's name in both places.
        let text = String::from_utf8(whole).unwrap();
        fs::write(&path, text.replace(r#""a""#, r#""c""#)).unwrap();
        let failure = claim(dir.path(), &wanted).unwrap_err().to_string();
        assert!(failure.contains("is damaged: its checksum is "), "{failure}");
        assert!(!failure.contains("belongs to"), "{failure}");
        // As the message says.
        fs::write(&path, r#"{"id": "a", "cluster": "kv", "first_members": null}"#).unwrap();
        claim(dir.path(), &identity("a", &[])).unwrap();
    }

    #[test]
    fn what_is_made_is_private_and_what_is_there_stays_as_it_is() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let made = directory(&dir.path().join("deep/down")).unwrap();
        claim(&made, &identity("a", &[])).unwrap();
        assert_eq!((mode(&made), mode(&dir.path().join("deep"))), (0o700, 0o700));
        assert_eq!(mode(&made.join(FILE)), 0o600);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o750)).unwrap();
        directory(&made).unwrap();
        assert_eq!(mode(&made), 0o750);
    }

    #[test]
    fn a_directory_in_use_is_refused_and_one_that_is_missing_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        for refusal in [take(&absent).unwrap_err(), look(&absent).unwrap_err()] {
            assert!(refusal.to_string().contains("is not a data directory"), "{refusal}");
        }
        assert!(!absent.exists());

        let lock = claim(dir.path(), &identity("a", &[])).unwrap();
        for refusal in [take(dir.path()).unwrap_err(), look(dir.path()).unwrap_err()] {
            assert!(refusal.to_string().contains("is in use by a running server"), "{refusal}");
        }
        drop(lock);
        let several = (look(dir.path()).unwrap(), look(dir.path()).unwrap());
        assert!(claim(dir.path(), &identity("a", &[])).is_err());
        drop(several);
        take(dir.path()).unwrap();
    }

    #[test]
    fn one_that_joined_is_not_bootstrapped() {
        let dir = tempfile::tempdir().unwrap();
        let joining = identity("a", &[]);
        drop(claim(dir.path(), &joining).unwrap());
        // Whoever forgot a flag at the first start can still give it.
        let (_, mut lock) = claim(dir.path(), &identity("a", &["a"])).unwrap();
        replace(dir.path(), &joining, &mut lock).unwrap();
        assert!(take(dir.path()).unwrap_err().to_string().contains("is in use"), "it stays locked");
        drop(lock);
        note_begun(dir.path()).unwrap();
        let refusal = claim(dir.path(), &identity("a", &["a"])).unwrap_err();
        assert!(refusal.to_string().contains("has joined a cluster"), "{refusal}");
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let refusal = claim(dir.path(), &identity("a", &[])).unwrap_err().to_string();
        assert!(refusal.contains("holds thesis.tex but no server.json"), "{refusal}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
