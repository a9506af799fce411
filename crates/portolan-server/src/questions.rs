//! What the admin API asks of the node's loop. Decides whose turn it is when messages and questions both come without
//! end, and how old an answer may be that many share. Never lets questions hold messages up: anybody may ask for metrics.

use std::{sync::Arc, time::Duration};

use portolan_config::LimitId;
use portolan_limits::{Key, KeyUsage};
use portolan_model::Timestamp;
use portolan_node::NodeStatus;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the loop; whoever asks beyond it waits.
const QUESTIONS: usize = 64;

/// Messages taken in one turn before the node's outputs are looked at.
const BATCH: usize = 64;

/// Counters that the loop looks at in one turn.
const PIECE: usize = 100;

/// How old a status may be that is shared: building one reads every counter.
const STATUS_AGE: Duration = Duration::from_millis(250);

/// What the loop is asked for; it answers between two turns.
pub enum Question {
    /// The node's status, not older than 250 ms.
    Status(oneshot::Sender<Arc<NodeStatus>>),
    /// Some counters.
    Counters(Vec<(LimitId, Key)>, oneshot::Sender<Vec<Option<KeyUsage>>>),
}

/// Asks the loop about the node.
#[derive(Clone)]
pub struct NodeQueries(mpsc::Sender<Question>);

impl NodeQueries {
    /// A handle for askers and the end that the loop takes.
    pub fn new() -> (Self, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(QUESTIONS);
        (Self(sender), receiver)
    }

    /// The node's status; `None` when the loop has ended.
    pub async fn status(&self) -> Option<Arc<NodeStatus>> {
        self.ask(Question::Status).await
    }

    /// What the node knows of each of some counters; the loop is asked for a few at a time.
    pub async fn counters(&self, counters: &[(LimitId, Key)]) -> Option<Vec<Option<KeyUsage>>> {
        let mut known = Vec::with_capacity(counters.len());
        for piece in counters.chunks(PIECE) {
            known.extend(self.ask(|answer| Question::Counters(piece.to_vec(), answer)).await?);
        }
        Some(known)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(question(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Messages and questions, by turns while there are both.
pub struct Inbox<M> {
    messages: mpsc::Receiver<M>,
    questions: mpsc::Receiver<Question>,
    asked_last: bool,
}

/// What is next in an [`Inbox`].
pub enum Next<M> {
    /// Messages, in the order they came.
    Messages(Vec<M>),
    /// One question.
    Question(Question),
    /// No message will come any more.
    End,
}

impl<M> Inbox<M> {
    /// Takes both ends.
    pub fn new(messages: mpsc::Receiver<M>, questions: mpsc::Receiver<Question>) -> Self {
        Self { messages, questions, asked_last: false }
    }

    /// Waits for messages or a question. Nothing is lost when it is dropped before it is ready.
    pub async fn next(&mut self) -> Next<M> {
        let mut batch = Vec::new();
        let next = if self.asked_last {
            tokio::select! {
                biased;
                taken = self.messages.recv_many(&mut batch, BATCH) => Err(taken),
                Some(question) = self.questions.recv() => Ok(question),
            }
        } else {
            tokio::select! {
                biased;
                Some(question) = self.questions.recv() => Ok(question),
                taken = self.messages.recv_many(&mut batch, BATCH) => Err(taken),
            }
        };
        self.asked_last = next.is_ok();
        match next {
            Ok(question) => Next::Question(question),
            Err(0) => Next::End,
            Err(_) => Next::Messages(batch),
        }
    }
}

/// A value that is made at most four times a second, however often it is asked for.
pub struct Recent<T>(Option<(Timestamp, Arc<T>)>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Recent<T> {
    /// The value, made anew when it is too old.
    pub fn share(&mut self, now: Timestamp, make: impl FnOnce() -> T) -> Arc<T> {
        match &self.0 {
            Some((made, value)) if now.since(*made) < STATUS_AGE => Arc::clone(value),
            _ => {
                let value = Arc::new(make());
                self.0 = Some((now, Arc::clone(&value)));
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::HashKey;

    use super::*;

    #[tokio::test]
    async fn questions_without_end_let_messages_through_and_the_other_way_round() {
        let (messages, heard) = mpsc::channel(1024);
        let (asks, asked) = mpsc::channel(QUESTIONS);
        for number in 0..QUESTIONS {
            asks.try_send(Question::Status(oneshot::channel().0)).expect("room");
            (0..3).for_each(|_| messages.try_send(number).expect("room"));
        }
        let mut inbox = Inbox::new(heard, asked);
        let (mut questions, mut taken) = (0, 0);
        for _ in 0..6 {
            match inbox.next().await {
                Next::Messages(batch) => taken += batch.len(),
                Next::Question(_) => questions += 1,
                Next::End => panic!("both go on"),
            }
        }
        assert_eq!((questions, taken), (3, 3 * BATCH));
    }

    #[tokio::test]
    async fn questions_are_answered_while_there_are_no_messages() {
        let (_messages, heard) = mpsc::channel::<u8>(1);
        let (asks, asked) = mpsc::channel(QUESTIONS);
        let mut inbox = Inbox::new(heard, asked);
        for _ in 0..3 {
            asks.try_send(Question::Status(oneshot::channel().0)).expect("room");
            assert!(matches!(inbox.next().await, Next::Question(_)));
        }
    }

    #[tokio::test]
    async fn many_counters_are_looked_at_a_few_in_a_turn() {
        let (queries, mut asked) = NodeQueries::new();
        let answering = tokio::spawn(async move {
            let mut pieces = Vec::new();
            while let Some(Question::Counters(piece, answer)) = asked.recv().await {
                pieces.push(piece.len());
                answer.send(vec![None; piece.len()]).expect("it waits");
            }
            pieces
        });
        let counters = vec![(LimitId(1), Key::new(&HashKey::new([7; 16]), LimitId(1), &[])); 2 * PIECE + 1];
        assert_eq!(queries.counters(&counters).await.map(|known| known.len()), Some(2 * PIECE + 1));
        drop(queries);
        assert_eq!(answering.await.expect("no panic"), [PIECE, PIECE, 1]);
    }

    #[test]
    fn all_who_ask_within_a_quarter_of_a_second_share_one_status() {
        let mut recent = Recent::default();
        let mut made = 0;
        for ms in (0..1000).step_by(10) {
            let now = Timestamp::ZERO + Duration::from_millis(ms);
            recent.share(now, || made += 1);
        }
        assert_eq!(made, 4);
    }
}
