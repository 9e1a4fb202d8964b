//! Taking an element from a queue if it is wanted. The standard library has it from Rust 1.93 on, which is
//! newer than the oldest compiler that this crate is meant for.

use std::collections::VecDeque;

/// As `VecDeque::pop_front_if` and `pop_back_if`.
pub(crate) trait PopIf<T> {
    /// Removes the first element and returns it, if it is `wanted`.
    fn take_front_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T>;

    /// Removes the last element and returns it, if it is `wanted`.
    fn take_back_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T>;
}

impl<T> PopIf<T> for VecDeque<T> {
    fn take_front_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.front().is_some_and(wanted) { self.pop_front() } else { None }
    }

    fn take_back_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.back().is_some_and(wanted) { self.pop_back() } else { None }
    }
}
