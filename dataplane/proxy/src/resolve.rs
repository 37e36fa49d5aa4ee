//! Addresses of ExternalName Services: names are looked up without blocking the worker, once however many requests
//! wait for them, and kept as long as the DNS says. It connects to nothing and knows no endpoints.

use crate::connect::ConnectError;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// How names are looked up and how long answers are kept.
#[derive(Clone, Debug)]
pub struct ResolveSettings {
    /// The shortest time an answer is used, whatever its TTL. Default 1 s.
    pub min_ttl: Duration,
    /// The longest time an answer is used without being asked for again. Default 5 min.
    pub max_ttl: Duration,
    /// How much longer than its TTL an answer is used while no name server answers (RFC 8767). Default 1 h.
    pub max_stale: Duration,
    /// How long requests wait for an expired answer to be renewed before it is used once more. Default 500 ms.
    pub stale_wait: Duration,
    /// How long a failure is remembered at first; it doubles up to `max_negative_ttl` while it goes on. Default 1 s.
    pub min_negative_ttl: Duration,
    /// The longest time a failure is remembered. Default 5 s.
    pub max_negative_ttl: Duration,
    /// How long one lookup may take, all servers and attempts together. Default 5 s.
    pub lookup_timeout: Duration,
    /// Names kept; beyond that the one used least recently is forgotten. Default 1024.
    pub max_names: usize,
    /// Addresses taken of one answer. Default 64.
    pub max_addresses: usize,
    /// Whether a name may lead to loopback. Only for tests and demonstrations: otherwise whoever may create a Service
    /// could reach what listens inside the gateway's host, its admin endpoint for one. Default false.
    pub allow_loopback_external: bool,
}

impl Default for ResolveSettings {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            max_stale: Duration::from_secs(3600),
            stale_wait: Duration::from_millis(500),
            min_negative_ttl: Duration::from_secs(1),
            max_negative_ttl: Duration::from_secs(5),
            lookup_timeout: Duration::from_secs(5),
            max_names: 1024,
            max_addresses: 64,
            allow_loopback_external: false,
        }
    }
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// IPv4 and IPv6 addresses, in any order.
    pub addresses: Vec<IpAddr>,
    /// For how long they hold.
    pub ttl: Duration,
}

/// Why a lookup found nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name servers say that there is no such name, or that it has no address.
    #[error("the name does not exist or has no address")]
    NotFound {
        /// For how long that holds, if they said (RFC 2308).
        ttl: Option<Duration>,
    },
    /// The text is no DNS name.
    #[error("not a DNS name: {0}")]
    BadName(String),
    /// No name server gave a usable answer.
    #[error("name servers fail: {0}")]
    Failed(String),
}

/// A lookup under way.
pub type LookupFuture = Pin<Box<dyn Future<Output = Result<Answer, LookupError>>>>;

/// Finds the addresses of a name. It need not cache.
pub trait Lookup {
    /// Starts to look `name` up.
    fn lookup(&self, name: Arc<str>) -> LookupFuture;
}

impl<F: Fn(Arc<str>) -> LookupFuture> Lookup for F {
    fn lookup(&self, name: Arc<str>) -> LookupFuture {
        self(name)
    }
}

/// Looks up by DNS as the host's `resolv.conf` says, and in its hosts file. A name with a dot is taken as it stands
/// first, as the target of a CNAME would be, and completed by the search list only where it does not exist.
pub struct DnsLookup {
    resolver: TokioResolver,
}

impl DnsLookup {
    /// Reads `/etc/resolv.conf`. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the file cannot be read or names no server.
    pub fn system() -> Result<Self, LookupError> {
        let (config, mut options) = hickory_resolver::system_conf::read_system_conf().map_err(failed)?;
        options.ndots = 1;
        Self::new(config, options)
    }

