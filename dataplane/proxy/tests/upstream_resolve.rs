//! External names: kept for their time, renewed ahead of it, asked for once, and never a way to this host.

mod upstream_support;

use sluicegate_config::backend::UpstreamProtocol;
use sluicegate_proxy::connect::ConnectError;
use sluicegate_proxy::pool::{UpstreamSettings, Upstreams};
use sluicegate_proxy::resolve::{Answer, DnsLookup, Lookup, LookupError, LookupFuture, ResolveSettings, Resolver};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::task::spawn_local;
use tokio::time::sleep;
use upstream_support::*;

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const SECOND: Duration = Duration::from_secs(1);

/// A name service of which the test says what it answers.
#[derive(Clone)]
struct Names {
    answer: Rc<RefCell<Result<Answer, LookupError>>>,
    delay: Duration,
    asked: Rc<Cell<usize>>,
}

impl Names {
    fn answering(addresses: &[IpAddr], ttl: Duration) -> Self {
        let answer = Rc::new(RefCell::new(Ok(Answer { addresses: addresses.to_vec(), ttl })));
        Self { answer, delay: Duration::from_millis(5), asked: Rc::default() }
    }

    fn set(&self, addresses: &[IpAddr], ttl: Duration) {
        *self.answer.borrow_mut() = Ok(Answer { addresses: addresses.to_vec(), ttl });
    }

    fn fail(&self, error: LookupError) {
        *self.answer.borrow_mut() = Err(error);
    }
}

impl Lookup for Names {
    fn lookup(&self, _name: Arc<str>) -> LookupFuture {
        self.asked.set(self.asked.get() + 1);
        let names = self.clone();
        Box::pin(async move {
            sleep(names.delay).await;
            names.answer.borrow().clone()
        })
    }
}

async fn addresses(resolver: &Rc<Resolver>, now: Instant) -> Result<Vec<IpAddr>, ConnectError> {
    resolver.resolve("db.example", now).await.map(|resolution| resolution.addresses.to_vec())
}

fn broken() -> LookupError {
    LookupError::Failed("SERVFAIL".to_owned())
}

#[test]
fn an_answer_is_used_for_its_time() {
    // Asked of the clock in steps: (TTL, still known after, asked again after).
    let table = [
        (60, 47, 61),
        // No shorter than a second, no longer than five minutes.
        (0, 0, 2),
        (86_400, 239, 301),
    ];
    for (ttl, known, expired) in table {
        worker(async {
            let names = Names::answering(&[ONE], ttl * SECOND);
            let resolver = Resolver::new(ResolveSettings::default(), names.clone());
            let start = Instant::now();
            assert_eq!(addresses(&resolver, start).await, Ok(vec![ONE]));
            names.set(&[TWO], ttl * SECOND);
            assert_eq!(addresses(&resolver, start + known * SECOND).await, Ok(vec![ONE]));
            assert_eq!(names.asked.get(), 1, "TTL {ttl}");
            assert_eq!(addresses(&resolver, start + expired * SECOND).await, Ok(vec![TWO]), "TTL {ttl}");
            assert_eq!(names.asked.get(), 2, "TTL {ttl}");
        });
    }
}

#[test]
fn an_answer_in_use_is_renewed_before_it_expires() {
    worker(async {
        let names = Names::answering(&[ONE], 60 * SECOND);
        let resolver = Resolver::new(ResolveSettings::default(), names.clone());
        let start = Instant::now();
        addresses(&resolver, start).await.expect("an answer");
        names.set(&[TWO], 60 * SECOND);
        // Nobody waits for the renewal, and only one asks.
        for _ in 0..3 {
            assert_eq!(addresses(&resolver, start + 50 * SECOND).await, Ok(vec![ONE]));
        }
        sleep(Duration::from_millis(50)).await;
        assert_eq!(names.asked.get(), 2);
        assert_eq!(addresses(&resolver, start + 50 * SECOND).await, Ok(vec![TWO]));
    });
}

#[test]
fn requests_that_wait_for_a_name_ask_once() {
    worker(async {
        let names = Names { delay: Duration::from_millis(50), ..Names::answering(&[ONE], 60 * SECOND) };
        let resolver = Resolver::new(ResolveSettings::default(), names.clone());
        let wait = || {
            let resolver = Rc::clone(&resolver);
            spawn_local(async move { addresses(&resolver, Instant::now()).await })
        };
        let waiting: Vec<_> = (0..50).map(|_| wait()).collect();
        sleep(Duration::from_millis(10)).await;
        // The first one gives up; the others get their answer all the same.
        waiting[0].abort();
        for waiting in waiting.into_iter().skip(1) {
            assert_eq!(waiting.await.expect("no panic"), Ok(vec![ONE]));
        }
        assert_eq!(names.asked.get(), 1);
    });
}

