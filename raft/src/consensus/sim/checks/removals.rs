//! A server believes that it was removed only if it was, and if it knows of nothing newer: a notice may be
//! late, and the server a member again (law 12).

use super::Check;
use crate::{
    configuration::{IndexedConfiguration, ServerId},
    position::LogIndex,
};

/// `me`, in whose log `own` is the newest configuration, takes itself for removed by the one at `at`;
/// `committed` is what is committed there.
pub(crate) fn believed(
    me: &ServerId,
    at: LogIndex,
    committed: &IndexedConfiguration,
    own: &IndexedConfiguration,
) -> Check {
    ensure!(
        at == committed.index && committed.configuration.server(me).is_none(),
        "law 12: {me} believes that it was removed at {at}, but {} of {} is committed there",
        committed.configuration,
        committed.index
    );
    ensure!(
        own.index <= at || own.configuration.server(me).is_none(),
        "law 12: {me} believes that it was removed at {at}, but its log has {} at {}",
        own.configuration,
        own.index
    );
    Ok(())
}

#[test]
fn fires_on_a_notice_that_is_wrong_or_old() {
    use crate::configuration::{Configuration, Server};
    let of = |ids: &[&str], index| IndexedConfiguration {
        index: LogIndex(index),
        configuration: Configuration::new(ids.iter().map(|id| Server::voter(*id, *id))),
    };
    let (before, without, after) = (of(&["a", "b"], 3), of(&["b"], 5), of(&["a", "b"], 7));
    let believed = |at, committed, own| believed(&"a".into(), LogIndex(at), committed, own);
    believed(5, &without, &before).unwrap();
    believed(5, &without, &without).unwrap();
    believed(5, &without, &after).unwrap_err();
    believed(3, &before, &before).unwrap_err();
    believed(6, &without, &without).unwrap_err();
}
