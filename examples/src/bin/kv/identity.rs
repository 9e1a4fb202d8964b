//! Whose directory is it? A small file beside the stores says which server it belongs to and how
//! that server came to its cluster, so that a mixed-up flag is refused before anything is touched.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

const FILE: &str = "server.json";
const DRAFT: &str = "server.json.draft";

/// What stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The server's name.
    pub(crate) id: String,
    /// The cluster's first members and their addresses, if this server was one of them.
    pub(crate) first_members: Option<BTreeMap<String, String>>,
}

/// The directory's path, made if it was missing.
pub(crate) fn directory(data: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(data).map_err(|error| {
        Failure::new(format!("cannot make the data directory {}: {error}", data.display()))
    })?;
    Ok(data.to_owned())
}

/// Checks that the directory belongs to this server, or claims it if it belongs to nobody.
///
/// # Errors
/// When it belongs to another server, when it was bootstrapped differently, or when it cannot be
/// used. Nothing was changed.
pub(crate) fn claim(data: &Path, wanted: &Identity) -> Result<(), Failure> {
    let path = data.join(FILE);
    let shown = data.display();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            refuse_strangers(data)?;
            return write(&path, wanted).map_err(|error| {
                Failure::new(format!("cannot write {}: {error}", path.display()))
            });
        }
        Err(error) => {
            return Err(Failure::new(format!("cannot read {}: {error}", path.display())));
        }
    };
    let found: Identity = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("{} is damaged: {error}", path.display())))?;
    if found.id != wanted.id {
        return Err(Failure::new(format!(
            "the data directory {shown} belongs to server {}, not to {}",
            found.id, wanted.id
        )));
    }
    match (&wanted.first_members, &found.first_members) {
        (Some(_), None) => Err(Failure::new(format!(
            "cannot bootstrap: server {} in {shown} has joined a cluster; start it without \
             --bootstrap",
            found.id
        ))),
        (Some(wanted), Some(found)) if wanted != found => Err(Failure::new(format!(
            "cannot bootstrap: the cluster in {shown} was bootstrapped with {}; a cluster is \
             bootstrapped once, start without --bootstrap and change members with `kv ctl`",
            list(found)
        ))),
        _ => Ok(()),
    }
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

fn write(path: &Path, identity: &Identity) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(identity)?;
    let draft = path.with_file_name(DRAFT);
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: &str, members: &[&str]) -> Identity {
        let members: BTreeMap<_, _> =
            members.iter().map(|id| (id.to_string(), format!("{id}:1"))).collect();
        Identity { id: id.to_owned(), first_members: (!members.is_empty()).then_some(members) }
    }

    #[test]
    fn a_directory_stays_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |identity: &Identity| claim(dir.path(), identity).map_err(|f| f.to_string());
        assert_eq!(claim(&identity("a", &["a", "b"])), Ok(()));
        assert_eq!(claim(&identity("a", &["a", "b"])), Ok(()), "the same flags again");
        assert_eq!(claim(&identity("a", &[])), Ok(()), "no flags at all");
        assert!(claim(&identity("b", &[])).unwrap_err().contains("belongs to server a, not to b"));
        let other = claim(&identity("a", &["a"])).unwrap_err();
        assert!(other.contains("was bootstrapped with a=a:1 b=b:1"), "{other}");
    }

    #[test]
    fn one_that_joined_is_not_bootstrapped() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), &identity("a", &[])).unwrap();
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
