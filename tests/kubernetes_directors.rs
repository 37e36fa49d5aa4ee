//! Leases of directors on an API server, the one of the tests and a real one: three see each other, one record grows by
//! compare-and-swap, and both outlive an outage. What directors make of it is proved in `l4_membership`.

mod cluster_support;

use cluster_support::Cluster;
use serde_json::json;
use sluicegate_source::directors::{
    DirectorLease, DirectorLeaseSettings, DirectorLeases, DirectorMember, DirectorNews, DirectorRecord,
};
use sluicegate_source::{KubeClient, Login};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "sluicegate-system";

struct Director {
    leases: Option<DirectorLeases>,
    proposals: UnboundedSender<DirectorRecord>,
    news: Receiver<DirectorNews>,
    record: Option<DirectorRecord>,
    others: BTreeMap<String, (DirectorLease, u64)>,
    trouble: Option<String>,
}

fn member(life: u64) -> DirectorMember {
    DirectorMember { life, addresses: vec!["192.0.2.11:7946".parse().expect("an address")] }
}

fn record(number: u64, lives: std::ops::Range<u64>) -> DirectorRecord {
    DirectorRecord { number, members: lives.map(|life| (format!("edge{life}"), member(life))).collect() }
}

impl Director {
    fn start(cluster: &Cluster, life: u64) -> Self {
        let login = Login { kubeconfig: Some(cluster.kubeconfig().into()), context: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(KubeClient::new(&login)).expect("a client");
        let (proposals, proposed) = unbounded_channel();
        let (tell, news) = channel();
        let name = format!("edge{life}").into();
        let settings = DirectorLeaseSettings { namespace: NAMESPACE.into(), name, member: member(life) };
        let leases = Some(DirectorLeases::start(client, settings, proposed, tell).expect("it starts"));
        Self { leases, proposals, news, record: None, others: BTreeMap::new(), trouble: None }
    }

    #[track_caller]
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let found = (&self.record, &self.others, &self.trouble);
            assert!(Instant::now() < deadline, "{what} did not come: {found:?}");
            match self.news.recv_timeout(Duration::from_millis(50)) {
                Ok(DirectorNews::Record(record)) => self.record = record,
                Ok(DirectorNews::Leases(leases)) => self.others = leases,
                Ok(DirectorNews::Renewed(_)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(DirectorNews::Trouble(trouble)) => self.trouble = trouble,
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended before: {what}"),
            }
        }
    }

    fn sees(&self, life: u64) -> bool {
        let lease = self.others.get(&format!("edge{life}"));
        lease.is_some_and(|(lease, _)| *lease == DirectorLease::Alive(member(life)))
    }
}

fn three_directors_keep_one_record(mut cluster: Cluster) {
    cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    let mut directors: Vec<Director> = (1..4).map(|life| Director::start(&cluster, life)).collect();
    for director in &mut directors {
        director.until("all three", |director| (1..4).all(|life| director.sees(life)));
        assert_eq!(director.record, None);
    }
    // All begin at a time: one of them is first, and the others see by whom.
    for (director, life) in directors.iter().zip(1..) {
        director.proposals.send(record(1, life..life + 1)).expect("it runs");
    }
    for director in &mut directors {
        director.until("the first record", |director| director.record.is_some());
    }
    let first = directors[0].record.clone().expect("a record");
    assert!((1..4).any(|life| first == record(1, life..life + 1)), "{first:?}");
    assert!(directors.iter().all(|director| director.record.as_ref() == Some(&first)), "one record");
    directors[1].proposals.send(record(2, 1..4)).expect("it runs");
    for director in &mut directors {
        director.until("the second record", |director| director.record == Some(record(2, 1..4)));
    }
    let lease = cluster.get("Lease", NAMESPACE, "sluicegate-directors");
    assert_eq!(lease["spec"]["holderIdentity"], "edge1,edge2,edge3", "{lease:#}");

    // While the server is away what is known stays, and what was proposed is written afterwards, once.
    cluster.go_down();
    directors[0].until("that nobody answers", |director| director.trouble.is_some());
    assert!((1..4).all(|life| directors[0].sees(life)), "{:?}", directors[0].others);
    directors[0].proposals.send(record(3, 1..3)).expect("it runs");
    directors[1].proposals.send(record(3, 1..2)).expect("it runs");
    cluster.come_back();
    for director in &mut directors {
        director
            .until("the third record", |director| director.record.as_ref().is_some_and(|record| record.number == 3));
        director.until("that all is well", |director| director.trouble.is_none());
    }
    let third = directors[2].record.clone();
    assert!([record(3, 1..3), record(3, 1..2)].map(Some).contains(&third), "{third:?}");
    assert!(directors.iter().all(|director| director.record == third), "one record");

    directors[2].leases.take().expect("it runs").release();
    directors[0].until("that one has ended", |director| {
        director.others.get("edge3").is_some_and(|(lease, _)| *lease == DirectorLease::Ended(3))
    });
    cluster.delete("Lease", NAMESPACE, "sluicegate-director-edge3");
    directors[0].until("that its Lease is gone", |director| !director.others.contains_key("edge3"));
}

#[test]
fn three_directors_keep_one_record_in_process() {
    three_directors_keep_one_record(Cluster::in_process());
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn three_directors_keep_one_record_real() {
    three_directors_keep_one_record(Cluster::real());
}
