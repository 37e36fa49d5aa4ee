//! Directors of a cluster: a Lease of each, and the record of who they are.
//!
//! [`Ledger`] is pure: Leases as they are read become what is known of directors. [`DirectorLeases`] is the shell: it renews
//! the Lease of this director, follows those of the others, and writes the record by compare-and-swap. Who should be in the
//! record, and what follows from it, is decided elsewhere (`sluicegate-announce`).
//!
//! No clock of another host is believed: a Lease has expired when it was not renewed for its whole duration on the clock
//! here, while the API server answered.

mod keeper;

pub use keeper::{DirectorLeaseSettings, DirectorLeases};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The name of the record; its namespace is that of the Leases.
pub const RECORD: &str = "sluicegate-directors";
/// What the names of directors' Leases begin with.
pub const PREFIX: &str = "sluicegate-director-";
/// On the Leases and on the record: `member` and `record`.
pub const LABEL: &str = "sluicegate.io/director";
const LIFE: &str = "sluicegate.io/life";
const ADDRESSES: &str = "sluicegate.io/addresses";
const MEMBERSHIP: &str = "sluicegate.io/membership";
const BOOT: &str = "sluicegate.io/boot-id";
const MEMBERS: &str = "sluicegate.io/members";

/// A Lease that is not renewed for so long has expired: as long as a kubelet's.
pub const DURATION: Duration = Duration::from_secs(40);
/// Between two renewals.
pub const RENEWAL: Duration = Duration::from_secs(10);

/// One change of who the directors are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectorRecord {
    /// Grows by one with every change.
    pub number: u64,
    /// The directors, by name.
    pub members: BTreeMap<String, DirectorMember>,
}

/// One director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorMember {
    /// A number that each start of its process draws.
    pub life: u64,
    /// Where the others find it.
    pub addresses: Vec<SocketAddr>,
}

/// What the Lease of a director says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectorLease {
    /// It is renewed.
    Alive(DirectorMember),
    /// It is not, or cannot be understood.
    Expired,
    /// This life of the director gave it back.
    Ended(u64),
}

/// Something about the directors of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectorNews {
    /// The record as it is; nothing where there is none.
    Record(Option<DirectorRecord>),
    /// All Leases by the names of directors, each with the number of the record that the director last knew. Told again
    /// with every renewal while the API server answers.
    Leases(BTreeMap<String, (DirectorLease, u64)>),
    /// The Lease was renewed.
    Renewed(Instant),
    /// What is wrong; nothing where all is well again.
    Trouble(Option<String>),
}

/// The name of a director's Lease, where there can be one.
#[must_use]
pub fn lease_name(director: &str) -> Option<String> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let has_good_parts = |name: &str| {
        let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        name.split('.').all(|part| is_end(part.as_bytes().first()) && is_end(part.as_bytes().last()))
    };
    let is_good = director.bytes().all(is_allowed) && has_good_parts(director) && director.len() <= 200;
    is_good.then(|| format!("{PREFIX}{director}"))
}

/// The Leases as they were last read.
#[derive(Debug, Default)]
pub struct Ledger {
    leases: BTreeMap<String, Seen>,
    record: Option<Lease>,
}

#[derive(Debug)]
struct Seen {
    lease: Lease,
    /// When it was first seen so.
    since: Instant,
}

impl Ledger {
    /// A Lease as it is. True where the record is another one.
    pub fn set(&mut self, lease: Lease, now: Instant) -> bool {
        let name = lease.metadata.name.clone().unwrap_or_default();
        if name == RECORD {
            self.record = Some(lease);
            return true;
        }
        let Some(director) = name.strip_prefix(PREFIX) else { return false };
        let known = self.leases.get(director);
        let is_same = |known: &&Seen| known.lease.metadata.resource_version == lease.metadata.resource_version;
        let since = known.filter(is_same).map_or(now, |known| known.since);
        self.leases.insert(director.to_owned(), Seen { lease, since });
        false
    }

