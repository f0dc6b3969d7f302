//! Devices, streams, device memory and copies.

use std::ffi::c_void;

use super::boundary::{Failure, Opaque, free_handle, guard, handle_ref, new_handle, not_null, place};
use super::status::hq_status;
use crate::gpu::{Device, DeviceBuffer, DeviceSlice, DeviceSliceMut, Stream, device_count};

/// Memory of a device.
pub struct hq_buffer {
    _opaque: [u8; 0],
}

/// A queue of work for a device. Calls return when the work is queued; it is done in order, and all of it when
/// `hq_stream_synchronize` returns. Threads may share a stream.
pub struct hq_stream {
    _opaque: [u8; 0],
}

/// A device buffer and the address that C sees of it.
pub(super) struct BufferValue {
    // Held, not read: the address is what C works with.
    buffer: DeviceBuffer<u8>,
    address: *mut c_void,
}

impl Opaque for hq_buffer {
    type Value = BufferValue;
    const NAME: &'static str = "hq_buffer";
}

impl Opaque for hq_stream {
    type Value = Stream;
    const NAME: &'static str = "hq_stream";
}

/// # Safety
/// `stream` is NULL or a live handle of this library.
pub(super) unsafe fn stream_of<'a>(stream: *const hq_stream) -> Result<&'a Stream, Failure> {
    // SAFETY: as the caller vouches.
    unsafe { handle_ref(stream, "stream") }
}

/// Number of CUDA devices. HQ_NO_DEVICE: there is none, or no driver, or this build is without CUDA; the message tells which.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_device_count(count: *mut usize) -> hq_status {
    guard("hq_device_count", || {
        // SAFETY: as the caller vouches.
        let count = unsafe { place(count, "count") }?;
        count.write(device_count()?);
        Ok(())
    })
}

/// Makes a queue of work for CUDA device `device` (from 0). The first use of a device loads the kernels. HQ_NO_DEVICE: there is
/// no such device, or this build is without CUDA.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_stream_new(device: u32, out: *mut *mut hq_stream) -> hq_status {
    guard("hq_stream_new", || {
        // SAFETY: as the caller vouches.
        let out = unsafe { place(out, "out") }?;
        let device = Device::open(device as usize)?;
        out.write(new_handle(Stream::new(&device)?));
        Ok(())
    })
}

/// Waits for a stream's work and frees it; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_stream_free(stream: *mut hq_stream) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(stream) };
}

/// Waits until all work queued so far is done. HQ_DEVICE: it went wrong.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_stream_synchronize(stream: *const hq_stream) -> hq_status {
    guard("hq_stream_synchronize", || {
        // SAFETY: as the caller vouches.
        unsafe { stream_of(stream) }?.synchronize()?;
        Ok(())
    })
}

/// Memory of the stream's device, `bytes` of it, with an address that is a multiple of 256. HQ_DEVICE_MEMORY: it has not so
/// much; nothing is kept then.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_buffer_new(stream: *const hq_stream, bytes: usize, out: *mut *mut hq_buffer) -> hq_status {
    guard("hq_buffer_new", || {
        // SAFETY: as the caller vouches.
        let (stream, out) = unsafe { (stream_of(stream)?, place(out, "out")?) };
        let mut buffer = DeviceBuffer::<u8>::new(&stream.device(), bytes)?;
        let address = buffer.as_mut().address() as *mut c_void;
        out.write(new_handle(BufferValue { buffer, address }));
        Ok(())
    })
}

/// Frees device memory, after the work that uses it; NULL is fine.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_buffer_free(buffer: *mut hq_buffer) {
    // SAFETY: as the caller vouches.
    unsafe { free_handle(buffer) };
}

/// The device address of a buffer: what the calls `hq_gpu_...` take, as do other libraries' kernels. NULL if `buffer` is not one,
/// or holds nothing.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_buffer_address(buffer: *const hq_buffer) -> *mut c_void {
    // SAFETY: as the caller vouches.
    unsafe { handle_ref(buffer, "buffer") }.map_or(std::ptr::null_mut(), |value| value.address)
}

/// Bytes of a buffer; 0 if `buffer` is not one.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_buffer_size(buffer: *const hq_buffer) -> usize {
    // SAFETY: as the caller vouches.
    unsafe { handle_ref(buffer, "buffer") }.map_or(0, |value| value.buffer.len())
}

/// Queues a copy of `bytes` from host memory to device memory. `from` must stay as it is until the stream is synchronized.
/// HQ_INVALID_VALUE: `to` is not memory of the stream's device; HQ_SHAPE: it is less.
///
/// # Safety
/// The pointers are as [`crate::capi`] says; `to` is a device address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_stream_upload(
    stream: *const hq_stream,
    from: *const c_void,
    bytes: usize,
    to: *mut c_void,
) -> hq_status {
    guard("hq_stream_upload", || {
        // SAFETY: as the caller vouches.
        let stream = unsafe { stream_of(stream) }?;
        if bytes > 0 {
            not_null(from.cast::<u8>(), "from")?;
        }
        // SAFETY: as the caller vouches; the address is checked with the driver.
        let to = unsafe { DeviceSliceMut::<u8>::from_raw(stream, "to", to.cast(), bytes) }?;
        // SAFETY: as the caller vouches.
        let from = unsafe { super::arguments::input(from.cast::<u8>(), bytes, "from") }?;
        // SAFETY: the caller keeps the bytes until the stream is synchronized.
        unsafe { stream.upload_async(from, to) }?;
        Ok(())
    })
}

/// Queues a copy of `bytes` from device memory to host memory; they are there when the stream is synchronized. HQ_INVALID_VALUE:
/// `from` is not memory of the stream's device; HQ_SHAPE: it is less.
///
/// # Safety
/// The pointers are as [`crate::capi`] says; `from` is a device address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_stream_download(
    stream: *const hq_stream,
    from: *const c_void,
    bytes: usize,
    to: *mut c_void,
) -> hq_status {
    guard("hq_stream_download", || {
        // SAFETY: as the caller vouches.
        let stream = unsafe { stream_of(stream) }?;
        // SAFETY: as the caller vouches; the address is checked with the driver.
        let from = unsafe { DeviceSlice::<u8>::from_raw(stream, "from", from.cast(), bytes) }?;
        // SAFETY: as the caller vouches.
        let to = unsafe { super::arguments::output(to.cast::<u8>(), bytes, "to") }?;
        // SAFETY: the caller leaves the bytes alone until the stream is synchronized.
        unsafe { stream.download_async(from, to) }?;
        Ok(())
    })
}
