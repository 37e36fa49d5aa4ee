//! A real folder, watched: what is taken and when.

#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

use sluicegate_config::{ObjectRef, Rejection, Verdict};
use sluicegate_source::{Directory, DirectorySettings, SourceError, SourceEvent, load};
use sluicegate_translate::ObjectChange;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than any wait inside the source, for "nothing happens".
const LONG_ENOUGH: Duration = Duration::from_millis(150);
/// For what has to happen.
const AT_MOST: Duration = Duration::from_secs(20);

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

/// A watched folder and what came out of it so far.
struct Watched {
    root: TempDir,
    events: Receiver<SourceEvent>,
    directory: Option<Directory>,
    ports: BTreeMap<String, i32>,
    removed: usize,
    notes: BTreeMap<String, Vec<Rejection>>,
}

impl Watched {
    fn start(poll: bool, prepare: impl FnOnce(&Path)) -> Self {
        let root = TempDir::new().unwrap();
        prepare(root.path());
        let paths = vec![root.path().to_owned()];
        Self::over(root, paths, poll)
    }

    fn over(root: TempDir, paths: Vec<PathBuf>, poll: bool) -> Self {
        Self::with_room(16, root, paths, poll)
    }

    /// With that many events, nobody takes more from the source before they are taken here.
    fn with_room(room: usize, root: TempDir, paths: Vec<PathBuf>, poll: bool) -> Self {
        let (send, events) = sync_channel(room);
        let directory =
            Directory::watch(DirectorySettings { paths, poll }, move |event| send.send(event).is_ok()).unwrap();
        let mut watched = Self {
            root,
            events,
            directory: Some(directory),
            ports: BTreeMap::new(),
            removed: 0,
            notes: BTreeMap::new(),
        };
        let first = watched.events.recv_timeout(AT_MOST).unwrap();
        assert!(first.initial);
        watched.take(first);
        watched
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn take(&mut self, event: SourceEvent) {
        for change in event.changes {
            match change {
                ObjectChange::Set(object) => {
                    let sluicegate_translate::Object::Service(service) = &object else { continue };
                    let port =
                        service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).map_or(0, |ports| ports[0].port);
                    self.ports.insert(object.reference().name.to_string(), port);
                }
                ObjectChange::Remove(ObjectRef { name, .. }) => {
                    self.removed += 1;
                    self.ports.remove(&*name);
                }
            }
        }
        for (file, notes) in event.file_rejections {
            let name = Path::new(&*file).strip_prefix(self.root.path()).unwrap_or(Path::new(&*file));
            let name = name.to_string_lossy().into_owned();
            if notes.is_empty() {
                self.notes.remove(&name)
            } else {
                self.notes.insert(name, notes)
            };
        }
    }

    /// Waits until the Services are these.
    #[track_caller]
    fn expect(&mut self, services: &[(&str, i32)]) {
        let wanted = services.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect::<BTreeMap<_, _>>();
        let deadline = Instant::now() + AT_MOST;
        while self.ports != wanted {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(error) => panic!("{error}: {:?} and not {wanted:?}; notes: {:?}", self.ports, self.notes),
            }
        }
    }

    /// Waits until the file has notes, or none.
    #[track_caller]
    fn expect_note(&mut self, file: &str, part: Option<&str>) {
        let deadline = Instant::now() + AT_MOST;
        loop {
            match (self.notes.get(file), part) {
                (None, None) => return,
                (Some(notes), Some(part)) if notes.iter().any(|note| note.to_string().contains(part)) => return,
                _ => {}
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(error) => panic!("{error}: {part:?} is not said of {file}: {:?}", self.notes),
            }
        }
    }

    #[track_caller]
    fn expect_silence(&mut self) {
        match self.events.recv_timeout(LONG_ENOUGH) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(error) => panic!("{error}"),
            Ok(event) => panic!("{event:?}"),
        }
    }
}

#[test]
fn files_come_change_and_go() {
    let mut folder = Watched::start(false, |root| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/deep.yml"), service("deep", 1)).unwrap();
        fs::write(root.join("plain.json"), "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"json\"},\"spec\":{\"ports\":[{\"port\":2}]}}").unwrap();
        fs::write(root.join(".hidden.yaml"), service("hidden", 9)).unwrap();
        fs::write(root.join("notes.txt"), service("text", 9)).unwrap();
        fs::create_dir(root.join(".git")).unwrap();
        fs::write(root.join(".git/x.yaml"), service("git", 9)).unwrap();
    });
    folder.expect(&[("deep", 1), ("json", 2)]);
    folder.write("new.yaml", &service("new", 3));
    folder.expect(&[("deep", 1), ("json", 2), ("new", 3)]);
    folder.write("new.yaml", &service("new", 4));
    folder.expect(&[("deep", 1), ("json", 2), ("new", 4)]);
    folder.write(".swap.yaml", &service("swap", 9));
    folder.write("new.yaml~", &service("backup", 9));
    folder.expect_silence();
    // As editors that replace do.
    folder.write(".new.yaml.tmp", &service("new", 5));
    fs::rename(folder.path(".new.yaml.tmp"), folder.path("new.yaml")).unwrap();
    folder.expect(&[("deep", 1), ("json", 2), ("new", 5)]);
    fs::remove_file(folder.path("a/b/deep.yml")).unwrap();
    fs::rename(folder.path("new.yaml"), folder.path("a/moved.yaml")).unwrap();
    folder.expect(&[("json", 2), ("new", 5)]);
    fs::remove_dir_all(folder.path("a")).unwrap();
    folder.expect(&[("json", 2)]);
}

