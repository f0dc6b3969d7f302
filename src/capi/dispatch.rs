//! The dispatcher: where calls run, what they take, thresholds and their cache file, advice.

use std::ffi::{CString, c_char, c_void};
use std::path::PathBuf;
use std::sync::LazyLock;

use super::arguments::{Growable, report};
use super::boundary::{Failure, give_text, guard, new_handle, optional_text, place, text};
use super::context::{ContextValue, context_of, context_value, hq_context};
use super::generate::hq_text_callback;
use super::status::hq_status;
use crate::Error;
use crate::dispatch::{CacheKey, DispatchConfig, Operation, cache_path, calibrate, load_cached, store_cached};
use crate::kernels::Isa;

/// Where a call runs. Set `struct_size` to `sizeof(hq_backend)` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_backend {
    /// `sizeof(hq_backend)`.
    pub struct_size: u32,
    /// 1: on the context's threads; 0: on the calling one alone.
    pub parallel: u32,
    /// Name of the instruction set ("avx2"), or "cuda" for a call on a CUDA device. Static storage.
    pub isa: *const c_char,
    /// 1: a ternary product straight from the packed weights instead of through unpacked panels.
    pub direct: u32,
}

// SAFETY: repr(C), size first, numbers and a pointer that may be NULL.
unsafe impl Growable for hq_backend {
    const FIRST_SIZE: usize = size_of::<hq_backend>();
}

/// The calls of one operation on one backend, in nanoseconds. Later versions may be larger (`struct_size`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_backend_metrics {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// As in hq_backend.
    pub parallel: u32,
    /// Name of the operation ("ternary_matmul"). Static storage.
    pub operation: *const c_char,
    /// As in hq_backend.
    pub isa: *const c_char,
    /// As in hq_backend.
    pub direct: u32,
    /// Number of calls.
    pub count: u64,
    /// All calls together.
    pub total_ns: u64,
    /// The shortest call.
    pub min_ns: u64,
    /// The longest call.
    pub max_ns: u64,
    /// The mean of a call.
    pub mean_ns: f64,
}

/// Gets the metrics of one backend (valid during the call) and the caller's pointer. A result other than 0 ends the list.
pub type hq_metrics_callback =
    Option<unsafe extern "C" fn(metrics: *const hq_backend_metrics, user_data: *mut c_void) -> i32>;

/// `name`, one of an operation or a backend, with a NUL, for ever.
fn static_name(name: &str) -> *const c_char {
    static NAMES: LazyLock<Vec<CString>> = LazyLock::new(|| {
        let levels = Isa::ALL.iter().map(|isa| isa.name());
        let names = Operation::ALL.iter().map(|operation| operation.name()).chain(levels).chain(["cuda"]);
        names.map(|name| CString::new(name).unwrap_or_default()).collect()
    });
    let found = NAMES.iter().find(|known| known.to_bytes() == name.as_bytes());
    found.map_or(std::ptr::null(), |name| name.as_ptr())
}

/// Where a call of `operation` ("norm", "ternary_matmul"; the error of a wrong name lists all) with `work` runs in this context. `work` counts
/// multiply-adds for products and k-means (with 32 more an output of `int8_matmul`, 1,024 more a point of k-means), else elements;
/// `tokens` (centroids for k-means) matters to ternary products and where a CUDA device may be chosen, whose copies are
/// counted as those of square weights, or of points with 64 coordinates. HQ_INVALID_VALUE: no such operation.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_choose(
    context: *const hq_context,
    operation: *const c_char,
    work: u64,
    tokens: u64,
    backend: *mut hq_backend,
) -> hq_status {
    guard("hq_dispatch_choose", || {
        // SAFETY: as the caller vouches.
        let (context, name) = unsafe { (context_of(context)?, text(operation, "operation")?) };
        // SAFETY: as the caller vouches.
        let backend = unsafe { report(backend, "backend") }?;
        let operation = Operation::from_name(name).ok_or_else(|| {
            let names = Operation::ALL.map(Operation::name).join(", ");
            Failure::invalid("operation", format!("one of {names}"), name)
        })?;
        let bounded = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let found = context.backend(operation, bounded(work), bounded(tokens));
        backend.write(hq_backend {
            struct_size: 0,
            parallel: found.parallel.into(),
            isa: static_name(found.name()),
            direct: found.direct.into(),
        });
        Ok(())
    })
}

