//! Arrays, sizes and growable structs of the caller.

use std::mem::MaybeUninit;

use super::boundary::{Failure, aligned, misaligned, not_null, null};
use super::status::hq_status;

/// No version of any struct is larger.
const LARGEST_STRUCT: usize = 4096;

/// Checked in line, refused out of line: hundreds of functions check arrays, and few calls fail.
#[inline(always)]
fn checked_len<T>(pointer: *const T, len: usize, name: &str) -> Result<(), Failure> {
    let fits = len.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= isize::MAX as usize);
    if fits && (len == 0 || (!pointer.is_null() && pointer.is_aligned())) {
        return Ok(());
    }
    Err(bad_array(pointer.cast(), align_of::<T>(), len, name))
}

#[cold]
fn bad_array(pointer: *const u8, alignment: usize, len: usize, name: &str) -> Failure {
    if len > 0 && pointer.is_null() {
        return null(name);
    }
    if len > 0 && !pointer.addr().is_multiple_of(alignment) {
        return misaligned(pointer, alignment, name);
    }
    Failure::new(hq_status::HQ_SHAPE, format!("{name}: {len} elements exceed the address space"))
}

/// `len` elements the caller lends.
///
/// # Safety
/// `pointer` is NULL or valid for reads of `len` elements during the call.
#[inline(always)]
pub(super) unsafe fn input<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T], Failure> {
    checked_len(pointer, len, name)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, aligned, not too long; the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// `len` elements the caller lends for writing.
///
/// # Safety
/// `pointer` is NULL or valid for reads and writes of `len` elements during the call, and overlaps no other argument.
#[inline(always)]
pub(super) unsafe fn output<'a, T>(pointer: *mut T, len: usize, name: &str) -> Result<&'a mut [T], Failure> {
    checked_len(pointer, len, name)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not NULL, aligned, not too long; the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

/// As [`output`], for an array that the caller may not want (NULL).
///
/// # Safety
/// As for [`output`].
pub(super) unsafe fn optional_output<'a, T>(
    pointer: *mut T,
    len: usize,
    name: &str,
) -> Result<Option<&'a mut [T]>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller vouches.
    unsafe { output(pointer, len, name) }.map(Some)
}

/// The product of sizes, or a shape error naming the argument.
#[inline(always)]
pub(super) fn size(factors: &[usize], name: &str) -> Result<usize, Failure> {
    let product = factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor));
    product.ok_or_else(|| too_large(factors, name))
}

#[cold]
fn too_large(factors: &[usize], name: &str) -> Failure {
    Failure::new(hq_status::HQ_SHAPE, format!("{name}: {factors:?} exceeds the address space"))
}

/// A size the caller counts in 64 bits.
pub(super) fn index(value: u64, name: &str) -> Result<usize, Failure> {
    usize::try_from(value).map_err(|_| Failure::shape(name, "a size of this machine", value))
}

#[inline(always)]
pub(super) fn expect_len(found: usize, expected: usize, name: &str) -> Result<(), Failure> {
    if found == expected { Ok(()) } else { Err(another_len(found, expected, name)) }
}

#[cold]
fn another_len(found: usize, expected: usize, name: &str) -> Failure {
    Failure::shape(name, format!("{expected} elements"), found)
}

#[inline(always)]
pub(super) fn at_least_one(value: usize, name: &str) -> Result<(), Failure> {
    if value > 0 { Ok(()) } else { Err(zero(name)) }
}

#[cold]
fn zero(name: &str) -> Failure {
    Failure::invalid(name, "at least 1", 0)
}

/// Refuses what this machine cannot hold, before the library (which takes its memory for granted) asks for it.
pub(super) fn room_for<T>(elements: usize, name: &str) -> Result<(), Failure> {
    let mut probe: Vec<T> = Vec::new();
    let failed = probe.try_reserve_exact(elements).is_err();
    if failed { Err(Failure::shape(name, "a size that fits into memory", elements)) } else { Ok(()) }
}

/// A struct that may grow at its end from version to version. The caller tells the size it was compiled with.
///
/// # Safety
/// `repr(C)`, starts with `u32 struct_size`, and all bytes zero is a valid value.
pub(super) unsafe trait Growable: Copy {
    /// Bytes of its first version: nobody has a smaller one.
    const FIRST_SIZE: usize;
}

/// # Safety
/// `pointer` is NULL or points to a struct of as many bytes as its first field says.
unsafe fn told_size<T: Growable>(pointer: *const T, name: &str) -> Result<usize, Failure> {
    not_null(pointer, name)?;
    aligned(pointer, name)?;
    // SAFETY: every version of the struct starts with its size.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if (T::FIRST_SIZE..=LARGEST_STRUCT).contains(&size) {
        return Ok(size);
    }
    let expected = format!("its sizeof, {} here", size_of::<T>());
    Err(Failure::invalid(&format!("{name}.struct_size"), expected, size))
}

/// What the caller asks for: fields that its version lacks are zero. A newer version must have zeros in the fields that
/// this library does not know.
///
/// # Safety
/// `pointer` is NULL or points to a struct of as many bytes as its first field says.
pub(super) unsafe fn options<T: Growable>(pointer: *const T, name: &str) -> Result<T, Failure> {
    // SAFETY: as the caller vouches.
    let told = unsafe { told_size(pointer, name) }?;
    let own = size_of::<T>();
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both have that many bytes; the copy is ours.
    unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast(), told.min(own)) };
    for at in own..told {
        // SAFETY: inside the caller's struct.
        if unsafe { pointer.cast::<u8>().add(at).read() } != 0 {
            let expected = format!("zeros after byte {own}: this library is older than its header");
            return Err(Failure::invalid(name, expected, "something else"));
        }
    }
    // SAFETY: zeros are a valid value, and so is what a caller has written into the fields (numbers and pointers).
    Ok(unsafe { value.assume_init() })
}

/// As [`options`]; NULL is none.
///
/// # Safety
/// As for [`options`].
pub(super) unsafe fn optional_options<T: Growable>(pointer: *const T, name: &str) -> Result<Option<T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller vouches.
    unsafe { options(pointer, name) }.map(Some)
}

/// The place of a report, as long as the caller knows it.
pub(super) struct Report<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Growable> Report<T> {
    /// Writes the fields that the caller knows, all but `struct_size`.
    pub(super) fn write(self, value: T) {
        let skip = size_of::<u32>();
        let (from, to) = ((&raw const value).cast::<u8>(), self.pointer.cast::<u8>());
        // SAFETY: `report` was promised a struct of `size` bytes; ours has no fewer than are copied.
        unsafe { std::ptr::copy_nonoverlapping(from.add(skip), to.add(skip), self.size.min(size_of::<T>()) - skip) };
    }
}

/// Checks a report's size before the work is done.
///
/// # Safety
/// `pointer` is NULL or points to a writable struct of as many bytes as its first field says, until the report is written.
pub(super) unsafe fn report<T: Growable>(pointer: *mut T, name: &str) -> Result<Report<T>, Failure> {
    // SAFETY: as the caller vouches.
    let size = unsafe { told_size(pointer, name) }?;
    Ok(Report { pointer, size })
}

/// As [`report`]; NULL is none.
///
/// # Safety
/// As for [`report`].
pub(super) unsafe fn optional_report<T: Growable>(pointer: *mut T, name: &str) -> Result<Option<Report<T>>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller vouches.
    unsafe { report(pointer, name) }.map(Some)
}
