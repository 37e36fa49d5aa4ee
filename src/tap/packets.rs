//! `tap --packet`: sampled packets of the running director, each with what became of it. tcpdump does not see them: XDP
//! takes packets before any socket, and what it sends no socket sees either.

use crate::cli::TapArguments;
use crate::{Failure, admin_client, output};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sluicegate_admin::Lines;
use sluicegate_forward::dissect::Dissection;
use sluicegate_forward::sampling::{Tap, Tapped};
use sluicegate_forward::tap::{CaptureWriter, Sample};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::{Interval, MissedTickBehavior};

/// A line of `/api/v1/tap`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    /// A packet.
    Packet(PacketLine),
    /// Once a second: how many packets this reader was too slow for.
    Lost {
        /// So far.
        lost: u64,
    },
}

/// A packet.
#[derive(Debug, Serialize, Deserialize)]
struct PacketLine {
    /// When it came, in nanoseconds since the Unix epoch.
    time_ns: u64,
    /// Where it came in.
    interface: String,
    /// The same by its index.
    ifindex: u32,
    /// Bytes of the whole frame.
    length: u32,
    /// `forwarded`, `answered`, `passed` or `dropped`.
    verdict: String,
    /// Why.
    reason: String,
    /// Where it was bound to.
    service: Option<String>,
    /// Where it went.
    real_server: Option<IpAddr>,
    /// The beginning of the frame, in hexadecimal digits.
    frame: String,
}

