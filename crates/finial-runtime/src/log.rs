//! Logging in SPIRE's forms, so that an operator's filters and dashboards keep working.
//!
//! Code logs through `tracing` with a constant message and fields; fields of the surrounding spans are added to each
//! line. The level can change while the process runs, and a log file is reopened on SIGUSR2.

mod logrus;

use std::error::Error;
use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use thiserror::Error as ThisError;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::clock::SharedClock;

/// Where and how a process logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// The level at launch.
    pub level: Level,
    /// The form of a line.
    pub format: Format,
    /// A file to append to; standard output when absent.
    pub file: Option<PathBuf>,
    /// Whether lines name the function, file and line they come from.
    pub source_location: bool,
}

/// A log level, with the names operators know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Nothing less than a panic; finial never logs at this level.
    Panic,
    /// Nothing less than the end of the process; finial never logs at this level.
    Fatal,
    /// Someone must act.
    Error,
    /// Degraded but going on.
    Warn,
    /// State changed.
    #[default]
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=info msg=…`, time in seconds: what an absent `log_format` means.
    #[default]
    Plain,
    /// The same with nanoseconds.
    Text,
    /// One JSON object per line, with nanoseconds.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, ThisError)]
pub enum LogError {
    /// The level has no such name.
    #[error("not a valid logrus Level: {name:?}")]
    UnknownLevel {
        /// What was given.
        name: String,
    },
    /// The format has no such name.
    #[error("unknown logger format: {name:?}")]
    UnknownFormat {
        /// What was given.
        name: String,
    },
    /// The log file could not be opened.
    #[error("failed to open log file {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The process already logs.
    #[error("logging was already set up")]
    AlreadySet,
}

impl FromStr for Level {
    type Err = LogError;

    fn from_str(name: &str) -> Result<Self, LogError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            "error" => Self::Error,
            "warn" | "warning" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => {
                return Err(LogError::UnknownLevel {
                    name: name.to_owned(),
                });
            }
        })
    }
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(name: &str) -> Result<Self, LogError> {
        match name.to_ascii_lowercase().as_str() {
            "" => Ok(Self::Plain),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::UnknownFormat {
                name: name.to_owned(),
            }),
        }
    }
}

impl Level {
    const ALL: [Self; 7] = [
        Self::Panic,
        Self::Fatal,
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    fn filter(self) -> LevelFilter {
        match self {
            Self::Panic | Self::Fatal => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Changes how a running process logs. Clones act on the same log.
#[derive(Clone, Debug)]
pub struct LogHandle {
    launch: Level,
    current: SharedLevel,
    sink: Arc<Sink>,
}

#[derive(Clone, Debug)]
struct SharedLevel(Arc<AtomicU8>);

impl SharedLevel {
    fn get(&self) -> Level {
        let index = usize::from(self.0.load(Ordering::Relaxed));
        Level::ALL.get(index).copied().unwrap_or_default()
    }
}

impl LogHandle {
    /// Returns the level the process was started with.
    pub fn launch_level(&self) -> Level {
        self.launch
    }

    /// Returns the level in force.
    pub fn level(&self) -> Level {
        self.current.get()
    }

    /// Changes the level at once, everywhere.
    pub fn set_level(&self, level: Level) {
        self.current.0.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Goes back to the level at launch.
    pub fn reset_level(&self) {
        self.set_level(self.launch);
    }

    /// Opens the log file anew, after it was moved away. Keeps the old one when that fails.
    pub fn reopen(&self) -> Result<(), LogError> {
        self.sink.reopen()
    }
}

static CURRENT: OnceLock<LogHandle> = OnceLock::new();

/// Starts logging for the whole process; once.
pub fn init(config: &LogConfig, clock: SharedClock) -> Result<LogHandle, LogError> {
    let sink = Sink::open(config.file.as_deref())?;
    let (subscriber, handle) = build(config, sink, clock);
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_already_set| LogError::AlreadySet)?;
    Ok(CURRENT.get_or_init(|| handle).clone())
}

/// Checks that logging could be set up with `config`, as `validate` does.
pub fn check(config: &LogConfig) -> Result<(), LogError> {
    Sink::open(config.file.as_deref()).map(drop)
}

/// Returns the handle of the process's log, once [`init`] was called.
pub fn current() -> Option<LogHandle> {
    CURRENT.get().cloned()
}

fn build(
    config: &LogConfig,
    sink: Sink,
    clock: SharedClock,
) -> (impl tracing::Subscriber + Send + Sync + use<>, LogHandle) {
    let handle = LogHandle {
        launch: config.level,
        current: SharedLevel(Arc::new(AtomicU8::new(config.level as u8))),
        sink: Arc::new(sink),
    };
    let layer = logrus::LogrusLayer {
        format: config.format,
        source_location: config.source_location,
        level: handle.current.clone(),
        sink: Arc::clone(&handle.sink),
        clock,
    };
    (Registry::default().with(layer), handle)
}

/// Where lines go.
#[derive(Debug)]
enum Sink {
    Stdout,
    File {
        path: PathBuf,
        file: Mutex<File>,
    },
    #[cfg(test)]
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, LogError> {
        let Some(path) = path else {
            return Ok(Self::Stdout);
        };
        Ok(Self::File {
            path: path.to_owned(),
            file: Mutex::new(open_file(path)?),
        })
    }

    fn reopen(&self) -> Result<(), LogError> {
        if let Self::File { path, file } = self {
            let new = open_file(path)?;
            *file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }

    /// Writes one line. There is nobody to tell when the log cannot be written.
    fn write(&self, line: &[u8]) {
        drop(match self {
            Self::Stdout => io::stdout().lock().write_all(line),
            Self::File { file, .. } => file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(line),
            #[cfg(test)]
            Self::Memory(lines) => lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(line),
        });
    }
}

fn open_file(path: &Path) -> Result<File, LogError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|source| LogError::Open {
            path: path.to_owned(),
            source,
        })
}

/// Displays an error with its causes: `what failed: why: why that`.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain { error }
}

/// See [`chain`].
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    error: &'a (dyn Error + 'static),
}

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.error.to_string();
        f.write_str(&last)?;
        let mut cause = self.error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Errors of other crates often repeat their cause; say it once.
            if !last.ends_with(&text) {
                f.write_str(": ")?;
                f.write_str(&text)?;
            }
            last = text;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::clock::ManualClock;

    fn lines(format: Format, level: Level, log: impl FnOnce(&LogHandle)) -> String {
        let memory = Arc::new(Mutex::new(Vec::new()));
        let config = LogConfig {
            level,
            format,
            ..LogConfig::default()
        };
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_795_355_011, 70_085_570);
        let clock = Arc::new(ManualClock::new(time));
        let (subscriber, handle) = build(&config, Sink::Memory(Arc::clone(&memory)), clock);
        tracing::subscriber::with_default(subscriber, || log(&handle));
        String::from_utf8(memory.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn plain_lines_are_spires() {
        let text = lines(Format::Plain, Level::Info, |_| {
            let admin_ids = "[]";
            tracing::info!(
                data_dir = "DIR/server/data",
                admin_ids,
                launch_log_level = "debug",
                version = "1.16.0-dev-unk",
                "Configured"
            );
            tracing::warn!(
                "Current umask {} is too permissive; setting umask {}",
                "0022",
                "0027"
            );
            tracing::info!(
                subsystem_name = "ca_manager",
                slot = "A",
                self_signed = true,
                upstream_authority_id = "",
                "X509 CA prepared"
            );
            tracing::debug!("not shown");
        });
        assert_eq!(
            text,
            concat!(
                r#"time="2026-11-22T13:43:31Z" level=info msg=Configured admin_ids="[]" data_dir=DIR/server/data launch_log_level=debug version=1.16.0-dev-unk"#,
                "\n",
                r#"time="2026-11-22T13:43:31Z" level=warning msg="Current umask 0022 is too permissive; setting umask 0027""#,
                "\n",
                r#"time="2026-11-22T13:43:31Z" level=info msg="X509 CA prepared" self_signed=true slot=A subsystem_name=ca_manager upstream_authority_id="#,
                "\n"
            )
        );
    }

    #[test]
    fn json_lines_are_spires() {
        let text = lines(Format::Json, Level::Debug, |_| {
            tracing::info!(
                subsystem_name = "ca_manager",
                jwt_keys = 0,
                wit_keys = 0,
                x509_cas = 0,
                "Journal loaded"
            );
            tracing::info!(
                external = false,
                plugin_name = "disk",
                note = "<a>",
                "Plugin loaded"
            );
        });
        assert_eq!(
            text,
            concat!(
                r#"{"jwt_keys":0,"level":"info","msg":"Journal loaded","subsystem_name":"ca_manager","time":"2026-11-22T13:43:31.07008557Z","wit_keys":0,"x509_cas":0}"#,
                "\n",
                r#"{"external":false,"level":"info","msg":"Plugin loaded","note":"\u003ca\u003e","plugin_name":"disk","time":"2026-11-22T13:43:31.07008557Z"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn lines_carry_the_fields_of_their_spans() {
        let text = lines(Format::Text, Level::Warn, |_| {
            let request = tracing::info_span!("request", method = "AttestAgent", caller = "a");
            let _entered = request.enter();
            tracing::error!(
                caller = "b",
                level = "x",
                error = "say \"no\"\n",
                "Request failed"
            );
        });
        assert_eq!(
            text,
            "time=\"2026-11-22T13:43:31.07008557Z\" level=error msg=\"Request failed\" caller=b \
             error=\"say \\\"no\\\"\\n\" fields.level=x method=AttestAgent\n"
        );
    }

    #[test]
    fn the_level_changes_while_the_process_runs() {
        let text = lines(Format::Plain, Level::Error, |handle| {
            let log = || tracing::info!("seen once");
            log();
            handle.set_level(Level::Debug);
            assert_eq!(handle.level(), Level::Debug);
            log();
            handle.reset_level();
            log();
        });
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_moved_log_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.log");
        let sink = Sink::open(Some(&path)).unwrap();
        sink.write(b"one\n");
        std::fs::rename(&path, dir.path().join("server.log.1")).unwrap();
        sink.reopen().unwrap();
        sink.write(b"two\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = LogError::Open {
            path: "a.log".into(),
            source: cause,
        };
        assert_eq!(
            chain(&error).to_string(),
            "failed to open log file a.log: no such file"
        );
    }
}
