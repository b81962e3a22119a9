//! Sorted ranges with equal neighbours: etcd promises no order among them.

use trivet_store_etcd::proto::{etcdserverpb as pb, mvccpb::KeyValue};

use crate::answer::Answer;
use crate::op::Op;
use pb::range_request::SortTarget;

/// Puts equal neighbours in the order of their keys, and forgets which of the last ones a limit
/// left out.
pub(crate) fn settle(op: &Op, answer: &mut Answer) {
    match (op, answer) {
        (Op::Range(request), Answer::Range(response)) => range(request, response),
        (Op::Txn(request), Answer::Txn(response)) => txn(request, response),
        _ => {}
    }
}

fn txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    use pb::{request_op::Request, response_op::Response};
    let steps = match response.succeeded {
        true => &request.success,
        false => &request.failure,
    };
    for (step, result) in steps.iter().zip(&mut response.responses) {
        match (&step.request, &mut result.response) {
            (Some(Request::RequestRange(step)), Some(Response::ResponseRange(result))) => {
                range(step, result);
            }
            (Some(Request::RequestTxn(step)), Some(Response::ResponseTxn(result))) => {
                txn(step, result);
            }
            _ => {}
        }
    }
}

fn range(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    let Ok(target) = SortTarget::try_from(request.sort_target) else {
        return;
    };
    if target == SortTarget::Key {
        return;
    }
    let equal = |a: &KeyValue, b: &KeyValue| match target {
        SortTarget::Key => a.key == b.key,
        SortTarget::Version => a.version == b.version,
        SortTarget::Create => a.create_revision == b.create_revision,
        SortTarget::Mod => a.mod_revision == b.mod_revision,
        // Without the values every pair may be a tie.
        SortTarget::Value => request.keys_only || a.value == b.value,
    };
    let ends: Vec<usize> = response
        .kvs
        .chunk_by(equal)
        .scan(0, |end, group| {
            *end += group.len();
            Some(*end)
        })
        .collect();
    let mut start = 0;
    for (place, end) in ends.iter().enumerate() {
        let group = &mut response.kvs[start..*end];
        if response.more && place + 1 == ends.len() {
            for pair in group {
                *pair = match target {
                    SortTarget::Version => KeyValue {
                        version: pair.version,
                        ..Default::default()
                    },
                    SortTarget::Create => KeyValue {
                        create_revision: pair.create_revision,
                        ..Default::default()
                    },
                    SortTarget::Mod => KeyValue {
                        mod_revision: pair.mod_revision,
                        ..Default::default()
                    },
                    SortTarget::Key | SortTarget::Value => KeyValue {
                        value: pair.value.clone(),
                        ..Default::default()
                    },
                };
            }
        } else {
            group.sort_by(|a, b| a.key.cmp(&b.key));
        }
        start = *end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(keys: &[(&'static str, i64)], more: bool) -> Answer {
        let pair = |&(key, version): &(&'static str, i64)| KeyValue {
            key: key.into(),
            version,
            ..Default::default()
        };
        Answer::Range(pb::RangeResponse {
            kvs: keys.iter().map(pair).collect(),
            more,
            ..Default::default()
        })
    }

    #[test]
    fn only_ties_may_change_places() {
        let op = |target: SortTarget| {
            Op::Range(pb::RangeRequest {
                sort_target: target.into(),
                ..Default::default()
            })
        };
        let by_version = op(SortTarget::Version);
        let settled = |mut answer, op: &Op| {
            settle(op, &mut answer);
            answer
        };
        let one = settled(answer(&[("b", 1), ("a", 1), ("c", 2)], false), &by_version);
        assert_eq!(
            one,
            settled(answer(&[("a", 1), ("b", 1), ("c", 2)], false), &by_version)
        );
        assert_ne!(
            one,
            settled(answer(&[("a", 1), ("c", 2), ("b", 1)], false), &by_version)
        );
        // The limit cut among the twos: which one stayed is open, that it is a two is not.
        let cut = settled(answer(&[("a", 1), ("b", 2)], true), &by_version);
        assert_eq!(
            cut,
            settled(answer(&[("a", 1), ("c", 2)], true), &by_version)
        );
        assert_ne!(
            cut,
            settled(answer(&[("a", 1), ("c", 3)], true), &by_version)
        );
        let by_key = op(SortTarget::Key);
        assert_ne!(
            settled(answer(&[("b", 1), ("a", 1)], false), &by_key),
            settled(answer(&[("a", 1), ("b", 1)], false), &by_key)
        );
    }
}
