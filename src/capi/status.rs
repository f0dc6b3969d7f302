//! Status numbers and the message of the last error.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use crate::Error;

/// The version of the binary interface: raised by every incompatible change.
pub const HYBRIDQ_ABI_VERSION: u32 = 0;

/// The result of every call. The numbers never change: 1-99 the caller's fault, 100-199 files and formats,
/// 200-299 devices, 900 a defect of the library.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum hq_status {
    /// Done.
    HQ_OK = 0,
    /// A pointer that must not be NULL is.
    HQ_NULL_POINTER = 1,
    /// A value is outside its range.
    HQ_INVALID_VALUE = 2,
    /// Sizes or shapes do not fit each other.
    HQ_SHAPE = 3,
    /// A number that must be finite is NaN or infinite.
    HQ_NOT_FINITE = 4,
    /// The handle is of another type, or freed.
    HQ_WRONG_HANDLE = 5,
    /// A string is not UTF-8.
    HQ_NOT_UTF8 = 6,
    /// Training cannot go on (a loss that is not finite, say).
    HQ_TRAINING = 7,
    /// This build or machine cannot do what is asked.
    HQ_UNSUPPORTED = 8,
    /// A callback asked to stop, or another thread did.
    HQ_CANCELLED = 9,
    /// The system refused a file operation.
    HQ_IO = 100,
    /// A file's content is not what its format demands.
    HQ_FORMAT = 101,
    /// There is no such device, or this build cannot use it.
    HQ_NO_DEVICE = 200,
    /// A device has not the memory that is wanted.
    HQ_DEVICE_MEMORY = 201,
    /// A device failed: it is lost, or what ran on it went wrong.
    HQ_DEVICE = 202,
    /// A defect of the library, caught at the boundary.
    HQ_PANIC = 900,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

pub(super) fn set_last_error(message: &str) {
    let text = CString::new(message.replace('\0', "\u{fffd}")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = text);
}

pub(super) fn status_of(error: &Error) -> hq_status {
    match error {
        Error::Shape { .. } => hq_status::HQ_SHAPE,
        Error::InvalidValue { .. } => hq_status::HQ_INVALID_VALUE,
        Error::NonFinite { .. } => hq_status::HQ_NOT_FINITE,
        Error::Io { .. } => hq_status::HQ_IO,
        Error::Format { .. } => hq_status::HQ_FORMAT,
        Error::Training(_) => hq_status::HQ_TRAINING,
        Error::NoDevice(_) => hq_status::HQ_NO_DEVICE,
        Error::DeviceMemory(_) => hq_status::HQ_DEVICE_MEMORY,
        Error::Device(_) => hq_status::HQ_DEVICE,
        Error::Unsupported(_) => hq_status::HQ_UNSUPPORTED,
    }
}

/// The message of the last failed call on this thread, one line; "" if none failed. The text stays valid until the
/// next failed call on the same thread.
#[unsafe(no_mangle)]
pub extern "C" fn hq_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// The name of a status ("HQ_NOT_FINITE"); "unknown" for numbers that are none. Static storage.
#[unsafe(no_mangle)]
pub extern "C" fn hq_status_name(status: i32) -> *const c_char {
    let name = match status {
        0 => c"HQ_OK",
        1 => c"HQ_NULL_POINTER",
        2 => c"HQ_INVALID_VALUE",
        3 => c"HQ_SHAPE",
        4 => c"HQ_NOT_FINITE",
        5 => c"HQ_WRONG_HANDLE",
        6 => c"HQ_NOT_UTF8",
        7 => c"HQ_TRAINING",
        8 => c"HQ_UNSUPPORTED",
        9 => c"HQ_CANCELLED",
        100 => c"HQ_IO",
        101 => c"HQ_FORMAT",
        200 => c"HQ_NO_DEVICE",
        201 => c"HQ_DEVICE_MEMORY",
        202 => c"HQ_DEVICE",
        900 => c"HQ_PANIC",
        _ => c"unknown",
    };
    name.as_ptr()
}

/// The library's version, "MAJOR.MINOR.PATCH". Static storage.
#[unsafe(no_mangle)]
pub extern "C" fn hq_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the binary interface the library was built with: compare it with `HYBRIDQ_ABI_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn hq_abi_version() -> u32 {
    HYBRIDQ_ABI_VERSION
}
