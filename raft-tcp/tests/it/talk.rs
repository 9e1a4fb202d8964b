//! Peers that behave.

use crate::common::*;
use raft::Transport as _;

#[tokio::test]
async fn both_lanes_deliver_in_both_directions() {
    let (mut a, mut b) = (node("a").await, node("b").await);
    talk(&a, &mut b).await;
    talk(&b, &mut a).await;
    soon("close", a.transport.close()).await;
    soon("close", b.transport.close()).await;
}
