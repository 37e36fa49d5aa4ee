//! Leases of directors, and the record of who they are, on an API server.

use serde_json::json;
use sluicegate_apiserver::{ApiServer, Fault};
use sluicegate_source::directors::{
    DirectorLease, DirectorLeaseSettings, DirectorLeases, DirectorMember, DirectorNews, DirectorRecord,
};
use sluicegate_source::{KubeClient, Login};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "sluicegate-system";

fn client(server: &ApiServer) -> KubeClient {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, server.kubeconfig()).expect("a kubeconfig");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(KubeClient::new(&Login { kubeconfig: Some(path), context: None })).expect("a client")
}

fn member(life: u64) -> DirectorMember {
    DirectorMember { life, addresses: vec!["192.0.2.11:7946".parse().expect("an address")] }
}

fn record(number: u64, members: &[(&str, u64)]) -> DirectorRecord {
    let members = members.iter().map(|(name, life)| ((*name).to_owned(), member(*life)));
    DirectorRecord { number, members: members.collect() }
}

/// A director as far as the API server is concerned.
struct Director {
    leases: Option<DirectorLeases>,
    proposals: UnboundedSender<DirectorRecord>,
    news: Receiver<DirectorNews>,
    record: Option<DirectorRecord>,
    others: BTreeMap<String, (DirectorLease, u64)>,
    trouble: Option<String>,
    renewals: u64,
}

impl Director {
    fn start(server: &ApiServer, name: &str, life: u64) -> Self {
        let (proposals, proposed) = unbounded_channel();
        let (tell, news) = channel();
        let settings = DirectorLeaseSettings { namespace: NAMESPACE.into(), name: name.into(), member: member(life) };
        let leases = Some(DirectorLeases::start(client(server), settings, proposed, tell).expect("it starts"));
        Self { leases, proposals, news, record: None, others: BTreeMap::new(), trouble: None, renewals: 0 }
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what} did not come: {:?} {:?}", self.others, self.trouble);
            match self.news.recv_timeout(Duration::from_millis(50)) {
                Ok(DirectorNews::Record(record)) => self.record = record,
                Ok(DirectorNews::Leases(leases)) => self.others = leases,
                Ok(DirectorNews::Renewed(_)) => self.renewals += 1,
                Ok(DirectorNews::Trouble(trouble)) => self.trouble = trouble,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended before: {what}"),
            }
        }
    }

    fn sees(&self, name: &str, life: u64) -> bool {
        self.others.get(name).is_some_and(|(lease, _)| *lease == DirectorLease::Alive(member(life)))
    }
}

#[test]
fn directors_see_each_other_and_one_record() {
    let server = ApiServer::start().expect("a server");
    let mut one = Director::start(&server, "edge1", 1);
    one.until("its own Lease", |one| one.sees("edge1", 1));
    assert_eq!(one.record, None);
    one.proposals.send(record(1, &[("edge1", 1)])).expect("it runs");
    one.until("the first record", |one| one.record == Some(record(1, &[("edge1", 1)])));

    let mut two = Director::start(&server, "edge2", 2);
    two.until("the other one and the record", |two| two.sees("edge1", 1) && two.record == one.record);
    one.until("the other one", |one| one.sees("edge2", 2));
    // Of two that are written at a time one is, and both learn which.
    one.proposals.send(record(2, &[("edge1", 1), ("edge2", 2)])).expect("it runs");
    two.proposals.send(record(2, &[("edge2", 2)])).expect("it runs");
    one.until("the second record", |one| one.record.as_ref().is_some_and(|record| record.number == 2));
    two.until("the same one", |two| two.record == one.record);
    // What is not the next one is not written.
    one.proposals.send(record(2, &[("edge1", 1)])).expect("it runs");
    one.proposals.send(record(3, &[("edge1", 1), ("edge2", 2)])).expect("it runs");
    two.until("the third record", |two| two.record == Some(record(3, &[("edge1", 1), ("edge2", 2)])));

    // As `kubectl get lease` shows them.
    let spec = |name: &str| server.object("Lease", NAMESPACE, name).expect("a Lease")["spec"].clone();
    assert_eq!(spec("sluicegate-director-edge1")["holderIdentity"], "edge1");
    assert!(spec("sluicegate-director-edge1")["renewTime"].is_string());
    assert_eq!(spec("sluicegate-directors")["holderIdentity"], "edge1,edge2");
    assert_eq!(spec("sluicegate-directors")["leaseTransitions"], 3);
    one.leases.as_ref().expect("it runs").set_number(3);
    two.until("what the other one knows", |two| two.others.get("edge1").is_some_and(|(_, number)| *number == 3));

    one.leases.take().expect("it runs").release();
    two.until("that the other one has ended", |two| {
        two.others.get("edge1").is_some_and(|(lease, number)| (lease, *number) == (&DirectorLease::Ended(1), 0))
    });
    assert_eq!(spec("sluicegate-director-edge1")["holderIdentity"], "");
    server.remove("Lease", NAMESPACE, "sluicegate-director-edge1").expect("it was there");
    two.until("that the Lease is gone", |two| !two.others.contains_key("edge1"));
    // Its own is made again.
    server.remove("Lease", NAMESPACE, "sluicegate-director-edge2").expect("it was there");
    two.until("its own Lease again", |two| two.sees("edge2", 2) && two.renewals > 0);
}

