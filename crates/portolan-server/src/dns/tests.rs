//! The handler over loopback with packets written byte by byte.

use std::{net::IpAddr, time::Duration};

use portolan_geodns::{Answer, Rcode, qtype};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::*;

const FORMERR: u8 = 1;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// Family, source, scope and address octets.
type SubnetOption = (u16, u8, u8, &'static [u8]);

/// One question in the words of the wire.
struct Packet {
    opcode: u8,
    name: &'static str,
    qtype: u16,
    class: u16,
    /// EDNS version and client subnet option.
    edns: Option<(u8, Option<SubnetOption>)>,
}

impl Packet {
    fn a(name: &'static str) -> Self {
        Self { opcode: 0, name, qtype: qtype::A, class: 1, edns: None }
    }

    fn subnet(family: u16, source: u8, scope: u8, address: &'static [u8]) -> Self {
        Self { edns: Some((0, Some((family, source, scope, address)))), ..Self::a("api.example.test") }
    }

    fn bytes(&self) -> Vec<u8> {
        let additionals = u8::from(self.edns.is_some());
        let mut bytes = vec![0xab, 0xcd, self.opcode << 3, 0, 0, 1, 0, 0, 0, 0, 0, additionals];
        for label in self.name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend_from_slice(&self.qtype.to_be_bytes());
        bytes.extend_from_slice(&self.class.to_be_bytes());
        if let Some((version, subnet)) = self.edns {
            bytes.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, version, 0, 0]);
            let option = subnet.map_or(Vec::new(), |(family, source, scope, address)| {
                let len = 4 + address.len() as u16;
                [&[0, 8], &len.to_be_bytes()[..], &family.to_be_bytes(), &[source, scope], address].concat()
            });
            bytes.extend_from_slice(&(option.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&option);
        }
        bytes
    }
}

/// A table with one name, and a large one to be truncated.
fn resolve(query: &Query<'_>) -> Answer {
    let found = Answer {
        rcode: Rcode::NoError,
        authoritative: true,
        addresses: vec!["192.0.2.1".parse().expect("an address")],
        ns: Vec::new(),
        soa: None,
        ttl: Duration::from_secs(30),
        ecs_scope: query.client.from_ecs.then_some(20),
        region: None,
    };
    match query.name {
        "api.example.test" => found,
        "large.example.test" => {
            let addresses = (0..200).map(|n| IpAddr::from([192, 0, 2, n])).collect();
            Answer { addresses, ..found }
        }
        "gone.example.test" => Answer { rcode: Rcode::NxDomain, addresses: Vec::new(), ..found },
        _ => Answer { rcode: Rcode::Refused, authoritative: false, addresses: Vec::new(), ..found },
    }
}

struct Running {
    address: SocketAddr,
    counters: Arc<DnsCounters>,
    _tasks: JoinSet<()>,
}

fn start() -> Running {
    // The number that the system chooses for UDP may be taken for TCP, by whatever else runs.
    let bind = |_| DnsSockets::bind(([127, 0, 0, 1], 0).into()).ok();
    let sockets = (0..16).find_map(bind).expect("loopback can be bound");
    let address = sockets.local_address().expect("bound");
    let counters = Arc::new(DnsCounters::default());
    let mut tasks = JoinSet::new();
    sockets.serve(Arc::new(resolve), Arc::clone(&counters), &mut tasks);
    Running { address, counters, _tasks: tasks }
}

async fn ask(server: &Running, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.expect("loopback can be bound");
    socket.send_to(packet, server.address).await.expect("loopback takes it");
    let mut answer = vec![0; 4096];
    let len = timeout(Duration::from_millis(500), socket.recv(&mut answer)).await.ok()?.ok()?;
    answer.truncate(len);
    Some(answer)
}

async fn check(server: &Running, packet: Packet, rcode: u8, answers: u16) -> Vec<u8> {
    let answer = ask(server, &packet.bytes()).await.expect("an answer");
    assert_eq!(answer[..2], [0xab, 0xcd], "the id is repeated");
    assert_eq!(answer[3] & 0xf, rcode, "response code for {} {:?}", packet.name, packet.edns);
    assert_eq!(u16::from_be_bytes([answer[6], answer[7]]), answers, "answers for {}", packet.name);
    answer
}

#[tokio::test]
async fn each_kind_of_query_gets_the_code_its_rfc_asks_for() {
    let server = start();
    let found = check(&server, Packet::a("api.example.test"), 0, 1).await;
    assert_eq!(found[2] & 0x04, 0x04, "the answer is authoritative");
    assert!(found.ends_with(&[0, 4, 192, 0, 2, 1]));
    check(&server, Packet::a("API.Example.TEST"), 0, 1).await;
    check(&server, Packet::a("gone.example.test"), NXDOMAIN, 0).await;
    check(&server, Packet::a("other.test"), REFUSED, 0).await;
    check(&server, Packet { class: 3, ..Packet::a("api.example.test") }, REFUSED, 0).await;
    check(&server, Packet { qtype: 252, ..Packet::a("example.test") }, REFUSED, 0).await;
    check(&server, Packet { opcode: 4, ..Packet::a("api.example.test") }, NOTIMP, 0).await;
    // BADVERS is 16: 0 in the header, 1 in the OPT record's first TTL octet.
    let badvers = check(&server, Packet { edns: Some((1, None)), ..Packet::a("api.example.test") }, 0, 0).await;
    assert!(badvers.windows(8).any(|w| w[..3] == [0, 0, 41] && w[5] == 1), "extended code in {badvers:?}");
    assert_eq!(server.counters.snapshot().find(|(label, _)| *label == "refused"), Some(("refused", 3)));
}