    /// A Lease is not there any more. True where it was the record.
    pub fn remove(&mut self, name: &str) -> bool {
        if name == RECORD {
            self.record = None;
            return true;
        }
        if let Some(director) = name.strip_prefix(PREFIX) {
            self.leases.remove(director);
        }
        false
    }

    /// The names of all that is known.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        let leases = self.leases.keys().map(|director| format!("{PREFIX}{director}"));
        leases.chain(self.record.iter().map(|_| RECORD.to_owned()))
    }

    /// The API server was away: nobody could renew.
    pub fn forgive(&mut self, now: Instant) {
        self.leases.values_mut().for_each(|seen| seen.since = now);
    }

    /// The record.
    ///
    /// # Errors
    /// Where what is there cannot be understood.
    pub fn record(&self) -> Result<Option<DirectorRecord>, String> {
        self.record.as_ref().map(record_of).transpose()
    }

    /// What the Leases say, by the names of directors.
    #[must_use]
    pub fn standings(&self, now: Instant) -> BTreeMap<String, (DirectorLease, u64)> {
        let standing = |(director, seen): (&String, &Seen)| {
            let number = annotation(&seen.lease, MEMBERSHIP).and_then(|number| number.parse().ok()).unwrap_or(0);
            (director.clone(), (state_of(seen, now), number))
        };
        self.leases.iter().map(standing).collect()
    }
}

fn state_of(seen: &Seen, now: Instant) -> DirectorLease {
    let Some(member) = member_of(&seen.lease) else { return DirectorLease::Expired };
    let spec = seen.lease.spec.clone().unwrap_or_default();
    if spec.holder_identity.is_none_or(|holder| holder.is_empty()) {
        return DirectorLease::Ended(member.life);
    }
    let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    let has_expired =
        now.saturating_duration_since(seen.since) >= DURATION.max(Duration::from_secs(duration.min(3600)));
    if has_expired { DirectorLease::Expired } else { DirectorLease::Alive(member) }
}

fn member_of(lease: &Lease) -> Option<DirectorMember> {
    let life = u64::from_str_radix(annotation(lease, LIFE)?, 16).ok()?;
    let addresses = annotation(lease, ADDRESSES)?.split(',').filter(|address| !address.is_empty());
    Some(DirectorMember { life, addresses: addresses.map(str::parse).collect::<Result<_, _>>().ok()? })
}

fn annotation<'a>(lease: &'a Lease, key: &str) -> Option<&'a str> {
    lease.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn record_of(lease: &Lease) -> Result<DirectorRecord, String> {
    let wrong = |what: &str| {
        format!("the Lease {RECORD}, which records the directors, {what}; where nobody needs it any more, delete it")
    };
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    let number = transitions.and_then(|number| u64::try_from(number).ok());
    let number = number.ok_or_else(|| wrong("has no leaseTransitions, by which its changes are numbered"))?;
    let members = annotation(lease, MEMBERS).ok_or_else(|| wrong(&format!("has no annotation {MEMBERS}")))?;
    let members = serde_json::from_str(members).map_err(|error| wrong(&format!("has a bad {MEMBERS}: {error}")))?;
    Ok(DirectorRecord { number, members })
}