/// Turns the timing of calls on or off; it is off at first. Contexts made by `hq_dispatch_configure` count for themselves.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_metrics_enable(context: *const hq_context, on: bool) -> hq_status {
    guard("hq_dispatch_metrics_enable", || {
        // SAFETY: as the caller vouches.
        unsafe { context_of(context) }?.set_metrics(on);
        Ok(())
    })
}

/// Calls `callback` with every operation and backend that was called since timing was turned on or cleared.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_metrics(
    context: *const hq_context,
    callback: hq_metrics_callback,
    user_data: *mut c_void,
) -> hq_status {
    guard("hq_dispatch_metrics", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        let callback = callback.ok_or_else(|| Failure::new(hq_status::HQ_NULL_POINTER, "callback: NULL"))?;
        for found in context.metrics() {
            let metrics = hq_backend_metrics {
                struct_size: size_of::<hq_backend_metrics>() as u32,
                parallel: found.backend.parallel.into(),
                operation: static_name(found.operation.name()),
                isa: static_name(found.backend.name()),
                direct: found.backend.direct.into(),
                count: found.count,
                total_ns: found.total_ns,
                min_ns: found.min_ns,
                max_ns: found.max_ns,
                mean_ns: found.mean_ns,
            };
            // SAFETY: the struct lives through the call; the caller vouches for its function.
            if unsafe { callback(&raw const metrics, user_data) } != 0 {
                break;
            }
        }
        Ok(())
    })
}

/// Forgets the calls so far.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_metrics_clear(context: *const hq_context) -> hq_status {
    guard("hq_dispatch_metrics_clear", || {
        // SAFETY: as the caller vouches.
        unsafe { context_of(context) }?.clear_metrics();
        Ok(())
    })
}

/// The thresholds of a context that differ from the defaults, as TOML: `direct_tokens` and, for each operation, a table
/// `[operations.NAME]` of `serial_below`, `serial_below_inside` (of calls on the context's own threads), `isa`, `small_below`,
/// `small_isa`; for a CUDA device a table `[cuda]` of `device`, `latency_ns`, `upload_per_s`, `download_per_s` (bytes), and for
/// each operation `cuda_from` (work from which it goes there), or `cuda_work_per_s` and `cpu_work_per_s`, from which that is
/// reckoned. A build without CUDA keeps them and uses the CPU. `length` gets the bytes without the NUL;
/// `buffer` (`capacity` bytes, or NULL to ask for the length) gets the text with it.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_thresholds(
    context: *const hq_context,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_dispatch_thresholds", || {
        // SAFETY: as the caller vouches.
        unsafe { give_text(&context_of(context)?.dispatch_config().to_toml(), buffer, capacity, length) }
    })
}

/// A context on the same threads, with the same log, under other thresholds.
fn under(value: &ContextValue, config: DispatchConfig) -> Result<*mut hq_context, Failure> {
    Ok(new_handle(value.with(value.context.with_dispatch(config)?)))
}

/// Makes a context that shares the threads of `context` and chooses by the thresholds in `toml` (the form of
/// `hq_dispatch_thresholds`; what is left out has its default, "" is all defaults). `context` stays as it is; both are
/// freed. HQ_INVALID_VALUE: not such TOML, an instruction set beyond the context's, or `cuda_from` of an operation that stays on
/// the CPU.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_configure(
    context: *const hq_context,
    toml: *const c_char,
    out: *mut *mut hq_context,
) -> hq_status {
    guard("hq_dispatch_configure", || {
        // SAFETY: as the caller vouches.
        let (value, toml) = unsafe { (context_value(context)?, text(toml, "toml")?) };
        // SAFETY: as the caller vouches.
        let out = unsafe { place(out, "out") }?;
        let wrong = |message| Failure::new(hq_status::HQ_INVALID_VALUE, format!("toml: {message}"));
        out.write(under(value, DispatchConfig::from_toml(toml).map_err(wrong)?)?);
        Ok(())
    })
}