#[test]
fn folders_come_move_and_go_with_their_files() {
    let mut folder = Watched::start(false, |_| {});
    folder.expect(&[]);
    fs::create_dir_all(folder.path("x/y")).unwrap();
    folder.write("x/y/a.yaml", &service("a", 1));
    folder.expect(&[("a", 1)]);
    fs::rename(folder.path("x"), folder.path("z")).unwrap();
    folder.write("z/y/a.yaml", &service("a", 2));
    folder.expect(&[("a", 2)]);
    fs::rename(folder.path("z"), folder.path(".z")).unwrap();
    folder.expect(&[]);
    fs::rename(folder.path(".z"), folder.path("w")).unwrap();
    folder.expect(&[("a", 2)]);
    let elsewhere = TempDir::new().unwrap();
    fs::create_dir(elsewhere.path().join("linked")).unwrap();
    fs::write(elsewhere.path().join("linked/b.yaml"), service("b", 1)).unwrap();
    symlink(elsewhere.path().join("linked"), folder.path("link")).unwrap();
    folder.expect(&[("a", 2), ("b", 1)]);
    fs::write(elsewhere.path().join("linked/b.yaml"), service("b", 2)).unwrap();
    folder.expect(&[("a", 2), ("b", 2)]);
    fs::remove_file(folder.path("link")).unwrap();
    folder.expect(&[("a", 2)]);
}

#[test]
fn who_writes_in_a_folder_that_was_just_renamed_does_not_write_under_its_former_name() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("x/y")).unwrap();
    fs::write(root.path().join("x/y/a.yaml"), service("a", 1)).unwrap();
    let paths = vec![root.path().to_owned()];
    let mut folder = Watched::with_room(0, root, paths, false);
    folder.expect(&[("a", 1)]);
    // While this is not taken the source is held up, and finds all that follows at once.
    folder.write("other.yaml", &service("other", 1));
    std::thread::sleep(LONG_ENOUGH);
    fs::rename(folder.path("x"), folder.path("z")).unwrap();
    let mut writer = OpenOptions::new().write(true).truncate(true).open(folder.path("z/y/a.yaml")).unwrap();
    writer.write_all(service("a", 2).as_bytes()).unwrap();
    folder.expect(&[("a", 1), ("other", 1)]);
    std::thread::sleep(LONG_ENOUGH);
    drop(writer);
    folder.expect(&[("a", 2), ("other", 1)]);
    fs::remove_file(folder.path("z/y/a.yaml")).unwrap();
    folder.expect(&[("other", 1)]);
}

#[test]
fn a_file_that_is_being_written_is_not_the_truth() {
    let mut folder = Watched::start(false, |root| fs::write(root.join("a.yaml"), service("a", 1)).unwrap());
    folder.expect(&[("a", 1)]);
    let mut writer = OpenOptions::new().write(true).truncate(true).open(folder.path("a.yaml")).unwrap();
    folder.expect_silence();
    writer.write_all(service("a", 2).as_bytes()).unwrap();
    folder.expect_silence();
    writer.write_all(format!("---\n{}", service("b", 1)).as_bytes()).unwrap();
    // Another file's change must not make it look.
    folder.write("other.yaml", &service("other", 1));
    folder.expect(&[("a", 1), ("other", 1)]);
    fs::create_dir(folder.path("sub")).unwrap();
    folder.expect_silence();
    drop(writer);
    folder.expect(&[("a", 2), ("b", 1), ("other", 1)]);
    let mut writer = OpenOptions::new().write(true).create_new(true).open(folder.path("new.yaml")).unwrap();
    writer.write_all(service("new", 1).as_bytes()).unwrap();
    folder.expect_silence();
    drop(writer);
    folder.expect(&[("a", 2), ("b", 1), ("new", 1), ("other", 1)]);
}

