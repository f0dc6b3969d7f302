//! What every function of the C library passes through: caught panics, tagged handles, strings.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::status::{hq_status, set_last_error, status_of};
use crate::Error;

/// Why a call fails: a status and one line.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: hq_status,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(status: hq_status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }

    /// `name` has a value outside its range.
    pub(super) fn invalid(name: &str, expected: impl ToString, found: impl ToString) -> Self {
        Error::invalid(name, expected, found).into()
    }

    /// `name` has a size that does not fit.
    pub(super) fn shape(name: &str, expected: impl ToString, found: impl ToString) -> Self {
        let message = format!("{name}: expected {}, found {}", expected.to_string(), found.to_string());
        Failure::new(hq_status::HQ_SHAPE, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(status_of(&error), error.to_string())
    }
}

/// Runs the body of `function`; failures and panics become a status and the last error.
#[inline(always)]
pub(super) fn guard(function: &str, body: impl FnOnce() -> Result<(), Failure>) -> hq_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => hq_status::HQ_OK,
        failed => report_failure(function, failed),
    }
}

#[cold]
fn report_failure(function: &str, failed: std::thread::Result<Result<(), Failure>>) -> hq_status {
    let failure = match failed {
        Ok(Ok(())) => return hq_status::HQ_OK,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            let failure = Failure::new(hq_status::HQ_PANIC, text);
            // A payload whose destructor panics must not get out either.
            std::mem::forget(panic);
            failure
        }
    };
    set_last_error(&format!("{function}: {}", failure.message));
    failure.status
}

/// An opaque type of the header and what is behind its pointers.
pub(super) trait Opaque {
    type Value: 'static;
    const NAME: &'static str;
    /// The first word of every such handle: FNV-1a of the name, never 0, which is what a freed handle has.
    const TAG: u64 = {
        let (bytes, mut hash, mut at) = (Self::NAME.as_bytes(), 0xcbf2_9ce4_8422_2325u64, 0);
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        hash | 1
    };
}

/// What an opaque pointer points to. The tag tells handles of different types, and freed ones, apart.
#[repr(C)]
pub(super) struct Handle<T> {
    tag: u64,
    value: T,
}

/// Moves `value` to the heap.
pub(super) fn new_handle<O: Opaque>(value: O::Value) -> *mut O {
    Box::into_raw(Box::new(Handle { tag: O::TAG, value })).cast()
}

/// Checks that `handle` is one of `O`.
///
/// # Safety
/// `handle` is NULL or a handle of this library, of any type.
#[inline(always)]
unsafe fn checked<O: Opaque>(handle: *const O, name: &str) -> Result<*mut Handle<O::Value>, Failure> {
    let tag = handle.cast::<u64>();
    // SAFETY: not NULL, aligned, and every handle starts with its tag, whatever its type.
    if !tag.is_null() && tag.is_aligned() && unsafe { tag.read() } == O::TAG {
        return Ok(handle.cast_mut().cast());
    }
    Err(bad_handle(tag.is_null(), O::NAME, name))
}

#[cold]
fn bad_handle(is_null: bool, kind: &str, name: &str) -> Failure {
    if is_null {
        return null(name);
    }
    let message = format!("{name}: expected an {kind}, found a handle of another type, or a freed one");
    Failure::new(hq_status::HQ_WRONG_HANDLE, message)
}

/// The value behind a handle that one thread uses at a time.
///
/// # Safety
/// `handle` is NULL or a handle of this library that no other thread uses during the call.
pub(super) unsafe fn handle_mut<'a, O: Opaque>(handle: *mut O, name: &str) -> Result<&'a mut O::Value, Failure> {
    // SAFETY: as the caller vouches; the tag says what is there.
    Ok(unsafe { &mut (*checked(handle, name)?).value })
}

/// As [`handle_mut`]; NULL is none.
///
/// # Safety
/// As for [`handle_mut`].
pub(super) unsafe fn optional_handle_mut<'a, O: Opaque>(
    handle: *mut O,
    name: &str,
) -> Result<Option<&'a mut O::Value>, Failure> {
    if handle.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller vouches.
    unsafe { handle_mut(handle, name) }.map(Some)
}

/// The value behind a handle that calls on several threads may share.
///
/// # Safety
/// `handle` is NULL or a handle of this library that no other thread changes during the call.
pub(super) unsafe fn handle_ref<'a, O: Opaque>(handle: *const O, name: &str) -> Result<&'a O::Value, Failure> {
    // SAFETY: as the caller vouches; the tag says what is there.
    Ok(unsafe { &(*checked(handle, name)?).value })
}

/// Frees a handle; NULL and handles of another type are left alone. A destructor's panic stops here.
///
/// # Safety
/// `handle` is NULL or a handle of this library that is not used again.
pub(super) unsafe fn free_handle<O: Opaque>(handle: *mut O) {
    // SAFETY: as the caller vouches.
    let Ok(handle) = (unsafe { checked(handle, "") }) else { return };
    // SAFETY: the tag is inside the handle. Volatile: the write is there for those who use the handle after its end.
    unsafe { (&raw mut (*handle).tag).write_volatile(0) };
    // SAFETY: the tag said that this is a live handle made by `new_handle`.
    let boxed = unsafe { Box::from_raw(handle) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(boxed)));
}

