//! Gives each fleet a loopback network of its own, 127.X.0.0/16, so that tests of several processes never meet.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process,
};

/// Networks that tests may take; 127.10.0.0/16 stays with whoever runs `up` by hand.
const FIRST: u8 = 20;
const LAST: u8 = 250;

/// Bound as long as a network is taken.
const LOCK_PORT: u16 = 7;

/// A network that is taken until this is dropped.
#[derive(Debug)]
pub struct Network {
    number: u8,
    _lock: UdpSocket,
}

impl Network {
    /// Takes a free one.
    pub fn take() -> Self {
        let count = u32::from(LAST - FIRST) + 1;
        let start = process::id() % count;
        (0..count)
            .map(|offset| FIRST + u8::try_from((start + offset) % count).expect("below 256"))
            .find_map(|number| {
                let address = SocketAddr::from((Ipv4Addr::new(127, number, 255, 254), LOCK_PORT));
                let lock = UdpSocket::bind(address).ok()?;
                is_free(number).then_some(Self { number, _lock: lock })
            })
            .expect("one of 231 loopback networks is free")
    }

    /// As `up --network` takes it.
    pub fn name(&self) -> String {
        format!("127.{}.0.0/16", self.number)
    }

    /// The address of the k-th region by name, counted from 1.
    pub fn address(&self, k: u8) -> IpAddr {
        Ipv4Addr::new(127, self.number, k, 1).into()
    }

    /// Text written for the shipped network, moved here.
    pub fn moved(&self, text: &str) -> String {
        text.replace("127.10.", &format!("127.{}.", self.number))
    }
}

/// Whether nobody who takes no lock listens where a fleet would.
fn is_free(number: u8) -> bool {
    (1..=3).all(|k| {
        let at = |port| SocketAddr::from((Ipv4Addr::new(127, number, k, 1), port));
        [8443, 8900, 9101].into_iter().all(|port| TcpListener::bind(at(port)).is_ok())
            && UdpSocket::bind(at(8700)).is_ok()
    })
}