#[test]
fn names_are_compared_as_dns_compares_them() {
    worker(async {
        let names = Names::answering(&[ONE], 60 * SECOND);
        let resolver = Resolver::new(ResolveSettings::default(), names.clone());
        for name in ["db.example", "DB.Example", "db.example."] {
            resolver.resolve(name, Instant::now()).await.expect("an answer");
        }
        assert_eq!(names.asked.get(), 1);
    });
}

#[test]
fn an_expired_answer_serves_while_name_servers_fail_but_not_for_ever() {
    worker(async {
        let names = Names::answering(&[ONE], Duration::ZERO);
        let settings = ResolveSettings {
            min_ttl: Duration::from_millis(100),
            max_stale: Duration::from_millis(500),
            ..ResolveSettings::default()
        };
        let resolver = Resolver::new(settings, names.clone());
        addresses(&resolver, Instant::now()).await.expect("an answer");
        names.fail(broken());
        sleep(Duration::from_millis(200)).await;
        for _ in 0..2 {
            assert_eq!(addresses(&resolver, Instant::now()).await, Ok(vec![ONE]));
        }
        assert_eq!(names.asked.get(), 2, "a failure is remembered");
        sleep(Duration::from_millis(500)).await;
        assert!(addresses(&resolver, Instant::now()).await.is_err());
    });
}

#[test]
fn a_slow_renewal_is_not_waited_for_long() {
    worker(async {
        let mut names = Names::answering(&[ONE], 60 * SECOND);
        names.delay = Duration::from_secs(3);
        let settings = ResolveSettings { stale_wait: Duration::from_millis(50), ..ResolveSettings::default() };
        let resolver = Resolver::new(settings, names.clone());
        let start = Instant::now();
        addresses(&resolver, start).await.expect("an answer");
        let begun = Instant::now();
        assert_eq!(addresses(&resolver, start + 64 * SECOND).await, Ok(vec![ONE]));
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    });
}

#[test]
fn failures_are_remembered_for_a_while() {
    let not_found = |ttl: Option<u64>| LookupError::NotFound { ttl: ttl.map(Duration::from_secs) };
    // (what is answered, milliseconds for which it is known at least, and at most)
    let table = [
        (broken(), 900, 1_200),
        (not_found(None), 900, 1_200),
        (not_found(Some(3)), 2_900, 3_200),
        (not_found(Some(3_600)), 4_900, 5_200),
        (LookupError::BadName("too long".to_owned()), 900, 1_200),
    ];
    for (failure, known, forgotten) in table {
        worker(async {
            let names = Names::answering(&[ONE], 60 * SECOND);
            names.fail(failure.clone());
            let resolver = Resolver::new(ResolveSettings::default(), names.clone());
            let error = addresses(&resolver, Instant::now()).await.expect_err("no answer");
            assert_eq!((error.reason(), error.is_retryable()), ("resolve", false));
            assert!(error.to_string().contains("db.example"), "{error}");
            let failed = Instant::now();
            assert_eq!(addresses(&resolver, failed + Duration::from_millis(known)).await, Err(error));
            assert_eq!(names.asked.get(), 1, "{failure:?}");
            names.set(&[ONE], 60 * SECOND);
            assert_eq!(addresses(&resolver, failed + Duration::from_millis(forgotten)).await, Ok(vec![ONE]));
        });
    }
}

#[test]
fn failures_in_a_row_are_remembered_longer() {
    worker(async {
        let names = Names::answering(&[ONE], 60 * SECOND);
        names.fail(broken());
        let resolver = Resolver::new(ResolveSettings::default(), names.clone());
        for (seconds, asked) in [(0, 1), (2, 2), (3, 3)] {
            // Each lookup fails at about the present, whatever time the request gave.
            let now = Instant::now() + Duration::from_millis(100) + seconds * SECOND;
            assert!(addresses(&resolver, now).await.is_err());
            assert_eq!(names.asked.get(), asked);
        }
        assert!(addresses(&resolver, Instant::now() + Duration::from_millis(3_500)).await.is_err());
        assert_eq!(names.asked.get(), 3, "four seconds by now");
    });
}

#[test]
fn a_name_that_is_gone_is_not_used_although_it_was_known() {
    worker(async {
        let names = Names::answering(&[ONE], SECOND);
        let resolver = Resolver::new(ResolveSettings::default(), names.clone());
        let start = Instant::now();
        addresses(&resolver, start).await.expect("an answer");
        names.fail(LookupError::NotFound { ttl: None });
        assert!(addresses(&resolver, start + 2 * SECOND).await.is_err());
    });
}

