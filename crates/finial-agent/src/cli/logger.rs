//! `logger get`, `logger set`, `logger reset`.

use anyhow::Context as _;
use finial_proto::json::to_json;
use finial_proto::pb::spire::api::agent::logger::v1::logger_client::LoggerClient;
use finial_proto::pb::spire::api::agent::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use finial_proto::pb::spire::api::types::{LogLevel, Logger};
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK, Output, print_json};
use finial_runtime::go_text::quote;
use finial_runtime::log::Level;
use finial_runtime::process;

use super::admin::{self, Admin};

/// Flags of `logger get`.
pub(super) fn get_flags() -> FlagSet {
    admin::flags("logger get").output()
}

/// Flags of `logger set`.
pub(super) fn set_flags() -> FlagSet {
    admin::flags("logger set")
        .string(
            "level",
            "",
            "The new log level, one of (panic, fatal, error, warn, info, debug, trace)",
        )
        .output()
}

/// Flags of `logger reset`.
pub(super) fn reset_flags() -> FlagSet {
    admin::flags("logger reset").output()
}

/// `logger get`
pub(super) fn get(flags: &Flags, console: &mut Console) -> Code {
    let call = || {
        let agent = Admin::find(flags);
        process::block_on(async {
            LoggerClient::new(agent.channel())
                .get_logger(GetLoggerRequest {})
                .await
        })?
        .map_err(|status| agent.error(&status))
        .context("error fetching logger")
    };
    print(call().map(tonic::Response::into_inner), flags, console)
}

/// `logger set`
pub(super) fn set(flags: &Flags, console: &mut Console) -> Code {
    let call = || {
        let new_level = level(flags)?.into();
        let agent = Admin::find(flags);
        process::block_on(async {
            LoggerClient::new(agent.channel())
                .set_log_level(SetLogLevelRequest { new_level })
                .await
        })?
        .map_err(|status| agent.error(&status))
        .context("failed to set log level")
    };
    print(call().map(tonic::Response::into_inner), flags, console)
}

/// `logger reset`
pub(super) fn reset(flags: &Flags, console: &mut Console) -> Code {
    let call = || {
        let agent = Admin::find(flags);
        process::block_on(async {
            LoggerClient::new(agent.channel())
                .reset_log_level(ResetLogLevelRequest {})
                .await
        })?
        .map_err(|status| agent.error(&status))
        .context("failed to reset logger")
    };
    print(call().map(tonic::Response::into_inner), flags, console)
}

fn level(flags: &Flags) -> anyhow::Result<LogLevel> {
    let name = flags
        .non_empty("level")
        .context("a value (-level) must be set")?;
    let level: Level = name
        .parse()
        .map_err(|_unknown| anyhow::anyhow!("the value {} is not a valid setting", quote(name)))?;
    Ok(match level {
        Level::Panic => LogLevel::Panic,
        Level::Fatal => LogLevel::Fatal,
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
        Level::Trace => LogLevel::Trace,
    })
}

fn print(answer: anyhow::Result<Logger>, flags: &Flags, console: &mut Console) -> Code {
    let print = |console: &mut Console| -> anyhow::Result<()> {
        let logger = answer?;
        match Output::of(flags) {
            Output::Json => print_json(console, to_json("spire.api.types.Logger", &logger)?),
            Output::Pretty => console.out(format_args!(
                "Logger Level : {}\nLaunch Level : {}\n\n",
                shown(logger.current_level()),
                shown(logger.launch_level())
            )),
        }
        Ok(())
    };
    match print(console) {
        Ok(()) => OK,
        Err(error) => {
            console.errln(format_args!("Error: {error:#}"));
            FAILED
        }
    }
}

fn shown(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Unspecified => "unspecified",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_level(words: &[&str]) -> (Code, String) {
        let mut words: Vec<_> = words.iter().map(ToString::to_string).collect();
        words.push("-socketPath=/nonexistent".to_owned());
        let mut console = Console::captured();
        let code = set(&set_flags().parse(&words).unwrap(), &mut console);
        (code, console.into_captured().1)
    }

    #[test]
    fn a_level_must_be_one() {
        assert_eq!(
            set_level(&[]),
            (FAILED, "Error: a value (-level) must be set\n".to_owned())
        );
        assert_eq!(
            set_level(&["-level", "loud"]),
            (
                FAILED,
                "Error: the value \"loud\" is not a valid setting\n".to_owned()
            )
        );
        assert!(
            set_level(&["-level", "debug"])
                .1
                .starts_with("Error: failed to set log level: rpc error: code = Unavailable")
        );
    }

    #[test]
    fn levels_are_printed_as_spire_prints_them() {
        let mut console = Console::captured();
        let logger = Logger {
            current_level: LogLevel::Warn.into(),
            launch_level: LogLevel::Info.into(),
        };
        let flags = get_flags().parse(&[]).unwrap();
        assert_eq!(print(Ok(logger), &flags, &mut console), OK);
        assert_eq!(
            console.into_captured().0,
            "Logger Level : warning\nLaunch Level : info\n\n"
        );
    }
}