#[tokio::test]
async fn a_client_subnet_is_echoed_with_its_scope_and_a_malformed_one_is_an_error() {
    let server = start();
    let echoed = check(&server, Packet::subnet(1, 24, 0, &[198, 51, 100]), 0, 1).await;
    assert!(echoed.ends_with(&[0, 8, 0, 7, 0, 1, 24, 20, 198, 51, 100]), "{echoed:?}");
    let anonymous = check(&server, Packet::subnet(1, 0, 0, &[]), 0, 1).await;
    assert!(anonymous.ends_with(&[0, 8, 0, 4, 0, 1, 0, 0]), "{anonymous:?}");
    check(&server, Packet::subnet(1, 20, 0, &[198, 51, 101]), FORMERR, 0).await;
    check(&server, Packet::subnet(1, 24, 24, &[198, 51, 100]), FORMERR, 0).await;
    check(&server, Packet::subnet(1, 40, 0, &[198, 51, 100, 1, 1]), FORMERR, 0).await;
    check(&server, Packet::subnet(1, 24, 0, &[198, 51, 100, 0]), FORMERR, 0).await;
    check(&server, Packet::subnet(7, 24, 0, &[198, 51, 100]), FORMERR, 0).await;
}

#[tokio::test]
async fn an_answer_too_large_for_udp_is_truncated_and_whole_over_tcp() {
    let server = start();
    let packet = Packet::a("large.example.test").bytes();
    let short = ask(&server, &packet).await.expect("an answer");
    assert!(short.len() <= 512 && short[2] & 0x02 == 0x02, "TC is set");
    let mut stream = TcpStream::connect(server.address).await.expect("accepts");
    for _ in 0..2 {
        let framed = [&(packet.len() as u16).to_be_bytes(), packet.as_slice()].concat();
        stream.write_all(&framed).await.expect("writes");
        let len = stream.read_u16().await.expect("a length");
        let mut answer = vec![0; len.into()];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(u16::from_be_bytes([answer[6], answer[7]]), 200);
    }
}

#[tokio::test]
async fn garbage_is_dropped_or_refused_and_the_server_lives_on() {
    let server = start();
    let whole = Packet::subnet(1, 24, 0, &[198, 51, 100]).bytes();
    for len in 0..whole.len() {
        if let Some(answer) = ask_quickly(&server, &whole[..len]).await {
            assert_eq!(answer[3] & 0xf, FORMERR, "cut at {len}");
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.expect("loopback can be bound");
    for round in 0..2000 {
        let mut noisy = whole.clone();
        for _ in 0..1 + round % 8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % noisy.len();
            noisy[at] = (state >> 17) as u8;
        }
        socket.send_to(&noisy, server.address).await.expect("loopback takes it");
    }
    let mut stream = TcpStream::connect(server.address).await.expect("accepts");
    stream.write_all(&[0, 13, 1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0xff]).await.expect("writes");
    let mut refused = [0; 14];
    stream.read_exact(&mut refused).await.expect("an answer");
    assert_eq!(refused[5] & 0xf, FORMERR);
    check(&server, Packet::a("api.example.test"), 0, 1).await;
}

#[tokio::test]
async fn responses_are_never_answered_and_malformed_queries_are_counted() {
    let server = start();
    let whole = Packet::a("api.example.test").bytes();
    let as_response = |mut packet: Vec<u8>| {
        packet[2] |= 0x80;
        packet
    };
    let broken = whole[..whole.len() - 3].to_vec();
    for response in [as_response(whole.clone()), as_response(broken.clone()), as_response(whole[..12].to_vec())] {
        assert_eq!(ask_quickly(&server, &response).await, None);
    }
    let refused = ask(&server, &broken).await.expect("an answer");
    assert_eq!(refused[3] & 0xf, FORMERR);
    assert_eq!(server.counters.snapshot().find(|(label, _)| *label == "formerr"), Some(("formerr", 1)));
}

async fn ask_quickly(server: &Running, packet: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.expect("loopback can be bound");
    socket.send_to(packet, server.address).await.expect("loopback takes it");
    let mut answer = vec![0; 4096];
    let len = timeout(Duration::from_millis(50), socket.recv(&mut answer)).await.ok()?.ok()?;
    answer.truncate(len);
    Some(answer)
}
