//! What an operator is told at the worst moment: the command that helps, and what not to do.

use std::path::Path;

use raft::{Configuration, Fatal, StartError, StoreError};

use crate::failure::Failure;

/// A server that cannot go on, and where its data is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patient<'a> {
    pub(crate) id: &'a str,
    pub(crate) data: &'a Path,
    /// Whether the cluster is known to have other servers. Else this may be the only one, with the only
    /// copy of everything.
    pub(crate) has_peers: bool,
}

/// Whether somebody else than this server is a member.
pub(crate) fn has_peers(id: &str, members: &Configuration) -> bool {
    members.servers().iter().any(|member| member.id.as_str() != id)
}

impl Patient<'_> {
    /// Why its stores cannot be opened.
    pub(crate) fn cannot_open(&self, failure: Failure) -> Failure {
        if failure.is_damage() { self.is_damaged(&failure) } else { failure }
    }

    /// Why it does not begin anew, although nothing is there.
    pub(crate) fn has_no_log(&self) -> Failure {
        let Self { id, data, .. } = self;
        let data = data.display();
        Failure::new(format!(
            "the log of server {id}, {data}/log, is gone, and with it what the server has promised. If it was \
             moved away, move it back. If there are others in its cluster, {}. If there are none, go on \
             with the newest snapshot in {data}/snapshots, by `kv recover`, or with a backup, by `kv restore` \
             into a new cluster; both lose what came later. For a new, empty cluster, give it another directory",
            self.rejoin()
        ))
    }

    /// Why its node cannot start.
    pub(crate) fn cannot_start(&self, error: &StartError) -> Failure {
        match error {
            StartError::Store(StoreError::Corrupt { .. })
            | StartError::AheadOfLog { .. }
            | StartError::Snapshot { .. } => self.is_damaged(&Failure::new(error)),
            error => Failure::new(error),
        }
    }

    /// Why its node has ended.
    pub(crate) fn has_ended(&self, end: &Fatal) -> Failure {
        let Self { id, data, .. } = self;
        let data = data.display();
        let rejoin = format!("kv ctl --http ANOTHER-MEMBER rejoin {id}");
        match end {
            Fatal::Store(StoreError::Corrupt { .. }) => self.is_damaged(&Failure::new(end)),
            Fatal::Store(_) => Failure::new(format!(
                "{end}. Mend the disk of {data}, or make room on it, and start the server again with what \
                 is there"
            )),
            Fatal::Diverged { .. } => {
                Failure::new(format!("{end}: empty {data}, start it again, and: {rejoin}"))
            }
            Fatal::RolledBack { .. } => Failure::new(format!("{end}: {rejoin}")),
            Fatal::LostByMajority { .. } => Failure::new(format!(
                "{end}. Stop the others, make this server the source, by kv recover --data-dir {data} --peers \
                 FILE, and start the others with empty directories"
            )),
            end => Failure::new(end),
        }
    }

    fn rejoin(&self) -> String {
        let Self { id, data, .. } = self;
        let data = data.display();
        format!(
            "move {data} away, start the server on an empty directory without --bootstrap, and: kv ctl \
             --http ANOTHER-MEMBER rejoin {id}"
        )
    }

    fn is_damaged(&self, failure: &Failure) -> Failure {
        let Self { id, data, has_peers } = self;
        let (data, rejoin) = (data.display(), self.rejoin());
        Failure::new(match has_peers {
            true => format!("{failure}. If a majority of the others is well, {rejoin}"),
            false => format!(
                "{failure}. Delete nothing: if {id} is the only server of its cluster, {data} is the only \
                 copy of its data. If there are others, {rejoin}. If there are none, copy {data} first; \
                 then go on with the newest snapshot in it, by moving {data}/log away and `kv recover`, \
                 or with a backup, by `kv restore` into a new cluster; both lose what came later"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use raft::Server;

    use super::*;

    fn patient(has_peers: bool) -> Patient<'static> {
        Patient { id: "c", data: Path::new("/data/c"), has_peers }
    }

    fn damage() -> StoreError {
        StoreError::corrupt("log entry 7 in /data/c/log", "checksum")
    }

    #[test]
    fn damage_is_told_with_the_command_that_helps() {
        let texts = [
            patient(true).cannot_open(Failure::of_store(&damage())),
            patient(true).cannot_start(&StartError::Store(damage())),
            patient(true).has_ended(&Fatal::Store(damage())),
        ];
        for text in texts.map(|failure| failure.to_string()) {
            assert!(text.contains("log entry 7 in /data/c/log is damaged: checksum. If"), "{text}");
            assert!(text.contains("move /data/c away"), "{text}");
            assert!(text.ends_with("kv ctl --http ANOTHER-MEMBER rejoin c"), "{text}");
        }
    }

    #[test]
    fn the_only_copy_is_never_given_up() {
        let reason = raft::RestoreFailure::Fsm { reason: "it is damaged".to_owned() };
        let start = StartError::Snapshot { tried: 2, reason };
        let texts = [
            patient(false).cannot_open(Failure::of_store(&damage())),
            patient(false).cannot_start(&start),
            patient(false).has_ended(&Fatal::Store(damage())),
        ];
        for text in texts.map(|failure| failure.to_string()) {
            assert!(text.contains("Delete nothing: if c is the only server"), "{text}");
            assert!(text.contains("`kv recover`") && text.contains("`kv restore`"), "{text}");
            assert!(!text.contains("empty /data") && !text.contains("remove"), "{text}");
        }
    }

    #[test]
    fn what_is_no_damage_is_not_called_that() {
        let full = || StoreError::io("cannot append", io::Error::from(io::ErrorKind::StorageFull));
        let text = patient(false).cannot_open(Failure::of_store(&full())).to_string();
        assert_eq!(text, format!("{}", full()));
        let text = patient(false).has_ended(&Fatal::Store(full())).to_string();
        assert!(text.contains("cannot append: no storage space"), "{text}");
        assert!(text.contains("make room on it, and start the server again"), "{text}");
        let text = patient(true).has_ended(&Fatal::TransportClosed).to_string();
        assert_eq!(text, Fatal::TransportClosed.to_string());
    }

    #[test]
    fn others_are_members_with_another_id() {
        let alone = Configuration::new([Server::voter("c", "h:1")]);
        assert!(!has_peers("c", &alone));
        assert!(has_peers("b", &alone));
        assert!(!has_peers("c", &Configuration::default()));
    }
}
