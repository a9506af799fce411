//! The lender against a real Redis server: what it lends, and what happens when it is gone, slow or forgetful. Passes
//! without testing anything where no `redis-server` is installed.

use std::time::{Duration, Instant};

use portolan_config::LimitId;
use portolan_limits::{Granted, Key, LoanReply, LoanRequest};
use portolan_model::{HashKey, MemberId, Name, RegionId};
use portolan_server::{
    Clock,
    lender::{Asker, Lender, LenderNews},
};
use portolan_tests::{Redis, Relay};
use tokio::{sync::mpsc, time::timeout};

/// Longer than anything here may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One region with its lender.
struct Region {
    lender: Lender,
    news: mpsc::Receiver<LenderNews>,
}

impl Region {
    fn new(name: &'static str, url: &str) -> Self {
        Self::of(MemberId(1), name, url)
    }

    /// A region of the cluster that a member founded.
    fn of(founder: MemberId, name: &'static str, url: &str) -> Self {
        let (sender, news) = mpsc::channel(1024);
        let config = portolan_config::Lender { name: Name::new("main").expect("a name"), redis: url.into() };
        let (cluster, region) = (Name::new("test").expect("a name"), RegionId::new(name).expect("a name"));
        let asker = Asker { cluster, founder, region };
        let lender = Lender::start(&config.into(), &asker, Clock::start(), sender);
        Self { lender: lender.expect("the URL is sound"), news }
    }

    fn request(&self, sequence: u64, held: u64, wanted: u64) -> LoanRequest {
        LoanRequest {
            limit: LimitId(1),
            key: Key::new(&HashKey::new([7; 16]), LimitId(1), &[]),
            slot: 77,
            sequence,
            held,
            units: wanted,
            quota: 100,
            slot_begins: Clock::start().now().wall,
            slot_ends: Clock::start().now().wall + Duration::from_secs(60),
        }
    }

    async fn next(&mut self) -> LenderNews {
        timeout(PATIENCE, self.news.recv()).await.expect("news come").expect("the lender lives")
    }

    /// Asks until it is answered: a lender needs a moment to connect.
    async fn ask(&mut self, request: LoanRequest) -> u64 {
        self.granted(request).await.held
    }

    async fn granted(&mut self, request: LoanRequest) -> Granted {
        loop {
            if let Some(granted) = self.ask_once(request.clone()).await {
                return granted;
            }
        }
    }

    async fn ask_once(&mut self, request: LoanRequest) -> Option<Granted> {
        assert!(self.lender.ask(request.clone()));
        loop {
            match self.next().await {
                LenderNews::Loan(LoanReply { sequence, granted, .. }) if sequence == request.sequence => {
                    return granted;
                }
                LenderNews::Loan(_) | LenderNews::Judged => {}
            }
        }
    }

