//! What is applied in one go.

use crate::{
    configuration::IndexedConfiguration,
    fsm::Fsm,
    log::{Entries, Entry, EntryPayload},
};

/// Entries to be applied together, and the responses of the commands among them, in order.
pub(crate) struct Batch<R> {
    pub(crate) parts: Vec<Entries>,
    pub(crate) responses: Vec<R>,
}

impl<R> Default for Batch<R> {
    fn default() -> Self {
        Self { parts: Vec::new(), responses: Vec::new() }
    }
}

impl<R> Batch<R> {
    /// Applies the commands, and tells of configurations in between.
    pub(crate) fn apply<F: Fsm<Response = R>>(
        &mut self,
        fsm: &mut F,
        configuration: &mut IndexedConfiguration,
    ) {
        self.responses.clear();
        let count = self.parts.iter().map(|part| part.len()).sum();
        let mut commands = Vec::with_capacity(count);
        for entry in self.parts.iter().flat_map(|part| part.iter()) {
            match &entry.payload {
                EntryPayload::Command(_) => commands.push(entry),
                EntryPayload::Configuration(members) => {
                    apply_commands(fsm, &mut commands, &mut self.responses);
                    let (index, members) = (entry.index, members.clone());
                    *configuration = IndexedConfiguration { index, configuration: members };
                    fsm.configuration_changed(configuration);
                }
                EntryPayload::Noop | EntryPayload::Barrier => {}
            }
        }
        apply_commands(fsm, &mut commands, &mut self.responses);
    }
}

fn apply_commands<F: Fsm>(
    fsm: &mut F,
    commands: &mut Vec<&Entry>,
    responses: &mut Vec<F::Response>,
) {
    if commands.is_empty() {
        return;
    }
    // The contract gives the state machine an empty vector, and it nearly always is: configurations,
    // which split a batch, are rare.
    let earlier = if responses.is_empty() { Vec::new() } else { std::mem::take(responses) };
    fsm.apply_batch(commands, responses);
    let (got, wanted) = (responses.len(), commands.len());
    assert!(got == wanted, "Fsm::apply_batch gave {got} responses to {wanted} commands");
    if !earlier.is_empty() {
        responses.splice(..0, earlier);
    }
    commands.clear();
}
