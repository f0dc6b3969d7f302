//! Quantized rows, sums, norms and clipping on a device.

use super::{DeviceSlice, DeviceSliceMut, Stream, arguments};
use crate::{Error, Result};

/// Elements of a block of sums, as on the CPU.
const BLOCK: usize = 1 << 16;

impl Stream {
    /// Quantizes each row of `x` `[rows, width]` to int8: bit for bit [`crate::dispatch::Context::quantize_rows`]. A row with
    /// NaN or infinity has the scale NaN.
    pub fn quantize_rows(
        &self,
        x: DeviceSlice<'_, f32>,
        width: usize,
        values: DeviceSliceMut<'_, i8>,
        scales: DeviceSliceMut<'_, f32>,
        sums: DeviceSliceMut<'_, i32>,
    ) -> Result<()> {
        const NAME: &str = "quantize_rows";
        let rows = scales.len;
        let len = rows.checked_mul(width).ok_or_else(|| Error::shape(NAME, "x", "a size within memory", rows))?;
        self.expect(NAME, "x", x, len)?;
        self.expect(NAME, "values", values.as_ref(), len)?;
        self.expect(NAME, "scales", scales.as_ref(), rows)?;
        self.expect(NAME, "sums", sums.as_ref(), rows)?;
        let arguments = arguments![x.address, rows, width, values.address, scales.address, sums.address];
        // SAFETY: the kernel's parameters; sizes are checked.
        unsafe { self.inner.launch("hqk_quantize_rows_cuda", arguments) }
    }

    /// `sum |x[i]|`, bit for bit the CPU's. Waits for the result.
    pub fn abs_sum(&self, x: DeviceSlice<'_, f32>) -> Result<f64> {
        self.sum("hqk_block_abs_sums_cuda", x, |_| Ok(()))
    }

    /// `sum x[i]^2`, bit for bit the CPU's. Waits for the result.
    pub fn sum_squares(&self, x: DeviceSlice<'_, f32>) -> Result<f64> {
        self.sum("hqk_block_square_sums_cuda", x, |_| Ok(()))
    }

    /// Scales `x` down to the norm `max` if its norm is finite and larger; gives the norm before. Bit for bit
    /// [`crate::dispatch::Context::clip_norm`]. The norm stays on the device between the two passes.
    pub fn clip_norm(&self, x: DeviceSliceMut<'_, f32>, max: f64) -> Result<f64> {
        let (address, n) = (x.address, x.len);
        let squares = self.sum("hqk_block_square_sums_cuda", x.as_ref(), |total| {
            // SAFETY: the kernel's parameters; `x` is ours to write.
            unsafe { self.inner.launch("hqk_clip_norm_cuda", arguments![address, n, total, max]) }
        })?;
        Ok(squares.sqrt())
    }

    /// `x[i] *= factor`.
    pub fn scale(&self, x: DeviceSliceMut<'_, f32>, factor: f32) -> Result<()> {
        self.expect("scale", "x", x.as_ref(), x.len)?;
        // SAFETY: the kernel's parameters; sizes are checked.
        unsafe { self.inner.launch("hqk_scale_cuda", arguments![x.address, x.len, factor]) }
    }

    /// A total over blocks added in order; `then` may queue work with its address before it is waited for.
    fn sum(&self, kernel: &'static str, x: DeviceSlice<'_, f32>, then: impl FnOnce(u64) -> Result<()>) -> Result<f64> {
        self.expect("sum", "x", x, x.len)?;
        let blocks = x.len.div_ceil(BLOCK);
        self.with_scratch((blocks + 1) * size_of::<f64>(), |scratch| {
            let parts = scratch + size_of::<f64>() as u64;
            let mut total = 0.0f64;
            // SAFETY: the kernels' parameters; the scratch memory holds the total and one sum a block.
            unsafe {
                self.inner.launch(kernel, arguments![x.address, x.len, parts])?;
                self.inner.launch("hqk_sum_in_order_cuda", arguments![parts, blocks, scratch])?;
            }
            then(scratch)?;
            // SAFETY: eight bytes at both ends; `total` lives until the wait is over.
            unsafe { self.inner.download((&raw mut total).cast(), scratch, size_of::<f64>()) }?;
            self.synchronize()?;
            Ok(total)
        })
    }
}
