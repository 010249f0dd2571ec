//! Answers of many endpoints that are asked at once.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tonic::Status;

/// Waits for all answers, in the order of the questions, but for none after the first that `fails` the call: the others are dropped.
pub(super) async fn gather<T>(
    asking: impl Iterator<Item = impl Future<Output = T>>,
    fails: impl Fn(&T) -> Option<Status>,
) -> Result<Vec<T>, Status> {
    let asking = asking.enumerate().map(|(index, answer)| async move { (index, answer.await) });
    let mut open: FuturesUnordered<_> = asking.collect();
    let mut answers = Vec::with_capacity(open.len());
    while let Some((index, answer)) = open.next().await {
        if let Some(status) = fails(&answer) {
            return Err(status);
        }
        answers.push((index, answer));
    }
    answers.sort_unstable_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