impl PacketLine {
    fn new(tapped: Tapped, epoch: Duration, snap: usize) -> Self {
        let Tapped { sample, interface, outcome, service, real_server } = tapped;
        let kept = sample.frame.get(..sample.frame.len().min(snap)).unwrap_or_default();
        Self {
            time_ns: u64::try_from((epoch + sample.time).as_nanos()).unwrap_or(u64::MAX),
            interface,
            ifindex: sample.ifindex,
            length: sample.length,
            verdict: outcome.map_or("unknown", |outcome| outcome.as_str()).to_owned(),
            reason: sample.reason.map_or("unknown", |reason| reason.as_str()).to_owned(),
            service,
            real_server,
            frame: kept.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    fn frame(&self) -> Vec<u8> {
        let digit = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or(0) as u8;
        self.frame.as_bytes().as_chunks::<2>().0.iter().map(|[high, low]| digit(high) << 4 | digit(low)).collect()
    }

    /// What an operator reads beside the frame: `forwarded: flow_new, 192.0.2.10:80/TCP shop/web, to 192.0.2.101`.
    fn comment(&self) -> String {
        let mut comment = format!("{}: {}", self.verdict, self.reason);
        if let Some(service) = &self.service {
            comment.push_str(&format!(", {service}"));
        }
        if let Some(real) = self.real_server {
            comment.push_str(&format!(", to {real}"));
        }
        comment
    }

    fn text(&self) -> String {
        let (seconds, rest) = (self.time_ns / 1_000_000_000, self.time_ns % 1_000_000_000 / 1000);
        let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let what = Dissection::of(&self.frame()).map_or_else(String::new, |frame| frame.network.to_string());
        output::printable(&format!(
            "{hours:02}:{minutes:02}:{seconds:02}.{rest:06} {} {what}, {} bytes: {}",
            self.interface,
            self.length,
            self.comment()
        ))
    }
}

/// What the admin API sends: packets as they come, and once a second how many were lost.
pub struct TapLines {
    tap: Tap,
    epoch: Duration,
    snap: usize,
    pulse: Option<Interval>,
}

impl TapLines {
    /// `snap` bytes of each frame.
    pub fn new(tap: Tap, snap: usize) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let monotonic = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { tap, epoch: wall.saturating_sub(monotonic), snap, pulse: None }
    }
}

impl Lines for TapLines {
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<bytes::Bytes>> {
        let pulse = self.pulse.get_or_insert_with(|| {
            let mut pulse = tokio::time::interval(Duration::from_secs(1));
            pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pulse
        });
        let line = if pulse.poll_tick(context).is_ready() {
            Line::Lost { lost: self.tap.lost() }
        } else {
            match self.tap.poll_next(context) {
                Poll::Ready(Some(tapped)) => Line::Packet(PacketLine::new(tapped, self.epoch, self.snap)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        };
        // Such a line can always be written; one that could not ends the stream.
        let text = serde_json::to_vec(&line).ok().map(|mut text| {
            text.push(b'\n');
            text.into()
        });
        Poll::Ready(text)
    }
}

/// Where packets are written.
enum Sink {
    Text,
    Capture(CaptureWriter<Box<dyn Write>>),
}

impl Sink {
    fn open(arguments: &TapArguments) -> anyhow::Result<Self> {
        let Some(path) = &arguments.write else { return Ok(Self::Text) };
        let out: Box<dyn Write> = if path.as_os_str() == "-" {
            Box::new(io::stdout())
        } else {
            let file = File::create(path).with_context(|| format!("--write {}", path.display()))?;
            Box::new(BufWriter::new(file))
        };
        // Times are sent since the Unix epoch already.
        Ok(Self::Capture(CaptureWriter::new(out, Duration::ZERO)?))
    }

    fn put(&mut self, packet: &PacketLine) -> io::Result<()> {
        match self {
            Self::Text => {
                let mut out = io::stdout().lock();
                writeln!(out, "{}", packet.text())?;
                out.flush()
            }
            Self::Capture(writer) => {
                let sample = Sample {
                    time: Duration::from_nanos(packet.time_ns),
                    ifindex: packet.ifindex,
                    length: packet.length,
                    reason: None,
                    backend: 0,
                    service: 0,
                    frame: packet.frame(),
                };
                writer.write(&sample, &packet.interface, &packet.comment())?;
                writer.flush()
            }
        }
    }
}

pub fn watch(arguments: &TapArguments) -> Result<(), Failure> {
    let mut path = format!("/api/v1/tap?every={}&snap={}", arguments.every, arguments.snap);
    if let Some(vip) = arguments.vip {
        path.push_str(&format!("&vip={vip}"));
    }
    if arguments.all {
        path.push_str("&all=true");
    }
    let mut sink = None;
    let (mut packets, mut lost) = (0, 0);
    let until = arguments.period.map(|period| Instant::now() + period);
    admin_client::stream(&arguments.admin, &path, until, |line| {
        // Nothing is created or cut short before the gateway has agreed.
        let sink = match &mut sink {
            Some(sink) => sink,
            none => none.insert(Sink::open(arguments)?),
        };
        match serde_json::from_slice(line).context("what answers is not the admin API of sluicegate")? {
            Line::Lost { lost: so_far } => lost = so_far,
            Line::Packet(packet) => {
                match sink.put(&packet) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ControlFlow::Break(())),
                    other => other?,
                }
                packets += 1;
            }
        }
        let done = arguments.count.is_some_and(|count| packets >= count);
        Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    // There is nowhere left to say that standard error is gone.
    let _gone = writeln!(io::stderr(), "{packets} packets, {lost} lost because they came faster than they were read");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_with_what_became_of_them() {
        let line = br#"{"time_ns":3723000456000,"interface":"eth0","ifindex":7,"length":60,"verdict":"forwarded","reason":"flow_new",
            "service":"192.0.2.10:80/TCP shop/web","real_server":"192.0.2.101",
            "frame":"02000000000102000000000208004500001c000000004011000 0c6336407c000020a9c4000350008"}"#;
        let text = String::from_utf8_lossy(line).replace("000 0c6", "0000c6");
        let Line::Packet(packet) = serde_json::from_str(&text).expect("a line") else { panic!("a packet") };
        assert_eq!(
            packet.text(),
            "01:02:03.000456 eth0 UDP 198.51.100.7:40000 > 192.0.2.10:53, 60 bytes: forwarded: flow_new, \
             192.0.2.10:80/TCP shop/web, to 192.0.2.101"
        );
        assert!(matches!(serde_json::from_str(r#"{"lost":3}"#), Ok(Line::Lost { lost: 3 })));
    }
}
