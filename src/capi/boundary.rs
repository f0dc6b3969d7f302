//! What every function of the C library passes through: pointer checks, tagged handles, caught panics.

use std::any::TypeId;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::status::{hq_status, set_last_error, status_of};
use crate::Error;

/// Why a call fails: a status and one line.
pub(super) struct Failure {
    pub(super) status: hq_status,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(status: hq_status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(status_of(&error), error.to_string())
    }
}

/// Runs the body of `function`; failures and panics become a status and the last error.
pub(super) fn guard(function: &str, body: impl FnOnce() -> Result<(), Failure>) -> hq_status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return hq_status::HQ_OK,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
            Failure::new(hq_status::HQ_PANIC, text)
        }
    };
    set_last_error(&format!("{function}: {}", failure.message));
    failure.status
}

/// What an opaque pointer points to. The tag tells handles of different types, and freed ones, apart.
#[repr(C)]
pub(super) struct Handle<T> {
    tag: u64,
    value: T,
}

/// A number for each handle type; never the tag of a freed handle, 0.
fn tag_of<T: 'static>() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    TypeId::of::<T>().hash(&mut hasher);
    hasher.finish() | 1
}

/// Moves `value` to the heap and writes its handle to `*out`.
///
/// # Safety
/// `out` is valid for a write of a pointer.
pub(super) unsafe fn give_handle<T: 'static, O>(value: T, out: *mut *mut O) {
    let handle = Box::into_raw(Box::new(Handle { tag: tag_of::<T>(), value }));
    // SAFETY: the caller vouches for `out`.
    unsafe { out.write(handle.cast()) };
}

/// The value behind a handle.
///
/// # Safety
/// `handle` is NULL or came from [`give_handle`] and is not in use by another thread.
pub(super) unsafe fn handle_mut<'a, T: 'static, O>(handle: *mut O, name: &str) -> Result<&'a mut T, Failure> {
    let handle = handle.cast::<Handle<T>>();
    not_null(handle, name)?;
    // SAFETY: every handle starts with its tag, whatever its type.
    if unsafe { handle.cast::<u64>().read() } != tag_of::<T>() {
        return Err(Failure::new(hq_status::HQ_WRONG_HANDLE, format!("{name}: a handle of another type, or freed")));
    }
    // SAFETY: the tag says that a `Handle<T>` is there; the caller vouches that nobody else uses it.
    Ok(unsafe { &mut (*handle).value })
}

/// As [`handle_mut`], for handles that calls on several threads may share.
///
/// # Safety
/// `handle` is NULL or came from [`give_handle`].
pub(super) unsafe fn handle_ref<'a, T: 'static + Sync, O>(handle: *const O, name: &str) -> Result<&'a T, Failure> {
    let handle = handle.cast::<Handle<T>>();
    not_null(handle, name)?;
    // SAFETY: every handle starts with its tag, whatever its type.
    if unsafe { handle.cast::<u64>().read() } != tag_of::<T>() {
        return Err(Failure::new(hq_status::HQ_WRONG_HANDLE, format!("{name}: a handle of another type, or freed")));
    }
    // SAFETY: the tag says that a `Handle<T>` is there.
    Ok(unsafe { &(*handle).value })
}

/// Frees a handle; NULL and handles of another type are left alone.
///
/// # Safety
/// `handle` is NULL or came from [`give_handle`] and is not used again.
pub(super) unsafe fn free_handle<T: 'static, O>(handle: *mut O) {
    let handle = handle.cast::<Handle<T>>();
    // SAFETY: every handle starts with its tag.
    if handle.is_null() || unsafe { handle.cast::<u64>().read() } != tag_of::<T>() {
        return;
    }
    // SAFETY: the tag says that this is a live `Handle<T>` made by `give_handle`.
    let mut boxed = unsafe { Box::from_raw(handle) };
    boxed.tag = 0;
}

pub(super) fn not_null<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::new(hq_status::HQ_NULL_POINTER, format!("{name}: NULL")));
    }
    Ok(())
}

fn checked_len<T>(pointer: *const T, len: usize, name: &str) -> Result<(), Failure> {
    if len > 0 {
        not_null(pointer, name)?;
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::new(hq_status::HQ_SHAPE, format!("{name}: {len} elements exceed the address space")));
    }
    Ok(())
}

/// `len` elements the caller lends.
///
/// # Safety
/// `pointer` is NULL or valid for reads of `len` elements during the call.
pub(super) unsafe fn input<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T], Failure> {
    checked_len(pointer, len, name)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, not too long; the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// `len` elements the caller lends for writing.
///
/// # Safety
/// `pointer` is NULL or valid for reads and writes of `len` elements during the call, and overlaps no other argument.
pub(super) unsafe fn output<'a, T>(pointer: *mut T, len: usize, name: &str) -> Result<&'a mut [T], Failure> {
    checked_len(pointer, len, name)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not NULL, not too long; the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
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

/// The product of sizes, or a shape error naming the argument.
pub(super) fn size(factors: &[usize], name: &str) -> Result<usize, Failure> {
    let product = factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor));
    product.ok_or_else(|| Failure::new(hq_status::HQ_SHAPE, format!("{name}: {factors:?} exceeds the address space")))
}
