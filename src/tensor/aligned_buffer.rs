//! A fixed-size buffer on a 64-byte boundary: a cache line and the widest vector register.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

const ALIGNMENT: usize = 64;

/// A heap slice of plain numbers that starts on a 64-byte boundary and is zero at first.
pub struct AlignedBuffer<T: bytemuck::Pod> {
    start: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

// SAFETY: the buffer owns its memory alone and `T` is plain data.
unsafe impl<T: bytemuck::Pod + Send> Send for AlignedBuffer<T> {}
// SAFETY: shared access only reads plain data.
unsafe impl<T: bytemuck::Pod + Sync> Sync for AlignedBuffer<T> {}

impl<T: bytemuck::Pod> AlignedBuffer<T> {
    /// `len` zeros. Untouched pages cost no memory until written.
    ///
    /// # Panics
    /// If `len` elements overflow the address space.
    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        if layout.size() == 0 {
            return AlignedBuffer { start: NonNull::dangling(), len, owns: PhantomData };
        }
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(raw.cast::<T>()) else { handle_alloc_error(layout) };
        AlignedBuffer { start, len, owns: PhantomData }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Self {
        let mut buffer = Self::zeroed(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer larger than the address space");
        Layout::from_size_align(bytes, ALIGNMENT.max(align_of::<T>())).expect("buffer larger than the address space")
    }
}

impl<T: bytemuck::Pod> Drop for AlignedBuffer<T> {
    fn drop(&mut self) {
        let layout = Self::layout(self.len);
        if layout.size() != 0 {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

impl<T: bytemuck::Pod> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialized elements (or is dangling with nothing to read).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: bytemuck::Pod> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: bytemuck::Pod> Clone for AlignedBuffer<T> {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl<T: bytemuck::Pod> Default for AlignedBuffer<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: bytemuck::Pod> std::fmt::Debug for AlignedBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} x {})", self.len, std::any::type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_copies() {
        for len in [0, 1, 15, 16, 1000] {
            let mut buffer = AlignedBuffer::<f32>::zeroed(len);
            assert_eq!(buffer.as_ptr() as usize % if len == 0 { 1 } else { ALIGNMENT }, 0);
            assert!(buffer.iter().all(|&v| v == 0.0));
            buffer.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
            assert_eq!(&buffer[..], &buffer.clone()[..]);
        }
    }
}