/// The cache file that `path` means.
///
/// # Safety
/// `path` is NULL or a string.
unsafe fn cache_of(path: *const c_char) -> Result<PathBuf, Failure> {
    // SAFETY: as the caller vouches.
    let given = unsafe { optional_text(path, "path") }?.map(PathBuf::from);
    let none = || Failure::new(hq_status::HQ_UNSUPPORTED, "path: NULL, and no cache folder is known or allowed");
    given.or_else(|| cache_path(None)).ok_or_else(none)
}

/// As `hq_dispatch_configure`, with the thresholds that the cache file `path` keeps for this machine. `path` NULL: the file
/// HYBRIDQ_DISPATCH_CACHE names, or the usual one (`hq_context_new` has read it already, if it could). HQ_IO: the file
/// cannot be read; HQ_FORMAT: it is no cache, or has nothing for this CPU, version and instruction set.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_load(
    context: *const hq_context,
    path: *const c_char,
    out: *mut *mut hq_context,
) -> hq_status {
    guard("hq_dispatch_load", || {
        // SAFETY: as the caller vouches.
        let (value, path, out) = unsafe { (context_value(context)?, cache_of(path)?, place(out, "out")?) };
        let key = CacheKey::of_this_machine(value.context.kernels().isa(), value.context.threads());
        out.write(under(value, load_cached(&path, &key)?)?);
        Ok(())
    })
}

/// As `hq_dispatch_configure`, with thresholds learned by timing (half a minute or so, on a quiet machine), which are put
/// into the cache file `path` (NULL: as for `hq_dispatch_load`; "": none). `progress` gets the name of each operation before
/// it is timed, in each of three passes, and `user_data`; a result other than 0 ends the work: HQ_CANCELLED. `progress` may be NULL.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_calibrate(
    context: *const hq_context,
    path: *const c_char,
    progress: hq_text_callback,
    user_data: *mut c_void,
    out: *mut *mut hq_context,
) -> hq_status {
    guard("hq_dispatch_calibrate", || {
        // SAFETY: as the caller vouches.
        let (value, path, out) = unsafe { (context_value(context)?, cache_of(path)?, place(out, "out")?) };
        let mut stopped = false;
        let config = calibrate(&value.context, |operation| {
            let name = operation.name();
            let tell = |tell: unsafe extern "C" fn(_, _, _) -> i32| {
                // SAFETY: the name is static; the caller vouches for its function.
                unsafe { tell(static_name(name), name.len(), user_data) }
            };
            stopped = progress.is_some_and(|progress| tell(progress) != 0);
            if stopped { Err(Error::Unsupported(format!("progress stopped it before {name}"))) } else { Ok(()) }
        });
        let config = config.map_err(|error| match stopped {
            true => Failure::new(hq_status::HQ_CANCELLED, error.to_string()),
            false => error.into(),
        })?;
        if path.as_os_str() != "" {
            let key = CacheKey::of_this_machine(value.context.kernels().isa(), value.context.threads());
            store_cached(&path, &key, &config)?;
        }
        out.write(under(value, config)?);
        Ok(())
    })
}

/// Calls `callback` with each sentence of advice on this CPU, build and context, the most useful first. A result other than
/// 0 ends the list.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_dispatch_advice(
    context: *const hq_context,
    callback: hq_text_callback,
    user_data: *mut c_void,
) -> hq_status {
    guard("hq_dispatch_advice", || {
        // SAFETY: as the caller vouches.
        let context = unsafe { context_of(context) }?;
        let callback = callback.ok_or_else(|| Failure::new(hq_status::HQ_NULL_POINTER, "callback: NULL"))?;
        for line in context.advice() {
            // SAFETY: the line is valid during the call; the caller vouches for its function.
            if unsafe { callback(line.as_ptr().cast(), line.len(), user_data) } != 0 {
                break;
            }
        }
        Ok(())
    })
}
