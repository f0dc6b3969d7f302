//! Devices, streams, memory and launches through the CUDA driver. Every call makes the device's context the thread's current
//! one first, so any thread may use any device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, Weak};

use cust::context::{Context, CurrentContext};
use cust::device::DeviceAttribute;
use cust::error::CudaError;
use cust::function::{BlockSize, FunctionAttribute};
use cust::module::Module;
use cust::stream::StreamFlags;
use cust::sys;

use crate::{Error, Result};

/// The driver reads the module's headers as words.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// cuda/kernels.cu for every target of build.rs.
static FATBIN: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("HYBRIDQ_FATBIN")));

/// The kernels of the module, each with the threads of a block that its source is written for (tests/cuda_emulated.rs compares).
const KERNELS: [(&str, u32); 23] = [
    ("hqk_block_abs_sums_cuda", 64),
    ("hqk_block_square_sums_cuda", 64),
    ("hqk_clip_norm_cuda", 256),
    ("hqk_int8_matmul_tn_cuda", 128),
    ("hqk_kmeans_distances_cuda", 256),
    ("hqk_kmeans_finish_cuda", 256),
    ("hqk_kmeans_iteration_cuda", 256),
    ("hqk_kmeans_norms_cuda", 256),
    ("hqk_kmeans_prepare_cuda", 256),
    ("hqk_pack5_cuda", 256),
    ("hqk_pack5_matvec_cuda", 256),
    ("hqk_quantize_pack5_cuda", 256),
    ("hqk_quantize_rows_cuda", 256),
    ("hqk_scale_cuda", 256),
    ("hqk_sum_in_order_cuda", 32),
    ("hqk_ternary_few_cuda", 256),
    ("hqk_ternary_matmul_cuda", 256),
    ("hqk_ternary_matvec_cuda", 256),
    ("hqk_ternary_pack_cuda", 256),
    ("hqk_ternary_quantize_pack_cuda", 256),
    ("hqk_ternary_transposed_cuda", 256),
    ("hqk_ternary_unpack_cuda", 256),
    ("hqk_unpack5_cuda", 256),
];

fn error_of(what: &str, error: CudaError) -> Error {
    match error {
        CudaError::NoDevice | CudaError::NotInitialized | CudaError::NotSupported => {
            Error::NoDevice("no CUDA device".into())
        }
        CudaError::InvalidDevice => Error::NoDevice(format!("{what}: there is no such CUDA device")),
        CudaError::OutOfMemory => Error::DeviceMemory(format!("{what}: the device has no memory left")),
        CudaError::NoBinaryForGpu => Error::Device(format!("{what}: this build has no code for this GPU")),
        error => Error::Device(format!("{what}: {error}")),
    }
}

fn check(what: &str, result: sys::cudaError_enum) -> Result<()> {
    if result == sys::cudaError_enum::CUDA_SUCCESS {
        return Ok(());
    }
    Err(match result {
        sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => error_of(what, CudaError::OutOfMemory),
        sys::cudaError_enum::CUDA_ERROR_NO_DEVICE => error_of(what, CudaError::NoDevice),
        other => Error::Device(format!("{what}: {other:?}")),
    })
}

/// How a kernel is launched: the block its source is written for, and as many blocks as the device holds at once (kernels go over
/// their work in strides of the grid).
#[derive(Clone, Copy)]
struct Launch {
    function: sys::CUfunction,
    blocks: u32,
    threads: u32,
}

/// A device with the kernels loaded.
pub(super) struct Device {
    launches: HashMap<&'static str, Launch>,
    // Unloaded before the context goes.
    _module: Module,
    context: Context,
    ordinal: usize,
    name: String,
}

// SAFETY: the driver's functions may be called from any thread; nothing here changes after opening.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Drop for Device {
    fn drop(&mut self) {
        // The module is unloaded in the current context, whichever thread was the last to use the device.
        let _ = self.enter();
    }
}

