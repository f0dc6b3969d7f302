//! NVIDIA GPUs: devices, streams, device memory and the operations of `cuda/*.cu` on it.
//!
//! The types are in every build. Without feature `cuda`, or where there is no device, opening one fails with
//! [`Error::NoDevice`](crate::Error::NoDevice), and computing goes on on the CPU. Work on a [`Stream`] runs in order and after
//! the call; [`Stream::synchronize`] waits for it. Integer results, quantized values, norms and labels are bit for bit those of
//! the CPU; k-means sums differ in rounding alone.
//!
//! No GPU has run this yet: what is known of the kernels comes from `tests/cuda_emulated.rs` and the compiler's listings.

#[cfg_attr(feature = "cuda", path = "driver.rs")]
#[cfg_attr(not(feature = "cuda"), path = "absent.rs")]
mod backend;
mod clusters;
mod host;
mod memory;
mod products;
mod vectors;

use std::sync::{Arc, Mutex};

pub use clusters::KmeansIteration;
pub use host::{HostCall, HostCalls};
pub use memory::{DeviceBuffer, DeviceSlice, DeviceSliceMut};
pub use products::{DeviceActivations, Packing};

use crate::Result;

/// Values as the launch of a kernel takes them.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => {
        &mut [$((&raw const $value).cast_mut().cast::<std::ffi::c_void>()),*]
    };
}
use arguments;

/// Number of CUDA devices. Errors: [`crate::Error::NoDevice`] where there is none, or no driver, or no feature `cuda`.
pub fn device_count() -> Result<usize> {
    backend::device_count()
}

/// A CUDA device with the kernels loaded. Clones are the same device; it is closed with the last of them.
#[derive(Clone)]
pub struct Device {
    inner: Arc<backend::Device>,
}

impl Device {
    /// Opens device `ordinal`. Errors: there is none of that number, or it cannot run this build's kernels.
    pub fn open(ordinal: usize) -> Result<Self> {
        Ok(Device { inner: backend::Device::open(ordinal)? })
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.inner.ordinal()
    }

    /// Its name, as the driver tells it.
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// Bytes of its memory that are free, and all of them.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.inner.free_memory()
    }
}

/// A queue of work for a device, done in order. Threads may share it; each call's work is queued as a whole.
pub struct Stream {
    scratch: Mutex<memory::Scratch>,
    inner: backend::Stream,
}

impl Stream {
    /// A new queue.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Stream { scratch: Mutex::new(memory::Scratch::new()), inner: backend::Stream::new(&device.inner)? })
    }

    /// Its device.
    pub fn device(&self) -> Device {
        Device { inner: self.inner.device().clone() }
    }

    /// Waits until all work so far is done. Errors: what went wrong in it, as far as the device tells.
    pub fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }

    /// Runs `work` with `bytes` of scratch memory; calls that want it come one after the other.
    fn with_scratch<R>(&self, bytes: usize, work: impl FnOnce(u64) -> Result<R>) -> Result<R> {
        let mut scratch = self.scratch.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let address = scratch.of(self.inner.device(), bytes)?;
        work(address)
    }
}
