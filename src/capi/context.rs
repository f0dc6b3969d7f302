//! `hq_context`: threads, kernels, log.

use std::ffi::{CString, c_char, c_void};

use super::arguments::{Growable, optional_options};
use super::boundary::{Failure, Opaque, free_handle, guard, handle_ref, new_handle, optional_text, place};
use super::log::{hq_log_callback, log_dispatch};
use super::status::hq_status;
use crate::dispatch::{Context, ContextOptions};
use crate::kernels::Isa;

/// Threads and kernels for computing: the first thing to make. Any number of threads may use one context at the same
/// time; calls that come while its threads are busy wait for their turn. Objects made with it keep what they need of it.
pub struct hq_context {
    _opaque: [u8; 0],
}

/// How a context is made. Set `struct_size` to `sizeof(hq_context_options)`; zero the rest for defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_context_options {
    /// `sizeof(hq_context_options)`.
    pub struct_size: u32,
    /// Threads, 1 to 1024; 0: as many as the process may use.
    pub threads: u32,
    /// Cap on the instruction set ("portable", "avx2", ...); NULL: the best, or what HYBRIDQ_ISA names.
    pub isa: *const c_char,
    /// Where to compute: "cpu", or NULL for the same.
    pub device: *const c_char,
    /// Gets warnings and notes; NULL: they are dropped.
    pub log: hq_log_callback,
    /// Given to `log`.
    pub log_user_data: *mut c_void,
    /// The least urgent level that `log` gets, HQ_LOG_ERROR to HQ_LOG_INFO; 0: HQ_LOG_WARNING.
    pub log_level: u32,
}

// SAFETY: repr(C), size first, numbers and pointers that may be NULL.
unsafe impl Growable for hq_context_options {
    const FIRST_SIZE: usize = 16;
}

#[derive(Clone)]
pub(super) struct ContextValue {
    pub(super) context: Context,
    isa: CString,
    log: Option<tracing::Dispatch>,
}

impl Opaque for hq_context {
    type Value = ContextValue;
    const NAME: &'static str = "hq_context";
}

impl ContextValue {
    /// The same log beside another context of the same level.
    pub(super) fn with(&self, context: Context) -> Self {
        ContextValue { context, ..self.clone() }
    }

    /// Runs `work` with its warnings going to the context's log.
    pub(super) fn logged<R>(&self, work: impl FnOnce() -> R) -> R {
        match &self.log {
            Some(log) => tracing::dispatcher::with_default(log, work),
            None => work(),
        }
    }
}

/// Makes a context with threads of its own. `options` may be NULL. HQ_INVALID_VALUE: a field out of range, an
/// instruction set of no name; HQ_UNSUPPORTED: one that this CPU lacks, or threads that the system refuses;
/// HQ_NO_DEVICE: a device other than "cpu".
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_new(options: *const hq_context_options, out: *mut *mut hq_context) -> hq_status {
    guard("hq_context_new", || {
        // SAFETY: as the caller vouches.
        let (out, options) = unsafe { (place(out, "out")?, optional_options(options, "options")?) };
        let (mut wanted, mut log) = (ContextOptions::default(), None);
        if let Some(options) = options {
            wanted.threads = (options.threads != 0).then_some(options.threads as usize);
            // SAFETY: as the caller vouches.
            let texts = unsafe {
                (optional_text(options.isa, "options.isa")?, optional_text(options.device, "options.device")?)
            };
            wanted.isa = texts.0.map(Isa::from_name).transpose()?;
            if let Some(device) = texts.1.filter(|device| *device != "cpu") {
                let message = format!("options.device: expected \"cpu\", found \"{device}\"");
                return Err(Failure::new(hq_status::HQ_NO_DEVICE, message));
            }
            log = log_dispatch(options.log, options.log_user_data, options.log_level)?;
        }
        let context = Context::new(wanted)?;
        let isa = CString::new(context.kernels().isa().name()).unwrap_or_default();
        out.write(new_handle(ContextValue { context, isa, log }));
        Ok(())
    })
}

/// Frees a context; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_free(context: *mut hq_context) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(context) };
}

/// Number of threads of a context; 0 if `context` is not one.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_threads(context: *const hq_context) -> u32 {
    // SAFETY: as the caller vouches.
    unsafe { context_of(context) }.map_or(0, |context| context.threads() as u32)
}

/// Name of the instruction set in use ("avx2"); NULL if `context` is not a context. Valid as long as the context.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_context_isa(context: *const hq_context) -> *const c_char {
    // SAFETY: as the caller vouches.
    unsafe { context_value(context) }.map_or(std::ptr::null(), |value| value.isa.as_ptr())
}

/// # Safety
/// `context` is NULL or a live handle of this library.
pub(super) unsafe fn context_value<'a>(context: *const hq_context) -> Result<&'a ContextValue, Failure> {
    // SAFETY: as the caller vouches.
    unsafe { handle_ref(context, "context") }
}

/// # Safety
/// `context` is NULL or a live handle of this library.
pub(super) unsafe fn context_of<'a>(context: *const hq_context) -> Result<&'a Context, Failure> {
    // SAFETY: as the caller vouches.
    Ok(&unsafe { context_value(context) }?.context)
}