/// What a device pointer points into.
pub(super) struct Region {
    pub(super) device: usize,
    pub(super) bytes: usize,
}

pub(super) fn device_count() -> Result<usize> {
    cust::init(cust::CudaFlags::empty()).map_err(|error| error_of("CUDA", error))?;
    let count = cust::device::Device::num_devices().map_err(|error| error_of("CUDA", error))?;
    if count == 0 { Err(error_of("CUDA", CudaError::NoDevice)) } else { Ok(count as usize) }
}

/// Open devices by ordinal: opened once, closed with their last use.
static OPEN: Mutex<Vec<Weak<Device>>> = Mutex::new(Vec::new());

impl Device {
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>> {
        let count = device_count()?;
        if ordinal >= count {
            return Err(Error::NoDevice(format!("device cuda:{ordinal}: expected 0 to {}", count - 1)));
        }
        let mut open = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if open.len() < count {
            open.resize(count, Weak::new());
        }
        if let Some(device) = open[ordinal].upgrade() {
            return Ok(device);
        }
        let what = format!("cuda:{ordinal}");
        let device = Arc::new(Self::load(ordinal).map_err(|error| error_of(&what, error))?);
        open[ordinal] = Arc::downgrade(&device);
        Ok(device)
    }

    fn load(ordinal: usize) -> cust::error::CudaResult<Self> {
        let device = cust::device::Device::get_device(ordinal as u32)?;
        let context = Context::new(device)?;
        CurrentContext::set_current(&context)?;
        let module = Module::from_fatbin(&FATBIN.0, &[])?;
        let multiprocessors = device.get_attribute(DeviceAttribute::MultiprocessorCount)? as u32;
        let mut launches = HashMap::new();
        for (name, threads) in KERNELS {
            let function = module.get_function(name)?;
            if (function.get_attribute(FunctionAttribute::MaxThreadsPerBlock)? as u32) < threads {
                return Err(CudaError::LaunchOutOfResources);
            }
            let resident = function.max_active_blocks_per_multiprocessor(BlockSize::x(threads), 0)?;
            let blocks = multiprocessors * resident.max(1);
            launches.insert(name, Launch { function: function.to_raw(), blocks, threads });
        }
        Ok(Device { launches, _module: module, context, ordinal, name: device.name()? })
    }

    /// Makes its context the thread's current one.
    fn enter(&self) -> Result<()> {
        CurrentContext::set_current(&self.context).map_err(|error| error_of(&self.name, error))
    }

    pub(super) fn ordinal(&self) -> usize {
        self.ordinal
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Free and total bytes.
    pub(super) fn free_memory(&self) -> Result<(usize, usize)> {
        self.enter()?;
        cust::memory::mem_get_info().map_err(|error| error_of(&self.name, error))
    }

    /// The device memory from `address` to the end of its allocation; `None`: it is no device memory.
    pub(super) fn region(&self, address: u64) -> Result<Option<Region>> {
        use sys::CUpointer_attribute_enum as Attribute;
        self.enter()?;
        let (mut kind, mut device) = (0u32, 0i32);
        // SAFETY: the driver looks the address up, whatever it is, and writes one integer.
        let found = unsafe {
            sys::cuPointerGetAttribute(
                (&raw mut kind).cast(),
                Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                address as sys::CUdeviceptr,
            )
        };
        if found != sys::cudaError_enum::CUDA_SUCCESS || kind != sys::CUmemorytype_enum::CU_MEMORYTYPE_DEVICE as u32 {
            return Ok(None);
        }
        // SAFETY: as above.
        check("device pointer", unsafe {
            sys::cuPointerGetAttribute(
                (&raw mut device).cast(),
                Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                address as sys::CUdeviceptr,
            )
        })?;
        let (mut start, mut bytes) = (0, 0usize);
        // SAFETY: both places are ours.
        check("device pointer", unsafe {
            sys::cuMemGetAddressRange_v2(&raw mut start, (&raw mut bytes).cast(), address as sys::CUdeviceptr)
        })?;
        let bytes = bytes - (address as usize - start as usize);
        Ok(Some(Region { device: device as usize, bytes }))
    }
}

/// A queue of work.
pub(super) struct Stream {
    stream: Option<cust::stream::Stream>,
    device: Arc<Device>,
}

// SAFETY: the driver's functions on a stream may be called from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Drop for Stream {
    fn drop(&mut self) {
        // Memory of this library is freed only when nothing uses it any more: the queue is emptied first.
        if self.device.enter().is_ok() {
            let _ = self.stream.as_ref().map(cust::stream::Stream::synchronize);
            drop(self.stream.take());
        } else {
            std::mem::forget(self.stream.take());
        }
    }
}

