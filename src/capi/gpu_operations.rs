//! The kernels of a device, on device pointers. Every pointer is checked with the driver: memory of the stream's device, and as
//! much of it as the call uses.

use super::arguments::size;
use super::boundary::{Failure, guard, place};
use super::gpu::{hq_stream, stream_of};
use super::status::hq_status;
use crate::gpu::{DeviceActivations, DeviceSlice, DeviceSliceMut, KmeansIteration, Packing, Stream};

/// Two bits a weight, the layout of `hq_ternary_pack`.
pub const HQ_PACKING_TWO_BITS: u32 = 0;
/// Five trits a byte, the layout of `hq_pack5`.
pub const HQ_PACKING_FIVE_TRITS: u32 = 1;

fn packing_of(packing: u32) -> Result<Packing, Failure> {
    match packing {
        HQ_PACKING_TWO_BITS => Ok(Packing::TwoBits),
        HQ_PACKING_FIVE_TRITS => Ok(Packing::FiveTrits),
        other => Err(Failure::invalid("packing", "HQ_PACKING_TWO_BITS or HQ_PACKING_FIVE_TRITS", other)),
    }
}

/// Bytes of a packed matrix whose size fits memory.
fn packed_bytes(packing: Packing, rows: usize, cols: usize) -> Result<usize, Failure> {
    size(&[rows.saturating_add(63), cols.saturating_add(19)], "rows x cols")?;
    Ok(packing.bytes(rows, cols))
}

/// # Safety
/// As [`DeviceSlice::from_raw`].
unsafe fn read<'a, T: bytemuck::Pod>(
    stream: &Stream,
    name: &'static str,
    address: *const T,
    len: usize,
) -> Result<DeviceSlice<'a, T>, Failure> {
    // SAFETY: as the caller vouches.
    Ok(unsafe { DeviceSlice::from_raw(stream, name, address, len) }?)
}

/// # Safety
/// As [`DeviceSliceMut::from_raw`].
unsafe fn write<'a, T: bytemuck::Pod>(
    stream: &Stream,
    name: &'static str,
    address: *mut T,
    len: usize,
) -> Result<DeviceSliceMut<'a, T>, Failure> {
    // SAFETY: as the caller vouches.
    Ok(unsafe { DeviceSliceMut::from_raw(stream, name, address, len) }?)
}

/// Quantizes `weights` (`rows x cols` floats) and packs them: `sign(w)` where `|w|` exceeds the threshold, else 0.
/// `threshold_count`: 1, or `rows`. All pointers are device memory; `packed` begins at a multiple of 16.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_quantize_pack(
    stream: *const hq_stream,
    packing: u32,
    weights: *const f32,
    rows: usize,
    cols: usize,
    thresholds: *const f32,
    threshold_count: usize,
    packed: *mut u8,
) -> hq_status {
    guard("hq_gpu_quantize_pack", || {
        let (packing, len) = (packing_of(packing)?, size(&[rows, cols], "rows x cols")?);
        // SAFETY: as the caller vouches.
        unsafe {
            let stream = stream_of(stream)?;
            let packed = write(stream, "packed", packed, packed_bytes(packing, rows, cols)?)?;
            let thresholds = read(stream, "thresholds", thresholds, threshold_count)?;
            let weights = read(stream, "weights", weights, len)?;
            stream.quantize_pack(packing, weights, (rows, cols), thresholds, packed)?;
        }
        Ok(())
    })
}

/// Packs `trits` (`rows x cols`; negative, zero and positive count as -1, 0, 1). All pointers are device memory; `packed` begins
/// at a multiple of 16.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_pack(
    stream: *const hq_stream,
    packing: u32,
    trits: *const i8,
    rows: usize,
    cols: usize,
    packed: *mut u8,
) -> hq_status {
    guard("hq_gpu_pack", || {
        let (packing, len) = (packing_of(packing)?, size(&[rows, cols], "rows x cols")?);
        // SAFETY: as the caller vouches.
        unsafe {
            let stream = stream_of(stream)?;
            let packed = write(stream, "packed", packed, packed_bytes(packing, rows, cols)?)?;
            stream.pack(packing, read(stream, "trits", trits, len)?, (rows, cols), packed)?;
        }
        Ok(())
    })
}