#[test]
fn no_name_leads_to_this_host_or_its_link() {
    let refused: [IpAddr; 12] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 8, 8, 8).into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(0, 1, 2, 3).into(),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(169, 254, 169, 254).into(),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
        Ipv4Addr::new(224, 0, 0, 1).into(),
        Ipv4Addr::BROADCAST.into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    ];
    worker(async {
        for address in refused {
            let resolver = Resolver::new(ResolveSettings::default(), Names::answering(&[address], SECOND));
            assert!(addresses(&resolver, Instant::now()).await.is_err(), "{address} by name");
            assert!(resolver.resolve(&address.to_string(), Instant::now()).await.is_err(), "{address} itself");
            let mixed = Resolver::new(ResolveSettings::default(), Names::answering(&[address, ONE], SECOND));
            assert_eq!(addresses(&mixed, Instant::now()).await, Ok(vec![ONE]), "{address} among others");
        }
        let names = Names::answering(&[ONE], SECOND);
        let resolver = Resolver::new(ResolveSettings::default(), names.clone());
        for name in ["localhost", "LOCALHOST.", "gateway.localhost"] {
            assert!(resolver.resolve(name, Instant::now()).await.is_err(), "{name}");
        }
        assert_eq!(names.asked.get(), 0);
    });
}

#[test]
fn loopback_can_be_allowed_and_nothing_else() {
    worker(async {
        let settings = ResolveSettings { allow_loopback_external: true, ..ResolveSettings::default() };
        let metadata = Ipv4Addr::new(169, 254, 169, 254).into();
        let names = Names::answering(&[Ipv4Addr::LOCALHOST.into(), metadata], SECOND);
        let resolver = Resolver::new(settings, names);
        assert_eq!(addresses(&resolver, Instant::now()).await, Ok(vec![Ipv4Addr::LOCALHOST.into()]));
    });
}

#[test]
fn answers_are_sorted_and_bounded_and_so_is_their_number() {
    worker(async {
        let many: Vec<IpAddr> = (1..=200).rev().map(|host| Ipv4Addr::new(198, 51, 100, host).into()).collect();
        let names = Names::answering(&[many.clone(), many].concat(), 60 * SECOND);
        let settings = ResolveSettings { max_names: 2, ..ResolveSettings::default() };
        let resolver = Resolver::new(settings, names.clone());
        let start = Instant::now();
        let first = resolver.resolve("a.example", start).await.expect("an answer").addresses;
        assert_eq!(first.len(), 64);
        assert!(first.is_sorted());

        resolver.resolve("b.example", start + SECOND).await.expect("an answer");
        resolver.resolve("a.example", start + 2 * SECOND).await.expect("an answer");
        resolver.resolve("c.example", start + 3 * SECOND).await.expect("an answer");
        assert_eq!(names.asked.get(), 3);
        resolver.resolve("a.example", start + 4 * SECOND).await.expect("an answer");
        assert_eq!(names.asked.get(), 3, "used lately, so kept");
        resolver.resolve("b.example", start + 5 * SECOND).await.expect("an answer");
        assert_eq!(names.asked.get(), 4, "used longest ago, so forgotten");
    });
}

#[test]
fn an_external_backend_follows_its_name() {
    worker(async {
        let server = Server::start().await;
        let settings = ResolveSettings {
            allow_loopback_external: true,
            min_ttl: Duration::from_millis(100),
            ..ResolveSettings::default()
        };
        let local = |host| IpAddr::from(Ipv4Addr::new(127, 0, 0, host));
        let names = Names::answering(&[local(1)], Duration::ZERO);
        let resolver = Resolver::new(settings, names.clone());
        let upstreams = Upstreams::new(UpstreamSettings::default(), resolver, 7);
        let mut external = backend(&[], UpstreamProtocol::Http1);
        external.external = Some(("db.example".into(), server.address.port()));
        let backend = upstreams.backend(&slotted(1, external));

        assert!(pick_at(&backend, Instant::now()).is_none(), "not resolved yet");
        backend.ready(Instant::now()).await.expect("an answer");
        let endpoint = pick(&backend);
        let mut lease = checkout(&backend, &endpoint).await;
        exchange(&mut lease).await;
        lease.put_back();

        // Another answer with the same address changes nothing.
        sleep(Duration::from_millis(150)).await;
        names.set(&[local(1), local(2)], Duration::ZERO);
        backend.ready(Instant::now()).await.expect("an answer");
        assert_eq!(backend.endpoint_count(), 2);
        assert!(checkout(&backend, &endpoint).await.reused);

        sleep(Duration::from_millis(150)).await;
        names.set(&[local(2)], Duration::ZERO);
        backend.ready(Instant::now()).await.expect("an answer");
        assert!(endpoint.is_removed());
        assert_eq!(pick(&backend).address(), SocketAddr::new(local(2), server.address.port()));

        sleep(Duration::from_millis(150)).await;
        names.fail(LookupError::NotFound { ttl: None });
        assert!(backend.ready(Instant::now()).await.is_err());
        assert!(pick_at(&backend, Instant::now()).is_none());
    });
}