#[inline(always)]
pub(super) fn not_null<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_null() { Err(null(name)) } else { Ok(()) }
}

#[cold]
pub(super) fn null(name: &str) -> Failure {
    Failure::new(hq_status::HQ_NULL_POINTER, format!("{name}: NULL"))
}

/// The place of one output.
///
/// # Safety
/// `pointer` is NULL or valid for a write during the call.
pub(super) unsafe fn place<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut MaybeUninit<T>, Failure> {
    // SAFETY: as the caller vouches.
    match unsafe { optional_place(pointer, name) }? {
        Some(place) => Ok(place),
        None => Err(null(name)),
    }
}

/// The place of an output that the caller may not want (NULL).
///
/// # Safety
/// `pointer` is NULL or valid for a write during the call.
pub(super) unsafe fn optional_place<'a, T>(
    pointer: *mut T,
    name: &str,
) -> Result<Option<&'a mut MaybeUninit<T>>, Failure> {
    aligned(pointer, name)?;
    // SAFETY: NULL or aligned and, as the caller vouches, valid.
    Ok(unsafe { pointer.cast::<MaybeUninit<T>>().as_mut() })
}

#[inline(always)]
pub(super) fn aligned<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_aligned() { Ok(()) } else { Err(misaligned(pointer.cast(), align_of::<T>(), name)) }
}

#[cold]
pub(super) fn misaligned(pointer: *const u8, alignment: usize, name: &str) -> Failure {
    Failure::invalid(name, format!("an address that {alignment} divides"), format!("{pointer:p}"))
}

/// A NUL-terminated UTF-8 string.
///
/// # Safety
/// `pointer` is NULL or a NUL-terminated string that stays unchanged during the call.
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str, Failure> {
    not_null(pointer, name)?;
    // SAFETY: not NULL; the caller vouches for the terminator.
    let bytes = unsafe { CStr::from_ptr(pointer) };
    bytes.to_str().map_err(|_| Failure::new(hq_status::HQ_NOT_UTF8, format!("{name}: not UTF-8")))
}

/// As [`text`]; NULL is none.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn optional_text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller vouches.
    unsafe { text(pointer, name) }.map(Some)
}

/// Gives a text to the caller: `*length` is its bytes without the NUL; `buffer`, if not NULL, gets it with the NUL.
///
/// # Safety
/// `buffer` is NULL or valid for writes of `capacity` bytes; `length` is valid for a write.
pub(super) unsafe fn give_text(
    text: &str,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: as the caller vouches.
    let length = unsafe { place(length, "length") }?;
    if !buffer.is_null() {
        if capacity <= text.len() {
            return Err(Failure::shape("capacity", format!("at least {}", text.len() + 1), capacity));
        }
        // SAFETY: the buffer is large enough; a text of ours and a buffer of the caller's do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len()) };
        // SAFETY: inside the buffer.
        unsafe { buffer.add(text.len()).write(0) };
    }
    length.write(text.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number;
    struct Other;
    impl Opaque for Number {
        type Value = u32;
        const NAME: &'static str = "number";
    }
    impl Opaque for Other {
        type Value = u32;
        const NAME: &'static str = "other";
    }

    #[test]
    fn panics_become_a_status_and_a_message() {
        // SAFETY: the last error is a string of this thread.
        let message = || unsafe { CStr::from_ptr(super::super::status::hq_last_error()) }.to_str().unwrap().to_string();
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(guard("hq_f", || panic!("a defect of size {}", 3)), hq_status::HQ_PANIC);
        assert_eq!(message(), "hq_f: a defect of size 3");
        assert_eq!(guard("hq_g", || panic!("plain")), hq_status::HQ_PANIC);
        assert_eq!(message(), "hq_g: plain");
        assert_eq!(guard("hq_h", || std::panic::panic_any(7)), hq_status::HQ_PANIC);
        assert_eq!(message(), "hq_h: panic");
        // One on a thread of a context comes through as well.
        let context = crate::dispatch::Context::new(Default::default()).unwrap();
        let status = guard("hq_i", || {
            context.install(|| rayon::join(|| (), || panic!("on a thread")));
            Ok(())
        });
        assert_eq!((status, message()), (hq_status::HQ_PANIC, "hq_i: on a thread".into()));
        let _ = std::panic::take_hook();
    }

    #[test]
    fn handles_know_their_type() {
        let handle: *mut Number = new_handle(5);
        // SAFETY: a live handle.
        assert_eq!(*unsafe { handle_ref(handle, "n") }.unwrap(), 5);
        // SAFETY: a live handle of another type.
        let failure = unsafe { handle_ref(handle.cast::<Other>(), "n") }.unwrap_err();
        assert_eq!(failure.status, hq_status::HQ_WRONG_HANDLE);
        assert_eq!(failure.message, "n: expected an other, found a handle of another type, or a freed one");
        // SAFETY: NULL, a handle of another type (left alone), then its own.
        unsafe {
            free_handle(std::ptr::null_mut::<Number>());
            free_handle(handle.cast::<Other>());
            free_handle(handle);
        }
    }
}
