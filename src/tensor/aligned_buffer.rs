//! A fixed-size buffer on a 64-byte boundary: a cache line and the widest vector register.
//!
//! Large buffers are mapped by themselves, on a 2 MiB boundary, and ask for huge pages: a product that reads its
//! weights once runs at the speed of memory, and with pages of 4 KiB a good part of that goes into finding pages. It is
//! a hint: where the system gives none (another system, `transparent_hugepage` set to `never`), pages are small.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

const ALIGNMENT: usize = 64;

/// The size of a huge page on x86-64 and on aarch64 with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// Buffers from this size on are mapped: below, the part of a huge page that stays unused would weigh too much.
const MAPPED_FROM: usize = 2 * HUGE_PAGE;

/// A heap slice of plain numbers that starts on a 64-byte boundary and is zero at first.
pub struct AlignedBuffer<T: bytemuck::Pod> {
    start: NonNull<T>,
    len: usize,
    /// What a large buffer lies in; `None`: it was allocated.
    mapping: Option<MmapMut>,
    owns: PhantomData<T>,
}

// SAFETY: the buffer owns its memory alone and `T` is plain data.
unsafe impl<T: bytemuck::Pod + Send> Send for AlignedBuffer<T> {}
// SAFETY: shared access only reads plain data.
unsafe impl<T: bytemuck::Pod + Sync> Sync for AlignedBuffer<T> {}

impl<T: bytemuck::Pod> AlignedBuffer<T> {
    /// `len` zeros. Untouched pages of a large buffer cost no memory until written.
    ///
    /// # Panics
    /// If `len` elements overflow the address space.
    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        if layout.size() == 0 {
            return AlignedBuffer { start: NonNull::dangling(), len, mapping: None, owns: PhantomData };
        }
        if layout.size() >= MAPPED_FROM
            && layout.align() <= HUGE_PAGE
            && let Some((start, mapping)) = map_huge(layout.size())
        {
            return AlignedBuffer { start: start.cast(), len, mapping: Some(mapping), owns: PhantomData };
        }
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(raw.cast::<T>()) else { handle_alloc_error(layout) };
        AlignedBuffer { start, len, mapping: None, owns: PhantomData }
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

/// `bytes` zeros of their own mapping, from a huge page's boundary on; `None` if the system refuses.
fn map_huge(bytes: usize) -> Option<(NonNull<u8>, MmapMut)> {
    // One huge page more, to align within.
    let mut mapping = MmapMut::map_anon(bytes.checked_add(HUGE_PAGE)?).ok()?;
    let skip = mapping.as_ptr().align_offset(HUGE_PAGE);
    // The rest that fills no huge page stays on small ones: half of it would be memory for nothing.
    #[cfg(target_os = "linux")]
    let _ = mapping.advise_range(memmap2::Advice::HugePage, skip, bytes / HUGE_PAGE * HUGE_PAGE);
    let start = NonNull::new(mapping.get_mut(skip..skip.checked_add(bytes)?)?.as_mut_ptr())?;
    Some((start, mapping))
}

impl<T: bytemuck::Pod> Drop for AlignedBuffer<T> {
    fn drop(&mut self) {
        let layout = Self::layout(self.len);
        if layout.size() != 0 && self.mapping.is_none() {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

impl<T: bytemuck::Pod> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialized elements, in memory allocated or mapped for as long as `self`
        // lives (or is dangling with nothing to read).
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
        let large = MAPPED_FROM / size_of::<f32>();
        for len in [0, 1, 15, 16, 1000, large - 1, large, large + 12345] {
            let mut buffer = AlignedBuffer::<f32>::zeroed(len);
            let alignment = [1, ALIGNMENT, HUGE_PAGE][usize::from(len > 0) + usize::from(buffer.mapping.is_some())];
            assert_eq!(buffer.as_ptr() as usize % alignment, 0);
            assert!(buffer.iter().all(|&v| v == 0.0));
            buffer.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
            let copy = buffer.clone();
            let moved = std::mem::take(&mut buffer);
            assert!(moved[..] == copy[..] && buffer.is_empty());
        }
    }

    /// The mapping carries the advice (whether huge pages are there to be had is the system's matter).
    #[cfg(target_os = "linux")]
    #[test]
    fn large_buffers_ask_for_huge_pages() {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        if !maps.contains("THPeligible") || !maps.contains("VmFlags:") {
            println!("SKIPPED: this system does not tell about huge pages");
            return;
        }
        let buffer = AlignedBuffer::<u8>::zeroed(8 * HUGE_PAGE);
        let at = buffer.as_ptr() as usize;
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        let mut inside = false;
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-') {
                inside = (number(from)..number(to)).contains(&at);
            } else if inside && first == "VmFlags:" {
                assert!(words.any(|flag| flag == "hg"), "{line}");
                return;
            }
        }
        panic!("the buffer's mapping is not listed");
    }
}
