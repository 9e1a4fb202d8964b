//! A state machine for tests: a list of the commands it was given.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    configuration::IndexedConfiguration,
    fsm::{Fsm, FsmError, FsmSnapshot},
    log::Entry,
    position::LogIndex,
    snapshot::SnapshotReader,
};

/// Remembers every command, and answers each with how many there are now.
///
/// A cheap handle: a clone shows what the servers's own copy has applied. The command `panic` makes
/// it panic, as a broken state machine would.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    commands: Vec<Bytes>,
    last_index: LogIndex,
    configurations: Vec<IndexedConfiguration>,
}

impl Journal {
    /// The commands so far, in order.
    #[must_use]
    pub fn commands(&self) -> Vec<Bytes> {
        self.state.lock().commands.clone()
    }

    /// The committed configurations it was told of, in order.
    #[must_use]
    pub fn configurations(&self) -> Vec<IndexedConfiguration> {
        self.state.lock().configurations.clone()
    }
}

impl Fsm for Journal {
    type Response = u64;

    fn apply(&mut self, entry: &Entry) -> u64 {
        assert!(entry.data() != b"panic", "told to panic");
        let mut state = self.state.lock();
        assert!(state.last_index < entry.index, "law 5: {} came again", entry.index);
        state.last_index = entry.index;
        state.commands.push(Bytes::copy_from_slice(entry.data()));
        state.commands.len() as u64
    }

    fn configuration_changed(&mut self, configuration: &IndexedConfiguration) {
        self.state.lock().configurations.push(configuration.clone());
    }

    fn snapshot(&mut self) -> Result<Box<dyn FsmSnapshot>, FsmError> {
        let state = self.state.lock().clone();
        Ok(Box::new(View { commands: state.commands, last_index: state.last_index }))
    }

    async fn restore(&mut self, mut reader: SnapshotReader) -> Result<(), FsmError> {
        let last_index = LogIndex(reader.read_u64_le().await?);
        let count = reader.read_u64_le().await?;
        let mut commands = Vec::new();
        for _ in 0..count {
            let len = reader.read_u32_le().await?;
            let mut command = Vec::new();
            (&mut reader).take(u64::from(len)).read_to_end(&mut command).await?;
            if command.len() as u64 != u64::from(len) {
                return Err("the snapshot ends within a command".into());
            }
            commands.push(command.into());
        }
        *self.state.lock() = State { commands, last_index, configurations: Vec::new() };
        Ok(())
    }
}

struct View {
    commands: Vec<Bytes>,
    last_index: LogIndex,
}

#[async_trait]
impl FsmSnapshot for View {
    async fn persist(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), FsmError> {
        sink.write_u64_le(self.last_index.0).await?;
        sink.write_u64_le(self.commands.len() as u64).await?;
        for command in &self.commands {
            sink.write_u32_le(u32::try_from(command.len())?).await?;
            sink.write_all(command).await?;
        }
        Ok(())
    }
}