    /// Asks one server and nothing else, by UDP, and by TCP where an answer is truncated.
    ///
    /// # Errors
    /// If the resolver cannot be set up.
    pub fn with_server(server: SocketAddr) -> Result<Self, LookupError> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        let server = NameServerConfig::new(server.ip(), true, connections.into());
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        Self::new(ResolverConfig::from_parts(None, Vec::new(), vec![server]), options)
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, LookupError> {
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // `Resolver` keeps what is found, by other rules.
        options.cache_size = 0;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Ok(Self { resolver: builder.with_options(options).build().map_err(failed)? })
    }
}

impl Lookup for DnsLookup {
    fn lookup(&self, name: Arc<str>) -> LookupFuture {
        let resolver = self.resolver.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(&*name).await.map_err(classify)?;
            let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or(0);
            Ok(Answer { addresses: found.iter().collect(), ttl: Duration::from_secs(ttl.into()) })
        })
    }
}

/// [`DnsLookup::system`], set up when the first name is looked up: most gateways never look one up, and one without
/// name servers serves everything else.
#[derive(Default)]
pub struct SystemLookup {
    dns: OnceCell<Result<DnsLookup, LookupError>>,
}

impl Lookup for SystemLookup {
    fn lookup(&self, name: Arc<str>) -> LookupFuture {
        match self.dns.get_or_init(DnsLookup::system) {
            Ok(dns) => dns.lookup(name),
            Err(error) => {
                let error = error.clone();
                Box::pin(async { Err(error) })
            }
        }
    }
}

fn failed(error: NetError) -> LookupError {
    LookupError::Failed(error.to_string())
}

fn classify(error: NetError) -> LookupError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            LookupError::NotFound { ttl: none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into())) }
        }
        NetError::Proto(error) => LookupError::BadName(error.to_string()),
        other => failed(other),
    }
}

/// Addresses, and when to ask for them again.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// Sorted, without duplicates, never empty. The same allocation as long as nothing changed.
    pub addresses: Rc<[IpAddr]>,
    /// Until then there is no point in asking again.
    pub recheck: Instant,
}

/// The names that one worker looks up.
pub struct Resolver {
    settings: ResolveSettings,
    lookup: Box<dyn Lookup>,
    names: RefCell<BTreeMap<Arc<str>, Entry>>,
}

struct Entry {
    answer: Option<Held>,
    failure: Option<Failed>,
    /// Failures in a row.
    failures: u32,
    /// Closed when the lookup under way is done.
    under_way: Option<watch::Receiver<()>>,
    used: Instant,
}

struct Held {
    addresses: Rc<[IpAddr]>,
    /// From then on it is renewed while requests come, so that they need not wait when it expires.
    renew: Instant,
    expires: Instant,
}

struct Failed {
    error: ConnectError,
    until: Instant,
}

/// While an answer is being renewed it is looked for this often.
const RENEWAL_POLL: Duration = Duration::from_millis(100);

impl Resolver {
    /// A resolver that asks `lookup`.
    pub fn new(settings: ResolveSettings, lookup: impl Lookup + 'static) -> Rc<Self> {
        Rc::new(Self { settings, lookup: Box::new(lookup), names: RefCell::default() })
    }

