//! Who the directors of a cluster are: carries word between the Leases and the announcer.

use sluicegate_admin::director::MembershipState;
use sluicegate_announce::{
    Announcer, DirectorId, Incarnation, Joins, LeaseState, Member, Membership, Standing, Status,
};
use sluicegate_source::directors::{
    DirectorLease, DirectorLeaseSettings, DirectorLeases, DirectorMember, DirectorNews, DirectorRecord,
};
use sluicegate_source::{KubeClient, Login};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How directors find each other through a cluster.
#[derive(Clone)]
pub struct LeaseSettings {
    /// The way to the API server.
    pub login: Login,
    /// Where the Leases are.
    pub namespace: Arc<str>,
    /// Where the others find this one. Without any it is alone, or stays outside.
    pub addresses: Vec<SocketAddr>,
}

/// The Lease of this director, before and after it is kept.
pub struct Leases {
    settings: LeaseSettings,
    proposals: Option<UnboundedReceiver<DirectorRecord>>,
    tell: Sender<DirectorNews>,
    news: Receiver<DirectorNews>,
    keeper: Option<DirectorLeases>,
    renewed: Option<Instant>,
    trouble: Option<String>,
}

impl Leases {
    /// Both ends: what the announcer is started with comes first.
    pub fn new(settings: LeaseSettings) -> (Self, Joins) {
        let (propose, proposals) = unbounded_channel();
        let (tell, news) = channel();
        let addresses = settings.addresses.clone();
        // Who would write it may be gone; then nothing changes any more.
        let propose = move |next: Membership| drop(propose.send(record_of(next)));
        let joins = Joins { addresses, propose: Arc::new(propose) };
        let proposals = Some(proposals);
        (Self { settings, proposals, tell, news, keeper: None, renewed: None, trouble: None }, joins)
    }

    /// Keeps the Lease from now on.
    pub fn start(&mut self, name: &DirectorId, life: Incarnation) {
        let Some(proposals) = self.proposals.take() else { return };
        let LeaseSettings { login, namespace, addresses } = self.settings.clone();
        let member = DirectorMember { life: life.0, addresses };
        let settings = DirectorLeaseSettings { namespace, name: name.as_str().into(), member };
        let started = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| Ok(runtime.block_on(KubeClient::new(&login))?))
            .and_then(|client| Ok(DirectorLeases::start(client, settings, proposals, self.tell.clone())?));
        match started {
            Ok(keeper) => self.keeper = Some(keeper),
            Err(error) => {
                tracing::error!("this director finds no others and holds no VIP: {error:#}");
                self.trouble = Some(format!("{error:#}"));
            }
        }
    }

    /// Tells the announcer what there is to tell.
    pub fn carry(&mut self, announcer: &Announcer) {
        for news in self.news.try_iter() {
            match news {
                DirectorNews::Record(record) => announcer.set_record(record.map(membership_of)),
                DirectorNews::Leases(leases) => {
                    announcer.set_leases(leases.into_iter().filter_map(standing_of).collect())
                }
                DirectorNews::Renewed(at) => self.renewed = Some(at),
                DirectorNews::Trouble(trouble) => self.trouble = trouble,
            }
        }
        if let (Some(keeper), Some(membership)) = (&self.keeper, announcer.status().membership) {
            keeper.set_number(membership.number);
        }
    }

    /// Gives the Lease back: this director neither holds nor votes any more.
    pub fn release(self) {
        if let Some(keeper) = self.keeper {
            keeper.release();
        }
    }

    /// For people.
    pub fn state(&self, status: Option<&Status>) -> MembershipState {
        let membership = status.and_then(|status| status.membership.as_ref());
        MembershipState {
            number: membership.map_or(0, |membership| membership.number),
            members: membership
                .map_or_else(Vec::new, |membership| membership.members.iter().map(ToString::to_string).collect()),
            is_member: membership.is_some_and(|membership| membership.is_in),
            renewed_seconds_ago: self.renewed.map(|at| at.elapsed().as_secs()),
            trouble: self.trouble.clone(),
        }
    }
}

fn record_of(membership: Membership) -> DirectorRecord {
    let member = |(id, member): (DirectorId, Member)| {
        (id.as_str().to_owned(), DirectorMember { life: member.life.0, addresses: member.addresses })
    };
    DirectorRecord { number: membership.number, members: membership.members.into_iter().map(member).collect() }
}

/// Names that no director can have are left out, and with them their votes: nobody could be such a one.
fn membership_of(record: DirectorRecord) -> Membership {
    let members = record.members.into_iter().filter_map(|(name, found)| Some((named(&name)?, member(found))));
    Membership { number: record.number, members: members.collect() }
}

fn standing_of((name, (lease, number)): (String, (DirectorLease, u64))) -> Option<(DirectorId, Standing)> {
    let state = match lease {
        DirectorLease::Alive(found) => LeaseState::Alive(member(found)),
        DirectorLease::Expired => LeaseState::Expired,
        DirectorLease::Ended(life) => LeaseState::Ended(Incarnation(life)),
    };
    Some((named(&name)?, Standing { state, number }))
}

fn member(found: DirectorMember) -> Member {
    Member { life: Incarnation(found.life), addresses: found.addresses }
}

fn named(name: &str) -> Option<DirectorId> {
    DirectorId::new(name).ok()
}