    /// Asks in vain until the lender is given up, or in earnest until it is trusted again.
    async fn until_reachable(&mut self, wanted: bool) -> Duration {
        let began = Instant::now();
        let told = async {
            let mut sequence = 1000;
            loop {
                assert!(self.lender.ask(self.request(sequence, 0, 1)));
                sequence += 1;
                match self.news.recv().await.expect("the lender lives") {
                    LenderNews::Judged if self.lender.counters().is_reachable() == wanted => return,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(PATIENCE, told).await.expect("it is told");
        began.elapsed()
    }
}

#[tokio::test]
async fn regions_together_are_lent_the_quota_and_no_more() {
    let Some(server) = Redis::start().await else { return };
    let mut regions = ["a", "b", "c"].map(|name| Region::new(name, &server.url()));
    let mut lent = [0; 3];
    for sequence in 1..=8 {
        for (region, lent) in regions.iter_mut().zip(&mut lent) {
            let request = region.request(sequence, *lent, 7);
            *lent = region.ask(request).await;
        }
    }
    assert_eq!(lent, [35, 35, 30]);
}

#[tokio::test]
async fn a_request_that_is_repeated_lends_nothing_twice() {
    let Some(server) = Redis::start().await else { return };
    let mut region = Region::new("a", &server.url());
    let mut lent = Vec::new();
    for _ in 0..3 {
        let request = region.request(1, 0, 30);
        lent.push(region.ask(request).await);
    }
    assert_eq!(lent, [30, 30, 30]);
}

#[tokio::test]
async fn a_server_that_forgot_a_chunk_learns_it_before_it_lends_more() {
    let Some(server) = Redis::start().await else { return };
    let (mut a, mut b) = (Region::new("a", &server.url()), Region::new("b", &server.url()));
    let request = a.request(1, 0, 60);
    assert_eq!(a.ask(request).await, 60);
    server.forget().await;
    let request = a.request(2, 60, 10);
    assert_eq!(a.ask(request).await, 70);
    let request = b.request(1, 0, 60);
    assert_eq!(b.ask(request).await, 30, "the rest of the quota, and no part of what the server had forgotten");
}

#[tokio::test]
async fn a_server_that_dies_is_given_up_and_trusted_again_when_it_is_back() {
    let Some(server) = Redis::start().await else { return };
    let address = server.address;
    let mut region = Region::new("a", &server.url());
    let request = region.request(1, 0, 1);
    assert_eq!(region.ask(request).await, 1);
    drop(server);
    region.until_reachable(false).await;
    let began = Instant::now();
    let request = region.request(2, 1, 1);
    assert_eq!(region.ask_once(request).await, None, "refused, not waited for");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let Some(_server) = Redis::start_at(address).await else { return };
    let healed = region.until_reachable(true).await;
    assert!(healed >= Duration::from_secs(2), "trusted after {healed:?}");
    let request = region.request(9000, 1, 1);
    assert_eq!(region.ask(request).await, 2);
}

#[tokio::test]
async fn what_a_slow_server_grants_too_late_is_waste_and_not_excess() {
    let Some(server) = Redis::start().await else { return };
    let relay = Relay::to(server.address).await;
    let mut region = Region::new("a", &relay.url());
    let request = region.request(1, 0, 10);
    assert_eq!(region.ask(request).await, 10);
    relay.slow_down(Duration::from_secs(2));
    let late = region.request(2, 10, 40);
    assert_eq!(region.ask_once(late.clone()).await, None);
    region.until_reachable(false).await;
    relay.slow_down(Duration::ZERO);
    region.until_reachable(true).await;
    // The server lent it; asked again, it says so, and lends it to nobody else.
    assert!(region.ask(late).await >= 50);
    let mut other = Region::new("b", &server.url());
    let request = other.request(1, 0, 100);
    let (a, b) = (region.ask(region.request(9000, 50, 0)).await, other.ask(request).await);
    assert_eq!(a + b, 100);
}

#[tokio::test]
async fn a_process_after_another_is_told_what_the_region_holds_and_is_lent_the_rest() {
    let Some(server) = Redis::start().await else { return };
    let mut first = Region::new("a", &server.url());
    let request = first.request(5000, 0, 60);
    assert_eq!(first.ask(request).await, 60);
    let mut second = Region::new("a", &server.url());
    // Its clock is behind: it is lent nothing for this one, and learns above what to ask.
    let behind = second.request(4000, 0, 30);
    assert_eq!(second.granted(behind).await, Granted { held: 60, total: 60, before: 5000 });
    for (sequence, held, lent) in [(5001, 60, 90), (5002, 90, 100)] {
        let request = second.request(sequence, held, 30);
        let granted = second.granted(request).await;
        assert_eq!((granted.held, granted.total), (lent, lent));
    }
}

#[tokio::test]
async fn of_a_window_that_is_far_ahead_of_the_server_nothing_is_lent_and_nothing_kept() {
    let Some(server) = Redis::start().await else { return };
    let mut region = Region::new("a", &server.url());
    let ahead = |request: LoanRequest, by: u64| {
        let slot_begins = request.slot_begins + Duration::from_secs(by);
        LoanRequest { slot_begins, slot_ends: slot_begins + Duration::from_secs(60), ..request }
    };
    let year = ahead(region.request(1, 40, 10), 365 * 86_400);
    assert_eq!(region.granted(year).await, Granted { held: 0, total: 0, before: 0 });
    assert_eq!(server.keys().await, 0);
    // A window and ten seconds are 70 s.
    let near = ahead(region.request(2, 0, 10), 60);
    assert_eq!(region.ask(near).await, 10);
    let far = ahead(region.request(3, 10, 10), 90);
    assert_eq!(region.granted(far).await, Granted { held: 10, total: 10, before: 2 });
    assert_eq!(server.keys().await, 1);
}

#[tokio::test]
async fn clusters_of_one_name_on_one_server_do_not_know_each_others_loans() {
    let Some(server) = Redis::start().await else { return };
    let (mut ours, mut theirs) =
        (Region::of(MemberId(1), "a", &server.url()), Region::of(MemberId(2), "a", &server.url()));
    let request = ours.request(1, 0, 100);
    assert_eq!(ours.ask(request).await, 100);
    let request = theirs.request(2, 0, 10);
    let granted = theirs.granted(request).await;
    assert_eq!((granted.held, granted.total), (10, 10));
}