    /// The addresses of a name; an IP literal is its own address. Lookups run as local tasks of their own, so that it
    /// must be called within a `LocalSet`, and a request that goes away takes none down.
    ///
    /// # Errors
    /// [`ConnectError::Resolve`] with the name and the reason.
    pub async fn resolve(self: &Rc<Self>, name: &str, now: Instant) -> Result<Resolution, ConnectError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            let addresses = self.permitted(name, vec![address])?;
            return Ok(Resolution { addresses, recheck: now + self.settings.max_ttl });
        }
        let name = normalize(name);
        if !self.settings.allow_loopback_external && (&*name == "localhost" || name.ends_with(".localhost")) {
            return Err(forbidden(&name));
        }
        let (mut under_way, has_stale) = match self.known(&name, now) {
            Known::Use(result) => return result,
            Known::Wait { under_way, has_stale } => (under_way, has_stale),
        };
        let patience = if has_stale { self.settings.stale_wait } else { self.settings.lookup_timeout };
        // Either way the outcome stands in the entry. The lookup bounds itself: a little more lets it report.
        let _ = timeout(patience + Duration::from_millis(50), under_way.changed()).await;
        self.outcome(&name, tokio::time::Instant::now().into_std())
    }

    /// What is known without waiting, and the lookup that is needed otherwise.
    fn known(self: &Rc<Self>, name: &Arc<str>, now: Instant) -> Known {
        let mut names = self.names.borrow_mut();
        if !names.contains_key(name) && !make_room(&mut names, self.settings.max_names) {
            return Known::Use(Err(ConnectError::Resolve(format!("cannot look {name} up: too many names at once"))));
        }
        let entry = names.entry(Arc::clone(name)).or_insert_with(|| Entry::new(now));
        entry.used = now;
        let has_failed = entry.failure.as_ref().is_some_and(|failure| now < failure.until);
        if let Some(held) = entry.answer.as_ref().filter(|held| now < held.expires) {
            let is_due = now >= held.renew && !has_failed;
            let next = held.renew.max(now + RENEWAL_POLL).min(held.expires);
            let resolution = Resolution { addresses: Rc::clone(&held.addresses), recheck: next };
            if is_due && entry.under_way.is_none() {
                entry.under_way = Some(self.start(name));
            }
            return Known::Use(Ok(resolution));
        }
        if has_failed {
            return Known::Use(entry.last_resort(name, now, &self.settings));
        }
        let has_stale = entry.answer.as_ref().is_some_and(|held| now < held.expires + self.settings.max_stale);
        let under_way = entry.under_way.get_or_insert_with(|| self.start(name)).clone();
        Known::Wait { under_way, has_stale }
    }

    fn outcome(&self, name: &Arc<str>, now: Instant) -> Result<Resolution, ConnectError> {
        match self.names.borrow().get(name) {
            Some(entry) => entry.last_resort(name, now, &self.settings),
            None => Err(no_answer(name)),
        }
    }

    fn start(self: &Rc<Self>, name: &Arc<str>) -> watch::Receiver<()> {
        let (done, under_way) = watch::channel(());
        let lookup = self.lookup.lookup(Arc::clone(name));
        let (resolver, name, limit) = (Rc::downgrade(self), Arc::clone(name), self.settings.lookup_timeout);
        tokio::task::spawn_local(async move {
            let result = match timeout(limit, lookup).await {
                Ok(result) => result,
                Err(_) => Err(LookupError::Failed(format!("no answer within {limit:?}"))),
            };
            if let Some(resolver) = resolver.upgrade() {
                resolver.finish(&name, result, tokio::time::Instant::now().into_std());
            }
            drop(done);
        });
        under_way
    }

    fn finish(&self, name: &Arc<str>, result: Result<Answer, LookupError>, now: Instant) {
        let settings = &self.settings;
        let mut names = self.names.borrow_mut();
        // Entries with a lookup under way are not forgotten.
        let Some(entry) = names.get_mut(name) else { return };
        entry.under_way = None;
        let (error, ttl) = match result {
            Ok(answer) => match self.permitted(name, answer.addresses) {
                Ok(addresses) => {
                    return entry.hold(addresses, answer.ttl.clamp(settings.min_ttl, settings.max_ttl), now);
                }
                Err(error) => {
                    entry.answer = None;
                    (error, settings.max_negative_ttl)
                }
            },
            Err(error @ (LookupError::NotFound { .. } | LookupError::BadName(_))) => {
                // An answer, not a failure to get one: what was known before is no longer true.
                entry.answer = None;
                let ttl = if let LookupError::NotFound { ttl: Some(ttl) } = error { ttl } else { Duration::ZERO };
                (cannot_resolve(name, &error), ttl)
            }
            Err(error) => {
                (cannot_resolve(name, &error), settings.min_negative_ttl.saturating_mul(1 << entry.failures.min(16)))
            }
        };
        tracing::warn!(%name, %error, "ExternalName lookup failed");
        entry.failures = entry.failures.saturating_add(1);
        let ttl = ttl.clamp(settings.min_negative_ttl, settings.max_negative_ttl);
        entry.failure = Some(Failed { error, until: now + ttl });
    }

    /// Leaves out addresses that no external name may lead to, and brings the rest into order.
    fn permitted(&self, name: &str, mut addresses: Vec<IpAddr>) -> Result<Rc<[IpAddr]>, ConnectError> {
        let settings = &self.settings;
        if addresses.is_empty() {
            return Err(cannot_resolve(name, &LookupError::NotFound { ttl: None }));
        }
        addresses.iter_mut().for_each(|address| *address = address.to_canonical());
        addresses.retain(|address| is_permitted(*address, settings.allow_loopback_external));
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(settings.max_addresses);
        if addresses.is_empty() { Err(forbidden(name)) } else { Ok(addresses.into()) }
    }
}

