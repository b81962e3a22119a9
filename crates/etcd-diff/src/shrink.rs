//! The shortest run that still shows a mismatch.

use std::future::Future;

use crate::op::Op;
use crate::run::Mismatch;

/// Leaves out ever smaller parts of a run as long as it still ends in a mismatch, with at most
/// this many attempts. The operations that are left, and the mismatch they end in.
pub async fn shrink<F, Attempt>(
    mut ops: Vec<Op>,
    mut attempts: usize,
    mut attempt: F,
) -> (Vec<Op>, Option<Mismatch>)
where
    F: FnMut(Vec<Op>) -> Attempt,
    Attempt: Future<Output = Option<Mismatch>>,
{
    let mut found = None;
    let mut part = ops.len() / 2;
    while part > 0 && attempts > 0 {
        let mut start = 0;
        // The last operation is the one that showed it.
        while start + part < ops.len() && attempts > 0 {
            attempts -= 1;
            let mut fewer = ops.clone();
            fewer.drain(start..start + part);
            match attempt(fewer.clone()).await {
                Some(mismatch) => {
                    fewer.truncate(mismatch.index + 1);
                    ops = fewer;
                    found = Some(mismatch);
                }
                None => start += part,
            }
        }
        part = part.min(ops.len()) / 2;
    }
    (ops, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_matter_is_left_out() {
        let ops: Vec<Op> = (0..64).map(Op::HashKv).collect();
        // Shows when 17 comes before 63.
        let attempt = |ops: Vec<Op>| async move {
            let first = ops.iter().position(|op| *op == Op::HashKv(17))?;
            let index = ops.iter().position(|op| *op == Op::HashKv(63))?;
            (first < index).then(|| Mismatch {
                index,
                op: String::new(),
                ours: String::new(),
                theirs: String::new(),
            })
        };
        let (left, mismatch) = shrink(ops, 200, attempt).await;
        assert_eq!(left, [Op::HashKv(17), Op::HashKv(63)]);
        assert_eq!(mismatch.unwrap().index, 1);
    }
}
