//! What travels between simulated nodes, as values; on demand through the encoding that real nodes use. And the
//! transport that Raft calls.
//!
//! A transport only hands a call to the world and waits; fate and time of every packet are the world's.

use portolan_limits::Start;
use portolan_model::{NodeName, codec};
use portolan_node::Message;
use portolan_raft::{Request, Response, Transport, Unreachable};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, timeout},
};

/// One packet's content.
#[derive(Serialize, Deserialize)]
pub enum Wire {
    /// From node to node.
    Node(Message),
    /// A call of Raft, with its number.
    Request(u64, Request),
    /// The answer to the call with this number.
    Response(u64, Response),
}

impl Wire {
    /// What it is, as a number for the trace.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Node(Message::Heartbeat(_)) => 0,
            Self::Node(Message::Gossip(_)) => 1,
            Self::Node(Message::Limits(_)) => 2,
            Self::Request(..) => 4,
            Self::Response(..) => 5,
        }
    }

    /// What it is, for people.
    pub fn words(&self) -> String {
        match self {
            Self::Node(message) => format!("{message:?}"),
            Self::Request(call, request) => format!("call {call}: {request:?}"),
            Self::Response(call, response) => format!("answer {call}: {response:?}"),
        }
    }

    /// A second one like it; only datagrams come twice, and those are between nodes.
    pub fn copy(&self) -> Option<Self> {
        match self {
            Self::Node(message) => Some(Self::Node(message.clone())),
            Self::Request(..) | Self::Response(..) => None,
        }
    }
}

/// Identifies one life of one node: place in the list of hosts and number of starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Place in the list of hosts.
    pub host: usize,
    /// Starts so far.
    pub number: u64,
}

/// What tasks beside the world's loop ask of it.
pub enum Errand {
    /// Raft calls another node.
    Call {
        /// The caller.
        from: Life,
        /// The callee.
        to: NodeName,
        /// What is asked.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<Response>,
    },
    /// A start of the limits is noted on disk.
    LimitsNoted {
        /// The process.
        life: Life,
        /// What they start with.
        start: Start,
    },
    /// Raft has answered the call that `caller` made.
    Answer {
        /// The answering node.
        from: Life,
        /// The calling node.
        caller: Life,
        /// The call's number.
        call: u64,
        /// The answer.
        response: Response,
    },
    /// Raft of a host has started, or failed to.
    Started {
        /// The host.
        life: Life,
        /// The running Raft, or why there is none.
        raft: Result<portolan_raft::Raft, String>,
    },
    /// A host's Raft has applied something.
    Applied {
        /// The host.
        life: Life,
    },
    /// An operator's order has an outcome.
    Ordered {
        /// The order's number.
        order: usize,
        /// What came of it.
        outcome: Result<portolan_config::Applied, portolan_raft::ProposeError>,
    },
}

impl Errand {
    /// The process that it comes from, where that is one: nothing leaves a process that is stopped.
    pub fn speaker(&self) -> Option<Life> {
        match self {
            Self::Call { from, .. } | Self::Answer { from, .. } => Some(*from),
            Self::Started { life, .. } | Self::Applied { life } | Self::LimitsNoted { life, .. } => Some(*life),
            Self::Ordered { .. } => None,
        }
    }
}

/// Sends the world on errands.
pub type Errands = mpsc::UnboundedSender<Errand>;

/// Raft's way to other nodes.
#[derive(Clone)]
pub struct SimulatedTransport {
    /// The node it belongs to.
    pub life: Life,
    /// The world.
    pub errands: Errands,
}

impl Transport for SimulatedTransport {
    async fn call(&self, target: &NodeName, request: Request, limit: Duration) -> Result<Response, Unreachable> {
        let (reply, answer) = oneshot::channel();
        let call = Errand::Call { from: self.life, to: target.clone(), request, reply };
        if self.errands.send(call).is_err() {
            return Err(Unreachable::NotSent { reason: "the world has ended".to_owned() });
        }
        match timeout(limit, answer).await {
            Ok(Ok(response)) => Ok(response),
            _ => Err(Unreachable::NoAnswer { reason: "no answer in time".to_owned() }),
        }
    }
}

/// Encodes a packet's content.
pub fn encode(wire: &Wire) -> Vec<u8> {
    codec::encode(wire).expect("what nodes say to each other is bounded below the codec's limit")
}

/// What the other side would read, through the encoding that real nodes use.
pub fn checked(wire: Wire) -> Wire {
    let bytes = encode(&wire);
    let read: Wire = codec::decode(&bytes).expect("what is written can be read");
    assert_eq!(encode(&read), bytes, "what is read is what was written");
    read
}
