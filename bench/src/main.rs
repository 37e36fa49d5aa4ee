//! `sluicegate-bench`: measures the parts of Sluicegate that claim to be fast. It is not needed to run a gateway, and it
//! knows no result in advance.

mod accounting;
mod asker;
mod certificate;
mod cluster;
mod compare;
mod control;
mod daemon;
mod flows;
mod gateway;
mod http;
mod interrupt;
mod live;
mod manifests;
mod memory;
mod packet;
mod proxies;
mod relay;
mod report;
mod responder;
mod upstream;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// That of the program whose memory is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Sluicegate.
#[derive(Debug, Parser)]
#[command(
    name = "sluicegate-bench",
    version,
    after_help = "Examples:\n  sluicegate-bench packet                          # every scenario, as a table\n  \
                  sluicegate-bench packet tcp4_hit gue4 -o json    # two of them, as JSON\n  \
                  sluicegate-bench packet tcp4_hit --keep          # leave the program pinned for another harness\n  \
                  sluicegate-bench flows                           # who moves when things change\n  \
                  sluicegate-bench live --katran balancer.bpf.o    # packets per second beside a peer\n  \
                  sluicegate-bench http http://192.0.2.10/         # requests a second and latency of one server\n  \
                  sluicegate-bench cluster                         # 20,000 Ingresses from an API server\n  \
                  sluicegate-bench compare --quick                 # beside nginx and HAProxy\n  \
                  sluicegate-bench control --quick                 # how fast changes come true\n  \
                  sluicegate-bench packet --report out             # a page with plots: out/index.html\n\n\
                  Exit codes: 0 success, 1 something did not work, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Time the XDP program by BPF_PROG_TEST_RUN: nanoseconds per packet, floor subtracted and shown (needs root)
    Packet(packet::Arguments),
    /// Count flows that change their real server when something happens to the director (needs root)
    Flows(flows::Arguments),
    /// The process that `flows` kills
    #[command(hide = true)]
    FlowsProgrammer(flows::programmer::Arguments),
    /// Packets per second of each engine through a veth on one core, beside Katran and the kernel (needs root)
    Live(live::Arguments),
    /// Memory and changes of a large fleet: 512 VIPs, 1,024 services of 100 real servers, a million flows (needs root)
    Memory(memory::Arguments),
    /// The program on an API server with 20,000 Ingresses: first state, memory, changes, requests
    Cluster(cluster::Arguments),
    /// Load a server: HTTP/1.1, HTTP/2, WebSocket, gRPC, TLS handshakes; saturation or a fixed rate
    Http(Box<http::Arguments>),
    /// Show reports that `--report DIR` wrote: several runs as one page, or as Markdown
    Report(report::Arguments),
    /// Sluicegate beside nginx, HAProxy, Envoy, Traefik and Caddy: CPU per request, requests/s, latency, memory
    Compare(compare::Arguments),
    /// Changes of manifests: first full state, change to socket and packet, requests lost, memory; nginx and HAProxy beside it
    Control(control::Arguments),
    /// The backend that `compare` and `control` start
    #[command(hide = true)]
    Respond(responder::Arguments),
    /// The bare relay that `compare` starts
    #[command(hide = true)]
    Relay(relay::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Packet(arguments) => packet::run(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::FlowsProgrammer(arguments) => flows::programmer::run(&arguments),
        Command::Live(arguments) => live::run(&arguments),
        Command::Memory(arguments) => memory::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Http(arguments) => http::command(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Control(arguments) => control::run(&arguments),
        Command::Respond(arguments) => responder::run(&arguments),
        Command::Relay(arguments) => relay::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sluicegate-bench: {failure:#}");
            ExitCode::FAILURE
        }
    }
}
