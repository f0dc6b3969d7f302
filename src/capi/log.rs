//! Warnings and notes of the library, given to the caller's function.

use std::ffi::{CString, c_char, c_void};
use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use super::boundary::Failure;

/// Something failed.
pub const HQ_LOG_ERROR: u32 = 1;
/// Something was not as asked for, and the library went on.
pub const HQ_LOG_WARNING: u32 = 2;
/// A note.
pub const HQ_LOG_INFO: u32 = 3;

/// Gets one line of text and its level (HQ_LOG_ERROR to HQ_LOG_INFO), on the thread that called the library. The text is
/// valid during the call. The function must not call the library with the same context.
pub type hq_log_callback = Option<unsafe extern "C" fn(level: u32, message: *const c_char, user_data: *mut c_void)>;

struct CallerLog {
    callback: unsafe extern "C" fn(u32, *const c_char, *mut c_void),
    user_data: *mut c_void,
    most: Level,
}

// SAFETY: the header tells the caller that the function is called on whichever thread uses the context.
unsafe impl Send for CallerLog {}
// SAFETY: as above.
unsafe impl Sync for CallerLog {}

/// What sends events of `level` and more urgent ones to `callback`.
pub(super) fn log_dispatch(
    callback: hq_log_callback,
    user_data: *mut c_void,
    level: u32,
) -> Result<Option<Dispatch>, Failure> {
    let most = match level {
        HQ_LOG_ERROR => Level::ERROR,
        0 | HQ_LOG_WARNING => Level::WARN,
        HQ_LOG_INFO => Level::INFO,
        other => return Err(Failure::invalid("options.log_level", "0 or an HQ_LOG_ constant (1 to 3)", other)),
    };
    Ok(callback.map(|callback| Dispatch::new(CallerLog { callback, user_data, most })))
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for CallerLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.most
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => HQ_LOG_ERROR,
            Level::WARN => HQ_LOG_WARNING,
            _ => HQ_LOG_INFO,
        };
        let mut line = Line::default();
        event.record(&mut line);
        let text = CString::new(line.0.replace('\0', "\u{fffd}")).unwrap_or_default();
        // SAFETY: the text lives through the call; the caller vouches for its function.
        unsafe { (self.callback)(level, text.as_ptr(), self.user_data) };
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