/// The trits (`rows x cols`) of a packed matrix. All pointers are device memory; `packed` begins at a multiple of 16.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_unpack(
    stream: *const hq_stream,
    packing: u32,
    packed: *const u8,
    rows: usize,
    cols: usize,
    trits: *mut i8,
) -> hq_status {
    guard("hq_gpu_unpack", || {
        let (packing, len) = (packing_of(packing)?, size(&[rows, cols], "rows x cols")?);
        // SAFETY: as the caller vouches.
        unsafe {
            let stream = stream_of(stream)?;
            let packed = read(stream, "packed", packed, packed_bytes(packing, rows, cols)?)?;
            stream.unpack(packing, packed, (rows, cols), write(stream, "trits", trits, len)?)?;
        }
        Ok(())
    })
}

/// `y = x * W^T` for ternary `W` (`rows x cols`) and int8 `x` (`tokens x cols`) with `x_scales` and `x_sums` as
/// `hq_gpu_quantize_rows` writes them: the bits of `hq_ternary_matmul`. `weight_scale_count`: 1, or `rows`. Five trits a byte:
/// one token alone. All pointers are device memory; `packed` begins at a multiple of 16.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_ternary_matmul(
    stream: *const hq_stream,
    packing: u32,
    packed: *const u8,
    rows: usize,
    cols: usize,
    weight_scales: *const f32,
    weight_scale_count: usize,
    x: *const i8,
    tokens: usize,
    x_scales: *const f32,
    x_sums: *const i32,
    y: *mut f32,
) -> hq_status {
    guard("hq_gpu_ternary_matmul", || {
        let packing = packing_of(packing)?;
        let (x_len, y_len) = (size(&[tokens, cols], "x")?, size(&[tokens, rows], "y")?);
        // SAFETY: as the caller vouches.
        unsafe {
            let stream = stream_of(stream)?;
            let packed = read(stream, "packed", packed, packed_bytes(packing, rows, cols)?)?;
            let weight_scales = read(stream, "weight_scales", weight_scales, weight_scale_count)?;
            let x = DeviceActivations {
                values: read(stream, "x", x, x_len)?,
                scales: read(stream, "x_scales", x_scales, tokens)?,
                sums: read(stream, "x_sums", x_sums, tokens)?,
            };
            let y = write(stream, "y", y, y_len)?;
            stream.ternary_matmul(packing, packed, (rows, cols), weight_scales, x, y)?;
        }
        Ok(())
    })
}

/// `dx = dy * W` from the two-bit weights of `hq_gpu_ternary_matmul`: `dy` is `tokens x rows`, `dx` `tokens x cols`; the bits of
/// `hq_ternary_matmul_transposed`. All pointers are device memory; `packed` begins at a multiple of 16.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_ternary_matmul_transposed(
    stream: *const hq_stream,
    packed: *const u8,
    rows: usize,
    cols: usize,
    dy: *const i8,
    tokens: usize,
    dy_scales: *const f32,
    dy_sums: *const i32,
    dx: *mut f32,
) -> hq_status {
    guard("hq_gpu_ternary_matmul_transposed", || {
        let (dy_len, dx_len) = (size(&[tokens, rows], "dy")?, size(&[tokens, cols], "dx")?);
        // SAFETY: as the caller vouches.
        unsafe {
            let stream = stream_of(stream)?;
            let packed = read(stream, "packed", packed, packed_bytes(Packing::TwoBits, rows, cols)?)?;
            let dy = DeviceActivations {
                values: read(stream, "dy", dy, dy_len)?,
                scales: read(stream, "dy_scales", dy_scales, tokens)?,
                sums: read(stream, "dy_sums", dy_sums, tokens)?,
            };
            stream.ternary_matmul_transposed(packed, (rows, cols), dy, write(stream, "dx", dx, dx_len)?)?;
        }
        Ok(())
    })
}

/// As `hq_int8_matmul_tn`: `c[i][j] = a_column_scales[i] * sum over t of a[t][i] * b[t][j]`, added to `c` with `accumulate`; the
/// same bits. All pointers are device memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_int8_matmul_tn(
    stream: *const hq_stream,
    a: *const i8,
    b: *const i8,
    tokens: usize,
    m: usize,
    n: usize,
    a_column_scales: *const f32,
    accumulate: bool,
    c: *mut f32,
) -> hq_status {
    guard("hq_gpu_int8_matmul_tn", || {
        let (a_len, b_len) = (size(&[tokens, m], "a")?, size(&[tokens, n], "b")?);
        let c_len = size(&[m, n], "c")?;
        // SAFETY: as the caller vouches.
        unsafe {
            let stream = stream_of(stream)?;
            let (a, b) = (read(stream, "a", a, a_len)?, read(stream, "b", b, b_len)?);
            let scales = read(stream, "a_column_scales", a_column_scales, m)?;
            let c = write(stream, "c", c, c_len)?;
            stream.int8_matmul_tn(a, b, (tokens, m, n), scales, accumulate, c)?;
        }
        Ok(())
    })
}

