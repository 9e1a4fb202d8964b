//! Which piece of a snapshot to send next: arithmetic only.
//!
//! A few pieces are under way at a time. An answer names the offset the receiver wants to be sent on
//! from: further than before in the normal case; the same again when it missed something or found a
//! piece damaged; further than anything sent when it kept much of an earlier attempt; further back
//! when it has lost what it had.
//!
//! Duplicates are answered too, so an offset that is asked for again does not by itself mean that
//! something is missing. Going back for every such answer would double everything from then on:
//! what is sent twice is answered twice. So it takes two such answers (or one, when only one piece
//! is under way), they send the window back once for each offset, and then a single piece goes out
//! until an answer shows that the receiver is moving again.

/// Pieces under way at most.
const PIECES_MAX: u64 = 4;

pub(super) struct Window {
    size: u64,
    piece: u64,
    /// The receiver has everything before this.
    acked: u64,
    /// Everything before this is under way.
    sent: u64,
    /// Whether the piece that reaches the end is under way: the end of an empty snapshot is a piece
    /// too.
    is_end_sent: bool,
    /// Whether it is not known how far the receiver is: one piece at a time.
    is_probing: bool,
    /// How often `acked` was asked for again.
    repeats: u32,
    /// Whether the window was sent back to `acked` for that.
    went_back: bool,
}

impl Window {
    pub(super) fn new(size: u64, piece: u64) -> Self {
        Self {
            size,
            piece: piece.max(1),
            acked: 0,
            sent: 0,
            is_end_sent: false,
            is_probing: true,
            repeats: 0,
            went_back: false,
        }
    }

    /// Offset and length of the piece to send now, if any.
    pub(super) fn next(&self) -> Option<(u64, u64)> {
        let pieces = if self.is_probing { 1 } else { PIECES_MAX };
        let has_room = self.sent - self.acked < pieces.saturating_mul(self.piece);
        let is_due = !self.is_end_sent && has_room;
        is_due.then(|| (self.sent, self.piece.min(self.size - self.sent)))
    }

    /// The piece that was due is under way.
    pub(super) fn sent(&mut self, len: u64) {
        self.sent += len;
        self.is_end_sent = self.sent == self.size;
    }

    /// The receiver wants to be sent on from here.
    pub(super) fn answered(&mut self, next_offset: u64) {
        // Nobody can have more than there is.
        if self.size < next_offset {
            return;
        }
        if next_offset == self.acked {
            self.repeats += 1;
            let is_single = self.sent - self.acked <= self.piece;
            if (is_single || 2 <= self.repeats) && !self.went_back {
                self.went_back = true;
                self.go_back();
            }
            return;
        }
        let is_elsewhere = next_offset < self.acked || self.sent < next_offset;
        self.acked = next_offset;
        self.repeats = 0;
        self.went_back = false;
        self.is_probing = false;
        if is_elsewhere {
            self.go_back();
            self.is_probing = false;
        }
    }

    /// There was no answer in time: what is under way is lost, and the receiver perhaps not there.
    pub(super) fn lost(&mut self) {
        self.repeats = 0;
        self.went_back = false;
        self.go_back();
    }

    fn go_back(&mut self) {
        self.sent = self.acked;
        self.is_end_sent = false;
        self.is_probing = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn send_all(window: &mut Window) -> Vec<(u64, u64)> {
        let mut pieces = Vec::new();
        while let Some((offset, len)) = window.next() {
            pieces.push((offset, len));
            window.sent(len);
        }
        pieces
    }

    #[test]
    fn one_piece_goes_ahead_and_then_a_few_at_a_time() {
        let mut window = Window::new(65, 10);
        assert_eq!(send_all(&mut window), [(0, 10)]);
        window.answered(10);
        assert_eq!(send_all(&mut window), [(10, 10), (20, 10), (30, 10), (40, 10)]);
        window.answered(20);
        assert_eq!(send_all(&mut window), [(50, 10)]);
        window.answered(50);
        assert_eq!(send_all(&mut window), [(60, 5)]);
        assert_eq!(window.next(), None);
    }

    #[test]
    fn an_empty_snapshot_is_one_empty_piece() {
        let mut window = Window::new(0, 10);
        assert_eq!(send_all(&mut window), [(0, 0)]);
        assert_eq!(window.next(), None);
        window.lost();
        assert_eq!(send_all(&mut window), [(0, 0)]);
    }

    #[test]
    fn a_receiver_that_has_much_of_it_already_is_sent_the_rest() {
        let mut window = Window::new(100, 10);
        send_all(&mut window);
        window.answered(75);
        assert_eq!(send_all(&mut window), [(75, 10), (85, 10), (95, 5)]);
    }

    #[test]
    fn a_receiver_that_has_lost_everything_is_sent_it_anew() {
        let mut window = Window::new(100, 10);
        send_all(&mut window);
        window.answered(50);
        send_all(&mut window);
        window.answered(0);
        assert_eq!(window.next(), Some((0, 10)));
    }

    #[test]
    fn what_is_asked_for_twice_is_sent_again_once() {
        let mut window = Window::new(100, 10);
        send_all(&mut window);
        window.answered(10);
        send_all(&mut window);
        window.answered(10);
        assert_eq!(window.next(), None, "it may be a duplicate's answer");
        window.answered(10);
        assert_eq!(send_all(&mut window), [(10, 10)]);
        window.answered(10);
        assert_eq!(window.next(), None, "of what was under way");
        window.answered(20);
        assert_eq!(send_all(&mut window).len(), 4);
    }

    #[test]
    fn silence_sends_the_window_back() {
        let mut window = Window::new(100, 10);
        send_all(&mut window);
        window.answered(10);
        send_all(&mut window);
        window.lost();
        assert_eq!(send_all(&mut window), [(10, 10)]);
    }

    #[test]
    fn more_than_there_is_is_not_believed() {
        let mut window = Window::new(100, 10);
        send_all(&mut window);
        window.answered(101);
        assert_eq!(window.next(), None);
    }

    /// A receiver as `receive_snapshot` is one, and a network that loses and swaps.
    fn transfer(seed: u64, size: u64, loss: u32) -> u64 {
        let mut dice = Pcg64Mcg::seed_from_u64(seed);
        let mut window = Window::new(size, 10);
        let (mut under_way, mut answers) = (VecDeque::new(), VecDeque::new());
        let (mut received, mut sent) = (0, 0);
        for _ in 0..1_000_000 {
            if received == size {
                return sent;
            }
            let is_lost = dice.random_range(0..1000) < loss;
            if let Some(piece) = window.next() {
                window.sent(piece.1);
                sent += piece.1;
                if !is_lost {
                    under_way.push_back(piece);
                }
            } else if let Some((offset, len)) = under_way.pop_front() {
                if 0 < loss && dice.random_range(0..20) == 0 {
                    under_way.push_back((offset, len));
                    continue;
                }
                if offset == received {
                    received += len;
                }
                if !is_lost {
                    answers.push_back(received);
                }
            } else if let Some(next_offset) = answers.pop_front() {
                window.answered(next_offset);
            } else {
                window.lost();
            }
        }
        panic!("seed {seed}: the transfer does not end");
    }

    #[test]
    fn every_transfer_ends_and_repeats_little() {
        assert_eq!(transfer(0, 10_005, 0), 10_005, "without losses nothing is sent twice");
        for seed in 0..200 {
            let sent = transfer(seed, 10_005, 20);
            assert!(sent < 3 * 10_005, "seed {seed}: {sent} bytes for 10,005");
        }
    }
}