#[test]
fn a_lease_costs_little_and_outlives_an_outage() {
    let server = ApiServer::start().expect("a server");
    let mut one = Director::start(&server, "edge1", 1);
    one.until("its own Lease", |one| one.sees("edge1", 1) && one.renewals > 0);
    one.proposals.send(record(1, &[("edge1", 1)])).expect("it runs");
    one.until("the first record", |one| one.record.is_some());
    server.forget();
    let (begun, before) = (Instant::now(), one.renewals);
    one.until("three renewals", |one| one.renewals == before + 3);
    let requests = server.seen().len();
    println!("{requests} requests in {:?}", begun.elapsed());
    assert!(requests <= 5, "three renewals and no more than a watch: {:?}", server.seen());
    server.go_down();
    one.until("that nobody answers", |one| one.trouble.is_some());
    assert!(one.sees("edge1", 1), "what was known stays known");
    one.proposals.send(record(2, &[("edge1", 1), ("edge2", 2)])).expect("it runs");
    server.come_back();
    one.until("what was proposed meanwhile", |one| one.record.as_ref().is_some_and(|record| record.number == 2));
    one.until("all is well", |one| one.trouble.is_none());
}

#[test]
fn a_missing_right_is_named_with_its_rule() {
    let server = ApiServer::start().expect("a server");
    server.faults().set(|seen| {
        let is_forbidden = seen.resource == "leases";
        is_forbidden.then_some(Fault::Refuse(http::StatusCode::FORBIDDEN, "Forbidden"))
    });
    let mut one = Director::start(&server, "edge1", 1);
    one.until("a complaint", |one| one.trouble.is_some());
    assert_eq!(
        one.trouble.as_deref(),
        Some(
            "the API server forbids to get leases in namespace sluicegate-system; give the service account the rule \
             {apiGroups: [\"coordination.k8s.io\"], resources: [leases], verbs: [create, get, list, update, watch]} there"
        )
    );
    assert!(one.others.is_empty() && one.record.is_none(), "nothing is known");
    server.faults().clear();
    one.until("all is well", |one| one.trouble.is_none() && one.sees("edge1", 1));
}

#[test]
fn a_name_belongs_to_the_machine_that_renews_it() {
    let server = ApiServer::start().expect("a server");
    let elsewhere = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": "sluicegate-director-edge1", "namespace": NAMESPACE, "labels": {"sluicegate.io/director": "member"},
            "annotations": {"sluicegate.io/life": "9", "sluicegate.io/addresses": "", "sluicegate.io/boot-id": "another"},
        },
        "spec": {"holderIdentity": "edge1", "leaseDurationSeconds": 40},
    });
    server.put(elsewhere).expect("a Lease");
    let mut one = Director::start(&server, "edge1", 1);
    one.until("a complaint", |one| one.trouble.is_some());
    assert!(
        one.trouble.as_deref().is_some_and(|why| why.contains("another director is called edge1")),
        "{:?}",
        one.trouble
    );
    assert!(one.others.is_empty(), "it takes part in nothing");
    // It gives it back.
    let mut released = (*server.object("Lease", NAMESPACE, "sluicegate-director-edge1").expect("a Lease")).clone();
    released["spec"]["holderIdentity"] = json!("");
    server.put(released).expect("a Lease");
    one.until("its own Lease", |one| one.sees("edge1", 1));

    // Started again on the same machine, it does not wait for its former life, and that one is told.
    let mut again = Director::start(&server, "edge1", 2);
    again.until("its own Lease", |again| again.sees("edge1", 2));
    one.until("that its name is taken", |one| {
        one.trouble.as_deref().is_some_and(|why| why.contains("another process has taken the name"))
    });
    assert!(one.sees("edge1", 2));
}
