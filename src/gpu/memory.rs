//! Device memory with a type, and the pieces of it that operations take.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use super::backend::Memory;
use super::{Device, Stream};
use crate::{Error, Result};

/// Memory of a device for `len` values of `T`. Freed when dropped, after the work that uses it.
pub struct DeviceBuffer<T> {
    /// None where there is nothing to hold.
    memory: Option<Memory>,
    device: usize,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> DeviceBuffer<T> {
    /// Memory for `len` values, whatever they are. Errors: [`Error::DeviceMemory`] where the device has not so much.
    pub fn new(device: &Device, len: usize) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| {
            Error::DeviceMemory(format!("{}: {len} values of {} bytes wanted", device.name(), size_of::<T>()))
        })?;
        let memory = if bytes > 0 { Some(Memory::new(&device.inner, bytes)?) } else { None };
        Ok(DeviceBuffer { memory, device: device.ordinal(), len, values: PhantomData })
    }

    /// A copy of `values`; the copy is done when the call returns.
    pub fn from_slice(stream: &Stream, values: &[T]) -> Result<Self> {
        let mut buffer = Self::new(&stream.device(), values.len())?;
        stream.upload(values, buffer.as_mut())?;
        Ok(buffer)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn address(&self) -> u64 {
        self.memory.as_ref().map_or(0, Memory::address)
    }

    /// All of it, to read.
    pub fn as_ref(&self) -> DeviceSlice<'_, T> {
        DeviceSlice { address: self.address(), len: self.len, device: self.device, values: PhantomData }
    }

    /// All of it, to write.
    pub fn as_mut(&mut self) -> DeviceSliceMut<'_, T> {
        DeviceSliceMut { address: self.address(), len: self.len, device: self.device, values: PhantomData }
    }
}

/// Values in device memory that an operation reads.
#[derive(Clone, Copy)]
pub struct DeviceSlice<'a, T> {
    pub(super) address: u64,
    pub(super) len: usize,
    pub(super) device: usize,
    values: PhantomData<&'a T>,
}

/// Values in device memory that an operation writes.
pub struct DeviceSliceMut<'a, T> {
    pub(super) address: u64,
    pub(super) len: usize,
    pub(super) device: usize,
    values: PhantomData<&'a mut T>,
}

/// The `len` values of `T` at `address`, checked with the driver: memory of the stream's device, so many at least.
fn checked<T>(stream: &Stream, name: &'static str, address: u64, len: usize) -> Result<(u64, usize, usize)> {
    let device = stream.device().ordinal();
    if len == 0 {
        return Ok((0, 0, device));
    }
    let wrong = |found: String| Error::invalid(name, format!("memory of cuda:{device}"), found);
    if address == 0 {
        return Err(wrong("NULL".into()));
    }
    if !(address as usize).is_multiple_of(align_of::<T>()) {
        return Err(Error::invalid(
            name,
            format!("a multiple of {} as address", align_of::<T>()),
            format!("{address:#x}"),
        ));
    }
    let region = stream.device().inner.region(address)?.ok_or_else(|| wrong("host memory".into()))?;
    if region.device != device {
        return Err(wrong(format!("memory of cuda:{}", region.device)));
    }
    let bytes = len.saturating_mul(size_of::<T>());
    if bytes > region.bytes {
        return Err(Error::shape("device memory", name, format!("{bytes} bytes"), format!("{} bytes", region.bytes)));
    }
    Ok((address, len, device))
}

impl<'a, T: Pod> DeviceSlice<'a, T> {
    /// The first `len` values.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, len: usize) -> Self {
        assert!(len <= self.len, "{len} values of {}", self.len);
        DeviceSlice { len, ..self }
    }

    /// Where it begins; 0 where there is nothing.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Device memory that another library allocated. Errors: host memory, memory of another device, less than `len` values.
    ///
    /// # Safety
    /// The memory holds `len` values, is not freed for `'a` and until the stream is synchronized.
    pub unsafe fn from_raw(stream: &Stream, name: &'static str, address: *const T, len: usize) -> Result<Self> {
        let (address, len, device) = checked::<T>(stream, name, address as u64, len)?;
        Ok(DeviceSlice { address, len, device, values: PhantomData })
    }
}