/// As `hq_quantize_rows`, the same bits; a row with NaN or infinity has zeros and the scale NaN, which is no error here. All
/// pointers are device memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_quantize_rows(
    stream: *const hq_stream,
    x: *const f32,
    rows: usize,
    cols: usize,
    values: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
) -> hq_status {
    guard("hq_gpu_quantize_rows", || {
        let len = size(&[rows, cols], "rows x cols")?;
        // SAFETY: as the caller vouches.
        unsafe {
            let stream = stream_of(stream)?;
            let (x, values) = (read(stream, "x", x, len)?, write(stream, "values", values, len)?);
            let (scales, sums) = (write(stream, "scales", scales, rows)?, write(stream, "sums", sums, rows)?);
            stream.quantize_rows(x, cols, values, scales, sums)?;
        }
        Ok(())
    })
}

/// `sum |x[i]|` over `len` floats of device memory; waits for it. The bits of `hq_abs_sum`. `total` is host memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, `x` on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_abs_sum(
    stream: *const hq_stream,
    x: *const f32,
    len: usize,
    total: *mut f64,
) -> hq_status {
    guard("hq_gpu_abs_sum", || {
        // SAFETY: as the caller vouches.
        let (stream, total) = unsafe { (stream_of(stream)?, place(total, "total")?) };
        // SAFETY: as the caller vouches.
        total.write(stream.abs_sum(unsafe { read(stream, "x", x, len) }?)?);
        Ok(())
    })
}

/// Scales `x` (`len` floats of device memory, in place) so that its L2 norm is at most `max_norm` (above 0), and gives the norm it
/// had; waits for it. The bits of `hq_clip_norm`; where the norm is not finite it is given and `x` left alone. `norm` is host
/// memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, `x` on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_clip_norm(
    stream: *const hq_stream,
    x: *mut f32,
    len: usize,
    max_norm: f64,
    norm: *mut f64,
) -> hq_status {
    guard("hq_gpu_clip_norm", || {
        // SAFETY: as the caller vouches.
        let (stream, norm) = unsafe { (stream_of(stream)?, place(norm, "norm")?) };
        if !(max_norm > 0.0 && max_norm.is_finite()) {
            return Err(Failure::invalid("max_norm", "a finite number above 0", max_norm));
        }
        // SAFETY: as the caller vouches.
        norm.write(stream.clip_norm(unsafe { write(stream, "x", x, len) }?, max_norm)?);
        Ok(())
    })
}

/// One iteration of k-means: `labels` (`n`) become those of the nearest of `k` centroids, bit for bit the CPU's; `sums`
/// (`k x dim`) and `counts` (`k`) are those of the points of each cluster; `changed` (host memory) is how many labels differ from
/// before (2^32 - 1: none yet). Waits for it. HQ_INVALID_VALUE: a coordinate is not finite. All other pointers are device memory.
///
/// # Safety
/// The pointers are as [`crate::capi`] says, on the stream's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_gpu_kmeans_iteration(
    stream: *const hq_stream,
    points: *const f32,
    n: usize,
    dim: usize,
    centroids: *const f32,
    k: usize,
    labels: *mut u32,
    sums: *mut f64,
    counts: *mut u64,
    changed: *mut u64,
) -> hq_status {
    guard("hq_gpu_kmeans_iteration", || {
        let (points_len, cells) = (size(&[n, dim], "points")?, size(&[k, dim], "centroids")?);
        // SAFETY: as the caller vouches.
        let (stream, changed) = unsafe { (stream_of(stream)?, place(changed, "changed")?) };
        // SAFETY: as the caller vouches.
        let step = unsafe {
            KmeansIteration {
                points: read(stream, "points", points, points_len)?,
                dim,
                centroids: read(stream, "centroids", centroids, cells)?,
                labels: write(stream, "labels", labels, n)?,
                sums: write(stream, "sums", sums, cells)?,
                counts: write(stream, "counts", counts, k)?,
            }
        };
        changed.write(stream.kmeans_iteration(step)?);
        Ok(())
    })
}
