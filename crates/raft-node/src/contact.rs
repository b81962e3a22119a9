//! Who of the others can be reached, and for how long.
//!
//! Every member asks every other one now and then, not only those it exchanges the log with:
//! whether a change of members is safe is decided on the member that was asked for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::peers::proto::{self, call_request, call_response};
use crate::shared::Shared;

/// How often the others are asked, and how often while one of them does not answer.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MISSING: Duration = Duration::from_millis(500);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps [`Shared::contacts`] true.
pub(crate) async fn keep_contact(node: Arc<Shared>) {
    let mut complaint = String::new();
    let mut membership = node.machine.watch_membership();
    loop {
        membership.borrow_and_update();
        let others: Vec<u64> = {
            let membership = node.membership();
            let ids = membership.nodes().map(|(id, _)| *id);
            ids.filter(|id| *id != node.local.id).collect()
        };
        let asked = others.iter().map(|id| reach(&node, *id));
        let answers = futures_util::future::join_all(asked).await;
        let now = Instant::now();
        let mut refusal = None;
        let mut missing = false;
        {
            let mut contacts = node.contacts();
            contacts.retain(|id, _| others.contains(id));
            for (id, answer) in others.iter().zip(answers) {
                match answer {
                    Ok(()) => {
                        contacts.entry(*id).or_insert(now);
                    }
                    Err(refused) => {
                        contacts.remove(id);
                        missing = true;
                        refusal = refusal.or(refused);
                    }
                }
            }
        }
        // Said once, and again when it changes.
        if let Some(reason) = refusal
            && reason != complaint
        {
            tracing::warn!(
                reason,
                "a peer does not take this member for one of its own"
            );
            complaint = reason;
        }
        let pause = if missing { INTERVAL_MISSING } else { INTERVAL };
        // A new member is asked at once.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = membership.changed() => if changed.is_err() { return },
        }
    }
}

impl Shared {
    /// A member asks whether this one lives, hence lives itself: no need to wait until it is
    /// asked.
    pub(crate) fn heard_from(&self, id: u64) {
        if id != self.local.id && self.membership().get_node(&id).is_some() {
            self.contacts().entry(id).or_insert_with(Instant::now);
        }
    }
}

/// Whether a member answers; if it does so only to refuse, why.
async fn reach(node: &Shared, id: u64) -> Result<(), Option<String>> {
    let to = node.peer_address(id).ok_or(None)?;
    let request = proto::CallRequest {
        header: Some(node.header(id)),
        body: Some(call_request::Body::Ping(proto::Ping {})),
    };
    match node.transport.call(&to, request, PATIENCE).await {
        Ok(proto::CallResponse {
            body: Some(call_response::Body::Pong(_)),
        }) => Ok(()),
        Ok(proto::CallResponse {
            body: Some(call_response::Body::Failure(failure)),
        }) if failure.kind() == proto::failure::Kind::Refused => Err(Some(failure.message)),
        _ => Err(None),
    }
}
