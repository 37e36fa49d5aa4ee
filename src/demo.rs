//! `demo`: echo backends and the gateway on built-in manifests, on one machine and without any rights; with the rights for
//! it, also a network of namespaces in which a director forwards packets.
//!
//! The manifests are copied into temporary folders, so that they can be edited while they are served. Folders and
//! namespaces are removed at the end, whether that is the end of `--once`, a signal or an error; what a killed demo left is
//! removed by the next one.

mod client;
mod folder;
mod laboratory;
mod packets;
mod passage;
mod programme;
mod report;
mod rights;
mod stage;
mod tour;

use crate::Failure;
use crate::cli::DemoArguments;
use crate::output::print;
use crate::run::{Signals, log_to_stderr};
use anyhow::Context as _;
use laboratory::Laboratory;
use report::Part;
use sluicegate_telemetry::logging::LogFormat;
use stage::Stage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};

/// How long open connections may take to end.
const DRAIN: Duration = Duration::from_secs(2);

pub fn demo(arguments: &DemoArguments) -> Result<(), Failure> {
    log_to_stderr(LogFormat::Text, &arguments.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let signals = runtime.block_on(async { Signals::new() })?;
    folder::sweep();
    laboratory::sweep();
    let mut stage = Stage::set_up(&runtime, arguments.http, arguments.https)?;
    let result = match arguments.once {
        true => once(arguments, &runtime, signals, &mut stage),
        false => until_signal(arguments, &runtime, signals, &stage),
    };
    stage.strike(DRAIN);
    result
}

/// Every path once.
fn once(arguments: &DemoArguments, runtime: &Runtime, mut signals: Signals, stage: &mut Stage) -> Result<(), Failure> {
    let progress = Progress::start();
    let mut parts = Vec::new();
    let finished = runtime.block_on(async {
        tokio::select! {
            part = tour::tour(stage) => parts.push(part),
            _ = signals.next() => return false,
        }
        let packets = move |handle, cancelled| -> anyhow::Result<Part> {
            let say = |text: &str| progress.say(text);
            packets::tour(&Laboratory::build(handle, cancelled, &say)?, &say)
        };
        match with_rights(arguments, &mut signals, progress, packets).await {
            Asked::Done(part) => parts.push(part),
            Asked::LeftOut => {}
            Asked::Interrupted => return false,
            Asked::Failed(error) => parts.push(failed(error)),
        }
        true
    });
    if !finished {
        return Err(Failure::Silent);
    }
    print(&report::render(&parts, arguments.output))?;
    if report::is_ok(&parts) { Ok(()) } else { Err(Failure::Silent) }
}

/// Stays up.
fn until_signal(
    arguments: &DemoArguments,
    runtime: &Runtime,
    mut signals: Signals,
    stage: &Stage,
) -> Result<(), Failure> {
    let progress = Progress::start();
    print(&programme::of_gateway(stage))?;
    let _laboratory = runtime.block_on(async {
        let build = move |handle, cancelled| Laboratory::build(handle, cancelled, &|text| progress.say(text));
        let laboratory = match with_rights(arguments, &mut signals, progress, build).await {
            Asked::Done(laboratory) => Some(laboratory),
            Asked::LeftOut => None,
            Asked::Interrupted => return Ok::<_, Failure>(None),
            Asked::Failed(error) => {
                progress.say(&format!("the packet part is left out, it failed: {}", report::told(&error)));
                None
            }
        };
        if let Some(laboratory) = &laboratory {
            print(&programme::of_packets(laboratory))?;
        }
        print(programme::END)?;
        signals.next().await;
        Ok(laboratory)
    })?;
    print("\nstopping: what the demo made is removed\n")?;
    Ok(())
}

/// What became of the packet part.
enum Asked<T> {
    Done(T),
    /// There are no rights for it, which was said.
    LeftOut,
    /// A signal came in between, and all of it is removed.
    Interrupted,
    Failed(anyhow::Error),
}

/// Does the work on a thread that may block, where there are the rights for it; a signal ends it early, a second one at
/// once.
async fn with_rights<T: Send + 'static>(
    arguments: &DemoArguments,
    signals: &mut Signals,
    progress: Progress,
    work: impl FnOnce(Handle, Arc<AtomicBool>) -> anyhow::Result<T> + Send + 'static,
) -> Asked<T> {
    if arguments.no_packets {
        return Asked::LeftOut;
    }
    let missing = rights::missing();
    if !missing.is_empty() {
        progress.say(&format!("the packet part is left out: it needs root; missing: {}", missing.join(", ")));
        return Asked::LeftOut;
    }
    progress.say("packets: building a network of namespaces");
    let cancelled = Arc::new(AtomicBool::new(false));
    let (handle, theirs) = (Handle::current(), Arc::clone(&cancelled));
    let mut working = tokio::task::spawn_blocking(move || work(handle, theirs));
    let (done, interrupted) = tokio::select! {
        done = &mut working => (done, false),
        name = signals.next() => {
            progress.say(&format!("{name}: removing the network"));
            cancelled.store(true, Ordering::Relaxed);
            tokio::select! {
                done = &mut working => (done, true),
                name = signals.next() => second(name),
            }
        }
    };
    match done.context("the packet part ended by a panic").and_then(|done| done) {
        _ if interrupted => Asked::Interrupted,
        Ok(value) => Asked::Done(value),
        Err(error) if laboratory::is_denied(&error) => {
            progress.say(&format!("the packet part is left out: {}", report::told(&error)));
            Asked::LeftOut
        }
        Err(error) => Asked::Failed(error),
    }
}

/// Ends the process as it is: the next demo cleans up.
fn second(name: &'static str) -> ! {
    tracing::error!("{name}: ended at once by a second signal; the next demo removes what this one made");
    std::process::exit(1)
}

/// A part that did not come to its steps.
fn failed(error: anyhow::Error) -> Part {
    let mut part = Part::new("Packets: the laboratory");
    part.add("a network of namespaces", "build it".to_owned(), Instant::now(), Err(error));
    part
}

/// Lines on standard error that say what goes on.
#[derive(Clone, Copy)]
struct Progress {
    begun: Instant,
}

impl Progress {
    fn start() -> Self {
        Self { begun: Instant::now() }
    }

    fn say(self, text: &str) {
        eprintln!("demo {:5.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }
}
