//! `hq_context`: threads and kernels.

use std::ffi::{CString, c_char};

use super::boundary::{Failure, free_handle, give_handle, guard, handle_ref, not_null, text};
use super::status::hq_status;
use crate::dispatch::{Context, ContextOptions};
use crate::kernels::Isa;

/// Threads and kernels for computing. Calls on several threads may share one context.
pub struct hq_context {
    _opaque: [u8; 0],
}

/// How a context is made. Set `struct_size` to `sizeof(hq_context_options)`; zero the rest for defaults.
#[repr(C)]
pub struct hq_context_options {
    /// `sizeof(hq_context_options)`.
    pub struct_size: u32,
    /// Threads; 0: as many as the process may use.
    pub threads: u32,
    /// Cap on the instruction set ("portable", "avx2", ...); NULL: the best, or what HYBRIDQ_ISA names.
    pub isa: *const c_char,
}

pub(super) struct ContextValue {
    pub(super) context: Context,
    isa: CString,
}

/// Makes a context with threads of its own. `options` may be NULL.
///
/// # Safety
/// `options` is NULL or points to a struct of `struct_size` bytes; `out` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_new(options: *const hq_context_options, out: *mut *mut hq_context) -> hq_status {
    guard("hq_context_new", || {
        not_null(out, "out")?;
        let mut wanted = ContextOptions::default();
        if !options.is_null() {
            // SAFETY: every version of the struct starts with its size.
            let size = unsafe { (*options).struct_size } as usize;
            if size < size_of::<hq_context_options>() {
                let message =
                    format!("options.struct_size: expected {}, found {size}", size_of::<hq_context_options>());
                return Err(Failure::new(hq_status::HQ_INVALID_VALUE, message));
            }
            // SAFETY: the struct is at least as long as ours.
            let options = unsafe { &*options };
            wanted.threads = (options.threads != 0).then_some(options.threads as usize);
            if !options.isa.is_null() {
                // SAFETY: not NULL; the caller vouches for a string.
                wanted.isa = Some(Isa::from_name(unsafe { text(options.isa, "options.isa") }?)?);
            }
        }
        let context = Context::new(wanted)?;
        let isa = CString::new(context.kernels().isa().name()).unwrap_or_default();
        // SAFETY: `out` is not NULL; the caller vouches for it.
        unsafe { give_handle(ContextValue { context, isa }, out) };
        Ok(())
    })
}

/// Frees a context; NULL is fine. Objects made with it keep what they need.
///
/// # Safety
/// `context` is NULL or came from `hq_context_new` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_free(context: *mut hq_context) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle::<ContextValue, _>(context) };
}

/// Number of threads of a context; 0 if `context` is not one.
///
/// # Safety
/// `context` is NULL or a live handle of this library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_threads(context: *const hq_context) -> u32 {
    // SAFETY: as the caller vouches.
    unsafe { context_of(context) }.map_or(0, |context| context.threads() as u32)
}

/// Name of the instruction set in use ("avx2"); NULL if `context` is not a context. Valid as long as the context.
///
/// # Safety
/// `context` is NULL or a live handle of this library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_isa(context: *const hq_context) -> *const c_char {
    // SAFETY: as the caller vouches.
    let value = unsafe { handle_ref::<ContextValue, _>(context, "context") };
    value.map_or(std::ptr::null(), |value| value.isa.as_ptr())
}

/// The context behind a handle.
///
/// # Safety
/// `context` is NULL or a live handle of this library.
pub(super) unsafe fn context_of<'a>(context: *const hq_context) -> Result<&'a Context, Failure> {
    // SAFETY: as the caller vouches.
    Ok(&unsafe { handle_ref::<ContextValue, _>(context, "context") }?.context)
}
