//! How long it takes from a folder of manifests to the desired state, and from one changed file to its event.
//!
//! `cargo run --release -p sluicegate-source --example first_state -- [INGRESSES]` makes that many Ingresses and
//! Services (20,000 by default) with five endpoints each in temporary folders: once as one file for each Service, once as four
//! large files of YAML, once as four large files of JSON.

use sluicegate_config::Settings;
use sluicegate_source::{Directory, DirectorySettings, load};
use sluicegate_translate::Controller;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

const CHANGES: u16 = 50;

fn main() -> io::Result<()> {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20_000);
    type Writer = fn(&Path, usize) -> io::Result<()>;
    let layouts: [(&str, Writer); 3] =
        [("small YAML files", small_files), ("4 large YAML files", large_files), ("4 large JSON files", json_files)];
    println!("{count} Ingresses, {count} Services, {} endpoints", count * 5);
    println!("{:20} {:>10} {:>10} {:>10} {:>12}", "layout", "parse ms", "state ms", "sum ms", "change ms");
    for (name, write) in layouts {
        let folder = tempfile::tempdir()?;
        write(folder.path(), count)?;
        // A first look warms the page cache.
        first_state(folder.path())?;
        let (parse, state) = first_state(folder.path())?;
        let change = one_change(folder.path())?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{name:20} {:>10.0} {:>10.0} {:>10.0} {:>12.1}", ms(parse), ms(state), ms(parse + state), ms(change));
    }
    Ok(())
}

fn first_state(folder: &Path) -> io::Result<(Duration, Duration)> {
    let start = Instant::now();
    let loaded = load(&[folder.to_owned()]).map_err(io::Error::other)?;
    let parse = start.elapsed();
    let mut controller = Controller::new(Settings::for_folder());
    let start = Instant::now();
    let update = controller.apply(loaded.changes, 1_800_000_000);
    let state = start.elapsed();
    assert!(!update.diff.is_empty() && loaded.file_rejections.iter().all(|(_, notes)| notes.is_empty()));
    Ok((parse, state))
}

/// Median time from the write of one document to the event that tells of it.
fn one_change(folder: &Path) -> io::Result<Duration> {
    let (send, events) = sync_channel(4);
    let settings = DirectorySettings { paths: vec![folder.to_owned()], poll: false };
    let _directory = Directory::watch(settings, move |event| send.send(event).is_ok()).map_err(io::Error::other)?;
    events.recv().map_err(io::Error::other)?;
    let file = fs::read_dir(folder)?.next().ok_or(io::ErrorKind::NotFound)??.path();
    let text = fs::read_to_string(&file)?;
    let mut times = Vec::new();
    for round in 0..CHANGES {
        let changed = text.replacen("8080", &(9000 + round).to_string(), 1);
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        fs::write(&file, changed)?;
        let event = events.recv().map_err(io::Error::other)?;
        times.push(start.elapsed());
        assert_eq!(event.changes.len(), 1, "one object changed");
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn documents(i: usize) -> [String; 3] {
    let namespace = format!("team-{}", i % 50);
    let ingress = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: web-{i}\n  namespace: {namespace}\nspec:\n  ingressClassName: sluicegate\n  rules:\n  - host: host-{i}.example\n    http:\n      paths:\n      - path: /\n        pathType: Prefix\n        backend:\n          service:\n            name: svc-{i}\n            port:\n              number: 80\n"
    );
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{i}\n  namespace: {namespace}\nspec:\n  selector:\n    app: web-{i}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n"
    );
    let mut slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-{i}-abcde\n  namespace: {namespace}\n  labels:\n    kubernetes.io/service-name: svc-{i}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n"
    );
    for endpoint in 0..5 {
        // Writing to a String does not fail.
        let _ok = write!(
            slice,
            "- addresses:\n  - 10.{}.{}.{endpoint}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  nodeName: node-{}\n  targetRef:\n    kind: Pod\n    name: web-{i}-{endpoint}\n    namespace: {namespace}\n",
            i / 250,
            i % 250,
            i % 40
        );
    }
    [ingress, service, slice]
}

fn small_files(folder: &Path, count: usize) -> io::Result<()> {
    (0..count).try_for_each(|i| fs::write(folder.join(format!("{i}.yaml")), documents(i).join("---\n")))
}

fn large_files(folder: &Path, count: usize) -> io::Result<()> {
    (0..4).try_for_each(|file| {
        let texts = (0..count).filter(|i| i % 4 == file).flat_map(documents);
        fs::write(folder.join(format!("{file}.yaml")), texts.collect::<Vec<_>>().join("---\n"))
    })
}

fn json_files(folder: &Path, count: usize) -> io::Result<()> {
    (0..4).try_for_each(|file| {
        let texts = (0..count).filter(|i| i % 4 == file).flat_map(documents).map(|text| {
            let value: serde_json::Value = yaml_serde::from_str(&text).map_err(io::Error::other)?;
            Ok(format!("{value:#}\n"))
        });
        fs::write(folder.join(format!("{file}.json")), texts.collect::<io::Result<String>>()?)
    })
}
