//! `spire.api.agent.logger.v1.Logger`, on the admin socket: the level of the log, while the agent runs.

use finial_proto::pb::spire::api::agent::logger::v1 as pb;
use finial_proto::pb::spire::api::agent::logger::v1::logger_server::Logger as LoggerApi;
use finial_proto::pb::spire::api::types;
use finial_runtime::log::{self, Level, LogHandle};
use tonic::{Request, Response, Status};

/// Reads and sets the level.
#[derive(Debug)]
pub struct LoggerService;

#[tonic::async_trait]
impl LoggerApi for LoggerService {
    async fn get_logger(
        &self,
        _: Request<pb::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(Response::new(describe(&handle()?)))
    }

    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let level = match types::LogLevel::try_from(request.into_inner().new_level) {
            Ok(types::LogLevel::Unspecified) => {
                return Err(Status::invalid_argument(
                    "newLevel value cannot be LogLevel_UNSPECIFIED",
                ));
            }
            Ok(types::LogLevel::Panic) => Level::Panic,
            Ok(types::LogLevel::Fatal) => Level::Fatal,
            Ok(types::LogLevel::Error) => Level::Error,
            Ok(types::LogLevel::Warn) => Level::Warn,
            Ok(types::LogLevel::Info) => Level::Info,
            Ok(types::LogLevel::Debug) => Level::Debug,
            Ok(types::LogLevel::Trace) => Level::Trace,
            Err(_) => return Err(Status::invalid_argument("unsupported log level")),
        };
        let handle = handle()?;
        handle.set_level(level);
        tracing::info!(subsystem_name = "api", new_log_level = %level, "SetLogLevel Called");
        Ok(Response::new(describe(&handle)))
    }

    async fn reset_log_level(
        &self,
        _: Request<pb::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let handle = handle()?;
        handle.reset_level();
        tracing::info!(subsystem_name = "api", new_log_level = %handle.launch_level(), "ResetLogLevel Called");
        Ok(Response::new(describe(&handle)))
    }
}

fn handle() -> Result<LogHandle, Status> {
    log::current().ok_or_else(|| {
        Status::failed_precondition("the log of this process is not managed by the agent")
    })
}

fn describe(handle: &LogHandle) -> types::Logger {
    types::Logger {
        current_level: to_wire(handle.level()).into(),
        launch_level: to_wire(handle.launch_level()).into(),
    }
}

const fn to_wire(level: Level) -> types::LogLevel {
    match level {
        Level::Panic => types::LogLevel::Panic,
        Level::Fatal => types::LogLevel::Fatal,
        Level::Error => types::LogLevel::Error,
        Level::Warn => types::LogLevel::Warn,
        Level::Info => types::LogLevel::Info,
        Level::Debug => types::LogLevel::Debug,
        Level::Trace => types::LogLevel::Trace,
    }
}