impl<'a, T: Pod> DeviceSliceMut<'a, T> {
    /// The first `len` values.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, len: usize) -> Self {
        assert!(len <= self.len, "{len} values of {}", self.len);
        DeviceSliceMut { len, ..self }
    }

    /// As [`DeviceSlice::from_raw`].
    ///
    /// # Safety
    /// As there, and nobody else uses the memory meanwhile.
    pub unsafe fn from_raw(stream: &Stream, name: &'static str, address: *mut T, len: usize) -> Result<Self> {
        let (address, len, device) = checked::<T>(stream, name, address as u64, len)?;
        Ok(DeviceSliceMut { address, len, device, values: PhantomData })
    }

    /// Where it begins; 0 where there is nothing.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The same, to read.
    pub fn as_ref(&self) -> DeviceSlice<'_, T> {
        DeviceSlice { address: self.address, len: self.len, device: self.device, values: PhantomData }
    }
}

impl Stream {
    /// Copies `values` to the device; done when the call returns. Errors: another length, another device.
    pub fn upload<T: Pod>(&self, values: &[T], to: DeviceSliceMut<'_, T>) -> Result<()> {
        self.expect("upload", "to", to.as_ref(), values.len())?;
        if !values.is_empty() {
            // SAFETY: so many bytes at both ends; the slice outlives the wait.
            unsafe { self.inner.upload(to.address, values.as_ptr().cast(), size_of_val(values)) }?;
        }
        self.synchronize()
    }

    /// Copies from the device to `values`; done when the call returns. Errors: another length, another device.
    pub fn download<T: Pod>(&self, from: DeviceSlice<'_, T>, values: &mut [T]) -> Result<()> {
        self.expect("download", "from", from, values.len())?;
        if !values.is_empty() {
            // SAFETY: so many bytes at both ends; the slice outlives the wait.
            unsafe { self.inner.download(values.as_mut_ptr().cast(), from.address, size_of_val(values)) }?;
        }
        self.synchronize()
    }

    /// Copies on the device. Errors: another length, another device.
    pub fn copy<T: Pod>(&self, from: DeviceSlice<'_, T>, to: DeviceSliceMut<'_, T>) -> Result<()> {
        self.expect("copy", "from", from, to.len)?;
        self.expect("copy", "to", to.as_ref(), from.len)?;
        if from.len == 0 {
            return Ok(());
        }
        // SAFETY: so many bytes at both ends; nobody else writes the one, nobody reads it meanwhile.
        unsafe { self.inner.copy(to.address, from.address, from.len * size_of::<T>()) }
    }

    /// As [`Stream::upload`], in the order of the stream, without waiting.
    ///
    /// # Safety
    /// `values` stay as they are until the stream is synchronized.
    pub unsafe fn upload_async<T: Pod>(&self, values: &[T], to: DeviceSliceMut<'_, T>) -> Result<()> {
        self.expect("upload", "to", to.as_ref(), values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: so many bytes at both ends; the caller keeps them.
        unsafe { self.inner.upload(to.address, values.as_ptr().cast(), size_of_val(values)) }
    }

    /// As [`Stream::download`], in the order of the stream, without waiting.
    ///
    /// # Safety
    /// Nobody uses `values` until the stream is synchronized.
    pub unsafe fn download_async<T: Pod>(&self, from: DeviceSlice<'_, T>, values: &mut [T]) -> Result<()> {
        self.expect("download", "from", from, values.len())?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: so many bytes at both ends; the caller keeps them.
        unsafe { self.inner.download(values.as_mut_ptr().cast(), from.address, size_of_val(values)) }
    }

    /// Checks that a slice has `len` values and lies on this stream's device.
    pub(super) fn expect<T>(
        &self,
        operation: &'static str,
        argument: &'static str,
        slice: DeviceSlice<'_, T>,
        len: usize,
    ) -> Result<()> {
        let device = self.device().ordinal();
        if slice.len != len {
            return Err(Error::shape(operation, argument, format!("{len} values"), slice.len));
        }
        if slice.device != device {
            return Err(Error::invalid(argument, format!("memory of cuda:{device}"), format!("cuda:{}", slice.device)));
        }
        Ok(())
    }
}

/// Memory that a stream's operations share, one after the other: grows to the largest wanted.
pub(super) struct Scratch(Option<(Memory, usize)>);

impl Scratch {
    pub(super) const fn new() -> Self {
        Scratch(None)
    }

    /// The address of `bytes`, at least.
    pub(super) fn of(&mut self, device: &Arc<super::backend::Device>, bytes: usize) -> Result<u64> {
        if let Some((memory, size)) = &self.0
            && *size >= bytes
        {
            return Ok(memory.address());
        }
        self.0 = None;
        let memory = Memory::new(device, bytes.max(1))?;
        let address = memory.address();
        self.0 = Some((memory, bytes.max(1)));
        Ok(address)
    }
}