impl Stream {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        device.enter()?;
        let stream = cust::stream::Stream::new(StreamFlags::NON_BLOCKING, None);
        let stream = stream.map_err(|error| error_of(&device.name, error))?;
        Ok(Stream { stream: Some(stream), device: device.clone() })
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    fn raw(&self) -> sys::CUstream {
        self.stream.as_ref().map_or(std::ptr::null_mut(), cust::stream::Stream::as_inner)
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: the stream is alive.
        check(&self.device.name, unsafe { sys::cuStreamSynchronize(self.raw()) })
    }

    /// # Safety
    /// `bytes` lie at both ends, and at `from` they stay until the stream is synchronized.
    pub(super) unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        self.device.enter()?;
        // SAFETY: as the caller vouches.
        check("upload", unsafe {
            sys::cuMemcpyHtoDAsync_v2(to as sys::CUdeviceptr, from.cast(), bytes as _, self.raw())
        })
    }

    /// # Safety
    /// `bytes` lie at both ends, and nobody else uses those at `to` until the stream is synchronized.
    pub(super) unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        self.device.enter()?;
        // SAFETY: as the caller vouches.
        check("download", unsafe {
            sys::cuMemcpyDtoHAsync_v2(to.cast(), from as sys::CUdeviceptr, bytes as _, self.raw())
        })
    }

    /// # Safety
    /// `bytes` of device memory lie at both ends, apart from each other.
    pub(super) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.device.enter()?;
        let (to, from) = (to as sys::CUdeviceptr, from as sys::CUdeviceptr);
        // SAFETY: as the caller vouches.
        check("copy", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes as _, self.raw()) })
    }

    /// # Safety
    /// `bytes` of device memory lie at `to`.
    pub(super) unsafe fn clear(&self, to: u64, bytes: usize) -> Result<()> {
        self.device.enter()?;
        // SAFETY: as the caller vouches.
        check("clear", unsafe { sys::cuMemsetD8Async(to as sys::CUdeviceptr, 0, bytes as _, self.raw()) })
    }

    /// # Safety
    /// The arguments point to values of the types that the kernel takes, and what they say holds.
    pub(super) unsafe fn launch(&self, kernel: &'static str, arguments: &mut [*mut c_void]) -> Result<()> {
        self.device.enter()?;
        let launch = self.device.launches[kernel];
        // SAFETY: as the caller vouches; the function belongs to the current context.
        check(kernel, unsafe {
            sys::cuLaunchKernel(
                launch.function,
                launch.blocks,
                1,
                1,
                launch.threads,
                1,
                1,
                0,
                self.raw(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }
}

/// Device memory.
pub(super) struct Memory {
    address: sys::CUdeviceptr,
    device: Arc<Device>,
}

// SAFETY: an address that the driver frees from any thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        device.enter()?;
        let mut address = 0;
        // SAFETY: the place is ours.
        let result = unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes as _) };
        if result == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
            let (free, _) = device.free_memory()?;
            return Err(Error::DeviceMemory(format!("cuda:{}: {bytes} bytes wanted, {free} free", device.ordinal)));
        }
        check(&device.name, result)?;
        Ok(Memory { address, device: device.clone() })
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: allocated by `new`, freed once; the driver waits for work that uses it.
            unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}