/// The record as a Lease, over the one that is there: `kubectl get lease` shows the directors as its holder.
fn lease_of(record: &DirectorRecord, found: Option<Lease>, now: Timestamp) -> Result<Lease, String> {
    let mut lease = found.unwrap_or_default();
    lease.metadata.name = Some(RECORD.to_owned());
    lease.metadata.managed_fields = None;
    lease.metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), "record".to_owned());
    let members = serde_json::to_string(&record.members).map_err(|error| error.to_string())?;
    lease.metadata.annotations.get_or_insert_default().insert(MEMBERS.to_owned(), members);
    let names: Vec<&str> = record.members.keys().map(String::as_str).collect();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(names.join(",")),
        lease_transitions: Some(i32::try_from(record.number).map_err(|_| "too many changes of the directors")?),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    });
    Ok(lease)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn lease(name: &str, version: &str, holder: &str) -> Lease {
        let annotations = [(LIFE, "2a"), (ADDRESSES, "192.0.2.11:7946,[2001:db8::11]:7946"), (MEMBERSHIP, "7")];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                resource_version: Some(version.to_owned()),
                annotations: Some(annotations.into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(40),
                ..LeaseSpec::default()
            }),
        }
    }

    fn alive() -> DirectorLease {
        let addresses = ["192.0.2.11:7946", "[2001:db8::11]:7946"];
        let addresses = addresses.map(|address| address.parse().expect("an address")).to_vec();
        DirectorLease::Alive(DirectorMember { life: 0x2a, addresses })
    }

    #[test]
    fn a_lease_expires_by_the_clock_here_and_not_while_the_server_is_away() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut ledger = Ledger::default();
        let state = |ledger: &Ledger, now| ledger.standings(now).get("edge1").cloned();
        assert_eq!(state(&ledger, at(0)), None);
        ledger.set(lease("sluicegate-director-edge1", "1", "edge1"), at(0));
        assert_eq!(state(&ledger, at(39)), Some((alive(), 7)));
        assert_eq!(state(&ledger, at(40)), Some((DirectorLease::Expired, 7)));
        // A watch that begins anew shows it as it was.
        ledger.set(lease("sluicegate-director-edge1", "1", "edge1"), at(30));
        assert_eq!(state(&ledger, at(40)), Some((DirectorLease::Expired, 7)));
        ledger.forgive(at(35));
        assert_eq!(state(&ledger, at(74)), Some((alive(), 7)));
        ledger.set(lease("sluicegate-director-edge1", "2", "edge1"), at(75));
        assert_eq!(state(&ledger, at(114)), Some((alive(), 7)));
        ledger.set(lease("sluicegate-director-edge1", "3", ""), at(80));
        assert_eq!(state(&ledger, at(81)), Some((DirectorLease::Ended(0x2a), 7)));
        ledger.remove("sluicegate-director-edge1");
        assert_eq!(state(&ledger, at(81)), None);
    }

    #[test]
    fn what_is_no_lease_of_a_director_is_not_believed() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        let mut bad = lease("sluicegate-director-edge1", "1", "edge1");
        bad.metadata.annotations.get_or_insert_default().insert(ADDRESSES.to_owned(), "nowhere".to_owned());
        ledger.set(bad, now);
        ledger.set(lease("another", "1", "x"), now);
        assert_eq!(ledger.standings(now), BTreeMap::from([("edge1".to_owned(), (DirectorLease::Expired, 7))]));
    }

    #[test]
    fn the_record_is_read_as_it_was_written() {
        let DirectorLease::Alive(member) = alive() else { panic!("it is alive") };
        let record = DirectorRecord { number: 3, members: [("edge1".to_owned(), member)].into() };
        let written = lease_of(&record, None, Timestamp::now()).expect("a Lease");
        assert_eq!(written.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()), Some("edge1"));
        let mut ledger = Ledger::default();
        assert_eq!(ledger.record(), Ok(None));
        assert!(ledger.set(written.clone(), Instant::now()));
        assert_eq!(ledger.record(), Ok(Some(record)));
        let mut bad = written;
        bad.metadata.annotations = None;
        ledger.set(bad, Instant::now());
        assert!(ledger.record().is_err_and(|why| why.contains("has no annotation sluicegate.io/members")));
        assert!(ledger.remove(RECORD));
        assert_eq!(ledger.record(), Ok(None));
    }

    #[test]
    fn names_become_names_of_objects_or_nothing() {
        assert_eq!(lease_name("node-1.example").as_deref(), Some("sluicegate-director-node-1.example"));
        for bad in ["", "Edge", "a_b", "-a", "a-", "a..b", &"a".repeat(201)] {
            assert_eq!(lease_name(bad), None, "{bad}");
        }
    }
}