#[test]
fn editors_that_move_the_old_file_away_first_remove_nothing() {
    let mut folder = Watched::start(false, |root| fs::write(root.join("a.yaml"), service("a", 1)).unwrap());
    folder.expect(&[("a", 1)]);
    for port in 2..12 {
        fs::rename(folder.path("a.yaml"), folder.path("a.yaml~")).unwrap();
        let mut writer = OpenOptions::new().write(true).create_new(true).open(folder.path("a.yaml")).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        writer.write_all(service("a", port).as_bytes()).unwrap();
        drop(writer);
        folder.expect(&[("a", i32::from(port))]);
    }
    assert_eq!(folder.removed, 0);
}

#[test]
fn rewriting_in_place_never_shows_a_half() {
    let documents =
        |round: u16| (0..200).map(|name| service(&format!("s{name}"), round)).collect::<Vec<_>>().join("---\n");
    let mut folder = Watched::start(false, |root| fs::write(root.join("a.yaml"), documents(1)).unwrap());
    let path = folder.path("a.yaml");
    let writer = std::thread::spawn(move || {
        for round in 2..=400 {
            let mut file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
            for part in documents(round).as_bytes().chunks(4096) {
                file.write_all(part).unwrap();
            }
        }
    });
    let wanted = (0..200).map(|name| format!("s{name}")).collect::<Vec<_>>();
    folder.expect(&wanted.iter().map(|name| (name.as_str(), 400)).collect::<Vec<_>>());
    writer.join().unwrap();
    assert_eq!((folder.removed, folder.notes.len()), (0, 0), "{:?}", folder.notes);
}

#[test]
fn a_large_first_state_comes_in_parts_and_the_last_says_so() {
    const FILES: usize = 5_000;
    let root = TempDir::new().unwrap();
    for number in 0..FILES {
        fs::write(root.path().join(format!("{number:04}.yaml")), service(&format!("s{number}"), 1)).unwrap();
    }
    // All of them rest by the time that they are looked at.
    std::thread::sleep(Duration::from_millis(150));
    let (send, events) = sync_channel(0);
    let settings = DirectorySettings { paths: vec![root.path().to_owned()], poll: false };
    let _directory = Directory::watch(settings, move |event: SourceEvent| send.send(event).is_ok()).unwrap();
    let mut sizes = Vec::new();
    loop {
        let event = events.recv_timeout(AT_MOST).unwrap();
        sizes.push(event.changes.len());
        if event.initial {
            break;
        }
    }
    assert!(sizes.len() > 1 && sizes.iter().sum::<usize>() == FILES, "{sizes:?}");
}

#[test]
fn a_broken_file_is_reported_and_keeps_what_it_gave() {
    let mut folder = Watched::start(false, |root| {
        fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
        fs::write(root.join("bad.yaml"), "kind: [").unwrap();
    });
    folder.expect(&[("a", 1)]);
    folder.expect_note("bad.yaml", Some("document 1"));
    folder.write("a.yaml", "kind: {");
    folder.expect_note("a.yaml", Some("stays in force: Service default/a"));
    folder.expect(&[("a", 1)]);
    folder.write("a.yaml", &service("a", 2));
    folder.expect(&[("a", 2)]);
    folder.expect_note("a.yaml", None);
    fs::remove_file(folder.path("bad.yaml")).unwrap();
    folder.expect_note("bad.yaml", None);
    // A sparse file of 65 MiB is too large to be read.
    fs::File::create(folder.path("large.yaml")).unwrap().set_len(65 << 20).unwrap();
    folder.expect_note("large.yaml", Some("divide it"));
}

