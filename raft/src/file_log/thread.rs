//! The thread that writes, and how async code hands it work: a write costs two wake-ups beside the disk's
//! own time. The thread ends when the last handle is dropped, and the directory is free then.

use std::{
    fs::File,
    panic::{self, AssertUnwindSafe},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use super::writer::Writer;
use crate::store_error::StoreError;

type Work = Box<dyn FnOnce(&mut Writer) + Send>;

/// A running writer.
pub(super) struct WriterThread {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    /// Held for its lock on the directory; closed after the thread has ended.
    _lock: File,
}

impl WriterThread {
    pub(super) fn start(mut writer: Writer, lock: File) -> Result<Self, StoreError> {
        let (work, queue) = mpsc::channel::<Work>();
        let run = move || {
            for work in queue {
                if panic::catch_unwind(AssertUnwindSafe(|| work(&mut writer))).is_err() {
                    writer.failure.get_or_insert("the writer has panicked".to_owned());
                }
            }
            // What is being prepared renames a file at last, and must not do so in a log that was opened again.
            writer.end();
        };
        let thread = thread::Builder::new().name("raft-log".to_owned()).spawn(run);
        let cannot = |error| StoreError::io("cannot start the thread that writes the log", error);
        let thread = Some(thread.map_err(cannot)?);
        Ok(Self { work: Some(work), thread, _lock: lock })
    }

    /// Has the writer do this. It is done even if the future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |writer| {
            let _ = answer.send(work(writer));
        });
        let is_sent = self.work.as_ref().is_some_and(|queue| queue.send(work).is_ok());
        match answered.await {
            Ok(result) if is_sent => result,
            _ => {
                Err(StoreError::Refused { reason: "the writer of the log has panicked".to_owned() })
            }
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