enum Known {
    Use(Result<Resolution, ConnectError>),
    Wait { under_way: watch::Receiver<()>, has_stale: bool },
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { answer: None, failure: None, failures: 0, under_way: None, used: now }
    }

    fn hold(&mut self, addresses: Rc<[IpAddr]>, ttl: Duration, now: Instant) {
        self.failure = None;
        self.failures = 0;
        let addresses = match self.answer.take() {
            Some(held) if held.addresses == addresses => held.addresses,
            _ => addresses,
        };
        self.answer = Some(Held { addresses, renew: now + ttl.mul_f64(0.8), expires: now + ttl });
    }

    /// The answer if it is fresh or, being stale, still the best there is; else why there is none.
    fn last_resort(&self, name: &str, now: Instant, settings: &ResolveSettings) -> Result<Resolution, ConnectError> {
        if let Some(held) = self.answer.as_ref().filter(|held| now < held.expires + settings.max_stale) {
            let recheck = held.renew.max(now + RENEWAL_POLL);
            return Ok(Resolution { addresses: Rc::clone(&held.addresses), recheck });
        }
        Err(self.failure.as_ref().map_or_else(|| no_answer(name), |failure| failure.error.clone()))
    }
}

/// Makes room for one more name; false if there is none to be had.
fn make_room(names: &mut BTreeMap<Arc<str>, Entry>, most: usize) -> bool {
    if names.len() < most {
        return true;
    }
    let oldest = names.iter().filter(|(_, entry)| entry.under_way.is_none()).min_by_key(|(_, entry)| entry.used);
    let oldest = oldest.map(|(name, _)| Arc::clone(name));
    oldest.is_some_and(|name| names.remove(&name).is_some())
}

fn normalize(name: &str) -> Arc<str> {
    name.trim_end_matches('.').to_ascii_lowercase().into()
}

/// Refuses what is never "external": this host, what only this link can mean (cloud metadata among it), and what is
/// no single host's address.
fn is_permitted(address: IpAddr, allow_loopback: bool) -> bool {
    if address.is_loopback() {
        return allow_loopback;
    }
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !is_link_local && !address.is_unspecified() && !address.is_multicast()
}

fn forbidden(name: &str) -> ConnectError {
    ConnectError::Resolve(format!(
        "externalName {name} leads to a loopback, link-local or multicast address, which is refused; name another host"
    ))
}

fn no_answer(name: &str) -> ConnectError {
    ConnectError::Resolve(format!("externalName {name}: no answer in time; check the name servers"))
}

fn cannot_resolve(name: &str, error: &LookupError) -> ConnectError {
    ConnectError::Resolve(format!("externalName {name} cannot be resolved: {error}; check spec.externalName and DNS"))
}