#[test]
fn a_mounted_config_map_is_swapped_as_one() {
    fn revision(root: &Path, name: &str, port: u16) {
        let data = root.join(name);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a.yaml"), service("a", port)).unwrap();
        fs::write(data.join("b.yaml"), service("b", port)).unwrap();
        symlink(name, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    }
    let prepare = |root: &Path| {
        revision(root, "..2026_1", 1);
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        symlink("..data/b.yaml", root.join("b.yaml")).unwrap();
    };
    let mut folder = Watched::start(false, prepare);
    folder.expect(&[("a", 1), ("b", 1)]);
    revision(folder.root.path(), "..2026_2", 2);
    fs::remove_dir_all(folder.path("..2026_1")).unwrap();
    let start = Instant::now();
    folder.expect(&[("a", 2), ("b", 2)]);
    assert!(
        start.elapsed() < Duration::from_millis(900),
        "found by the event and not by looking: {:?}",
        start.elapsed()
    );
    assert_eq!(folder.removed, 0);

    // One file of such a mount, named by itself.
    let root = TempDir::new().unwrap();
    prepare(root.path());
    let only = root.path().join("a.yaml");
    let mut file = Watched::over(root, vec![only], false);
    file.expect(&[("a", 1)]);
    revision(file.root.path(), "..2026_2", 3);
    file.expect(&[("a", 3)]);
}

#[test]
fn a_folder_that_is_replaced_is_followed() {
    let outer = TempDir::new().unwrap();
    let root = outer.path().join("manifests");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
    let mut folder = Watched::over(outer, vec![root.clone()], false);
    folder.expect(&[("a", 1)]);
    fs::rename(&root, folder.path("old")).unwrap();
    folder.expect_note("manifests", Some("cannot be read"));
    folder.expect(&[("a", 1)]);
    fs::create_dir(folder.path("next")).unwrap();
    folder.write("next/b.yaml", &service("b", 1));
    fs::rename(folder.path("next"), &root).unwrap();
    folder.expect(&[("b", 1)]);
    folder.expect_note("manifests", None);
    folder.write("manifests/b.yaml", &service("b", 2));
    folder.expect(&[("b", 2)]);
}

#[test]
fn links_in_circles_and_links_to_files_are_followed_once() {
    let target = TempDir::new().unwrap();
    fs::write(target.path().join("real.yaml"), service("linked", 1)).unwrap();
    let mut folder = Watched::start(false, |root| {
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/a.yaml"), service("a", 1)).unwrap();
        symlink("..", root.join("sub/up")).unwrap();
        symlink(target.path().join("real.yaml"), root.join("link.yaml")).unwrap();
        symlink("nowhere.yaml", root.join("dangling.yaml")).unwrap();
    });
    folder.expect(&[("a", 1), ("linked", 1)]);
    assert!(folder.notes.is_empty(), "{:?}", folder.notes);
    fs::write(target.path().join("real.yaml"), service("linked", 2)).unwrap();
    folder.expect(&[("a", 1), ("linked", 2)]);
}

#[test]
fn polling_finds_the_same() {
    let mut folder = Watched::start(true, |root| fs::write(root.join("a.yaml"), service("a", 1)).unwrap());
    folder.expect(&[("a", 1)]);
    folder.write("a.yaml", &service("a", 2));
    fs::create_dir(folder.path("sub")).unwrap();
    folder.write("sub/b.yaml", &service("b", 1));
    folder.expect(&[("a", 2), ("b", 1)]);
    fs::remove_dir_all(folder.path("sub")).unwrap();
    folder.expect(&[("a", 2)]);
}

#[test]
fn one_change_is_handed_on_in_milliseconds() {
    let mut folder = Watched::start(false, |root| {
        for file in 0..500 {
            fs::write(root.join(format!("{file}.yaml")), service(&format!("s{file}"), 1)).unwrap();
        }
    });
    let mut times = (2..42)
        .map(|port| {
            std::thread::sleep(Duration::from_millis(30));
            let start = Instant::now();
            folder.write("7.yaml", &service("s7", port));
            while folder.ports["s7"] != i32::from(port) {
                let event = folder.events.recv_timeout(AT_MOST).unwrap();
                folder.take(event);
            }
            start.elapsed()
        })
        .collect::<Vec<_>>();
    times.sort();
    // The best of them, because the machine may be busy with other tests.
    assert!(times[4] < Duration::from_millis(10), "{times:?}");
}

#[test]
fn dropping_it_ends_the_thread() {
    let mut folder = Watched::start(false, |_| {});
    drop(folder.directory.take());
    assert!(matches!(folder.events.recv_timeout(AT_MOST), Err(RecvTimeoutError::Disconnected)));
}

#[test]
fn what_cannot_be_read_at_all_is_an_error() {
    let root = TempDir::new().unwrap();
    let missing = root.path().join("missing");
    let error = load(std::slice::from_ref(&missing)).unwrap_err();
    assert!(matches!(error, SourceError::Unreadable { .. }));
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
    assert!(matches!(load(&[]), Err(SourceError::NothingNamed)));
    assert!(matches!(load(&[PathBuf::from("/dev/null")]), Err(SourceError::NotAManifest { .. })));
    let settings = DirectorySettings { paths: vec![missing], poll: false };
    assert!(matches!(Directory::watch(settings, |_| true), Err(SourceError::Unreadable { .. })));
}

#[test]
fn loading_once_takes_files_and_folders() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("folder")).unwrap();
    fs::write(root.path().join("folder/a.yaml"), service("a", 1)).unwrap();
    fs::write(root.path().join("manifest"), format!("{}---\nkind: [", service("b", 1))).unwrap();
    let loaded = load(&[root.path().join("folder"), root.path().join("manifest")]).unwrap();
    let names = loaded.changes.iter().map(|change| match change {
        ObjectChange::Set(object) => object.reference().to_string(),
        ObjectChange::Remove(reference) => format!("removal of {reference}"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["Service default/a", "Service default/b"]);
    let rejected =
        loaded.file_rejections.iter().filter(|(_, notes)| notes.iter().any(|note| note.verdict == Verdict::Rejected));
    assert_eq!(rejected.map(|(file, _)| &**file).collect::<Vec<_>>(), [root.path().join("manifest").to_str().unwrap()]);
}
