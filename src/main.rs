//! The program: flags, wiring, tables for people. It decides nothing about traffic and reads no packet; that is what the
//! crates below it do.
//!
//! Exit codes: 0 success, 1 something did not work, 2 the command line or the configuration file is wrong. Errors are
//! one line on standard error.

mod admin_client;
mod answers;
mod api_server;
mod backend;
mod capabilities;
mod changes;
mod check;
mod cli;
mod control;
mod cordon;
mod demo;
mod director;
mod doctor;
mod explain;
mod gateway;
mod options;
mod output;
mod ownership;
mod prepare;
mod pulse;
mod query;
mod run;
mod spans;
mod tap;
mod telemetry;
mod vips;
mod webhook;

use cli::{Cli, Command};
use std::process::ExitCode;

/// The system's allocator gives memory of finished requests back late and slows down with threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command ended without success.
#[derive(Debug)]
enum Failure {
    /// The command line or the configuration file is wrong: exit code 2.
    Usage(String),
    /// Something did not work: exit code 1.
    Operation(anyhow::Error),
    /// All is said already: exit code 1.
    Silent,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Operation(error.into())
    }
}

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => return cli::report(&error),
    };
    // Nothing that is started from here on may gain rights; `demo` alone starts anything, which is this program again.
    let _unsupported = rustix::thread::set_no_new_privs(true);
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Silent) => ExitCode::FAILURE,
        Err(Failure::Operation(error)) => {
            output::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            output::complain(&message);
            ExitCode::from(2)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Run(arguments) => run::run(*arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Routes(arguments) => query::routes(&arguments),
        Command::Backends(arguments) => query::backends(&arguments),
        Command::Vips(arguments) => vips::vips(&arguments),
        Command::Tap(arguments) => tap::tap(&arguments),
        Command::Cordon(arguments) => cordon::cordon(&arguments),
        Command::Uncordon(arguments) => cordon::uncordon(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Backend(arguments) => backend::backend(&arguments),
        Command::Detach(arguments) => backend::detach(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Prepare(arguments) => prepare::prepare(&arguments),
    }
}
