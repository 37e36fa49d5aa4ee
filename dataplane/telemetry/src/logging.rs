//! Logs of the process: events to standard error, as text for people or one JSON object a line for machines.
//!
//! Standard output is left to what a command prints.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026-01-01T00:00:00.000000Z  INFO target: message field=value`
    #[default]
    Text,
    /// One JSON object a line, fields beside `timestamp`, `level`, `target` and `message`.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is no list of directives.
    #[error("--log-level: `{text}` is not a filter ({reason}); write `info`, or `warn,sluicegate_proxy=debug`")]
    Filter {
        /// What was given.
        text: String,
        /// Which part is wrong.
        reason: String,
    },
    /// The format is unknown.
    #[error("--log-format: `{0}` is unknown; write `text` or `json`")]
    Format(String),
    /// Another logger was installed before.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Sends the process's events to standard error, but for those of the Kubernetes client, which speaks at every try.
/// `filter` is a level or a list of `target=level` directives.
/// Text is coloured on a terminal, unless `NO_COLOR` is set and not empty (no-color.org).
///
/// # Errors
/// For a filter that does not parse, and where a logger is already installed.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = subscriber(format, filter, colour, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)
}

/// The subscriber that [`init`] installs, with another destination.
///
/// # Errors
/// For a filter that does not parse.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colour: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let refused = |reason: String| LogError::Filter { text: filter.to_owned(), reason };
    // A bare word is a target to the parser, so `--log-level verbose` would silence everything and be no error.
    if let Some(word) = filter.split(',').map(str::trim).find(|directive| !is_plausible(directive)) {
        return Err(refused(format!("`{word}` is no level")));
    }
    let directives =
        EnvFilter::builder().parse(format!("{SAID_ELSEWHERE},{filter}")).map_err(|error| refused(error.to_string()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(directives).with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(builder.with_ansi(colour).finish()),
        LogFormat::Json => {
            Box::new(builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish())
        }
    })
}

/// What a library says of each try, where we say it once and again while it lasts. A directive for the same target wins.
const SAID_ELSEWHERE: &str = "kube_runtime::watcher=off,kube_client=off";

fn is_plausible(directive: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    LEVELS.iter().any(|level| directive.eq_ignore_ascii_case(level)) || directive.contains(['=', '['])
}