#[test]
fn an_address_as_external_name_is_itself() {
    worker(async {
        let names = Names::answering(&[TWO], SECOND);
        let resolver = Resolver::new(ResolveSettings::default(), names.clone());
        for address in ["192.0.2.1", "2001:db8::1"] {
            let found = resolver.resolve(address, Instant::now()).await.expect("itself").addresses;
            assert_eq!(found.as_ref(), [address.parse::<IpAddr>().expect("an address")]);
        }
        assert_eq!(names.asked.get(), 0);
    });
}

/// A name server for one zone: `db.example` has one address of each family, `alias.example` is a CNAME to it,
/// `broken.example` fails, `mute.example` is not answered, and there is nothing else.
async fn name_server() -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("its address");
    let asked = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&asked);
    spawn_local(async move {
        let mut query = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut query).await {
            if let Some(answer) = answer(&query[..length], &mut log.borrow_mut()) {
                let _ = socket.try_send_to(&answer, client);
            }
        }
    });
    (address, asked)
}

/// RFC 1035 section 4: header, the question again, answers whose names point back at it.
fn answer(query: &[u8], log: &mut Vec<String>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let question = &query[12..at + 5];
    let kind = query[at + 2];
    let name = labels.join(".");
    log.push(format!("{name} {kind}"));
    let record = |kind: u8, data: &[u8]| {
        let mut record = vec![0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 42, 0, data.len() as u8];
        record.extend_from_slice(data);
        record
    };
    let mut records = Vec::new();
    let code = match (name.as_str(), kind) {
        ("mute.example", _) => return None,
        ("broken.example", _) => 2,
        ("db.example", 1) => {
            records.push(record(1, &[192, 0, 2, 1]));
            0
        }
        ("db.example", 28) => {
            records.push(record(28, &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
            0
        }
        ("alias.example", 1) => {
            // The target is spelt out; its own record follows under that name.
            let target = b"\x02db\x07example\x00";
            records.push(record(5, target));
            let mut address = target.to_vec();
            address.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 7, 0, 4, 192, 0, 2, 1]);
            records.push(address);
            0
        }
        ("alias.example", _) => 0,
        _ => 3,
    };
    let mut answer = vec![query[0], query[1], 0x85, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
    answer.extend_from_slice(question);
    records.iter().for_each(|record| answer.extend_from_slice(record));
    Some(answer)
}

#[test]
fn names_are_looked_up_by_dns() {
    worker(async {
        let (server, asked) = name_server().await;
        let dns = DnsLookup::with_server(server).expect("a resolver");
        let both: [IpAddr; 2] = [ONE, "2001:db8::1".parse().expect("an address")];
        let found = dns.lookup("db.example".into()).await.expect("it exists");
        assert_eq!((found.addresses.as_slice(), found.ttl), (both.as_slice(), 42 * SECOND));
        assert_eq!(asked.borrow().len(), 2, "A and AAAA");

        let alias = dns.lookup("alias.example".into()).await.expect("it exists");
        assert_eq!((alias.addresses, alias.ttl), (vec![ONE], 7 * SECOND), "the shortest of the chain");

        let gone = dns.lookup("gone.example".into()).await;
        assert_eq!(gone, Err(LookupError::NotFound { ttl: None }));
        let failed = dns.lookup("broken.example".into()).await.expect_err("SERVFAIL");
        assert!(matches!(failed, LookupError::Failed(_)), "{failed:?}");
        let bad = dns.lookup("x".repeat(70).into()).await.expect_err("a label has 63 bytes at most");
        assert!(matches!(bad, LookupError::BadName(_)), "{bad:?}");

        // The answers of DNS as the resolver hands them on, twice but asked for once.
        asked.borrow_mut().clear();
        let resolver = Resolver::new(ResolveSettings::default(), dns);
        for _ in 0..2 {
            assert_eq!(addresses(&resolver, Instant::now()).await, Ok(both.to_vec()));
        }
        assert_eq!(asked.borrow().len(), 2);
    });
}

#[test]
fn a_name_server_that_says_nothing_does_not_hold_requests_up_for_ever() {
    worker(async {
        let (server, _) = name_server().await;
        let settings = ResolveSettings { lookup_timeout: Duration::from_millis(200), ..ResolveSettings::default() };
        let resolver = Resolver::new(settings, DnsLookup::with_server(server).expect("a resolver"));
        let begun = Instant::now();
        assert!(resolver.resolve("mute.example", begun).await.is_err());
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    });
}
