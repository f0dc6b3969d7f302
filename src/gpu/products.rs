//! Packing and products on a device: the operations of [`crate::dispatch::Context`], on device memory.

use super::{DeviceSlice, DeviceSliceMut, Stream, arguments};
use crate::kernels::{KernelTable, TERNARY_MAX_K, ternary_packed_len};
use crate::{Error, Result};

/// Up to so many tokens read the weights once and stage nothing.
const FEW_TOKENS: usize = 32;

/// Tokens whose sums are exact in 32 bits; sections beyond are added in f32, as on the CPU.
const SECTION: usize = 1 << 16;

/// A packed form of ternary weights (csrc/README.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// Two bits a weight.
    TwoBits,
    /// Five trits a byte.
    FiveTrits,
}

impl Packing {
    /// Bytes of a packed matrix.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        match self {
            Packing::TwoBits => ternary_packed_len(rows, cols),
            Packing::FiveTrits => KernelTable::pack5_bytes(rows, cols),
        }
    }
}

/// int8 activations on a device: `[tokens, k]` values, one scale and one sum a token.
#[derive(Clone, Copy)]
pub struct DeviceActivations<'a> {
    /// Values, row after row.
    pub values: DeviceSlice<'a, i8>,
    /// Scale of each token.
    pub scales: DeviceSlice<'a, f32>,
    /// Sum of the values of each token.
    pub sums: DeviceSlice<'a, i32>,
}

/// `Product` of cuda/layout.cuh.
#[repr(C)]
struct Target {
    y: u64,
    integers: u64,
    stride: usize,
    x_scales: u64,
    x_sums: u64,
    weight_scales: u64,
    weight_scale_stride: usize,
}

fn product_of(operation: &'static str, argument: &'static str, a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b).ok_or_else(|| Error::shape(operation, argument, "a size within memory", format!("{a} x {b}")))
}

impl Stream {
    /// Quantizes weights `[rows, cols]` and packs them: `sign(w)` where `|w|` exceeds the threshold (one, or one a row).
    pub fn quantize_pack(
        &self,
        packing: Packing,
        weights: DeviceSlice<'_, f32>,
        (rows, cols): (usize, usize),
        thresholds: DeviceSlice<'_, f32>,
        packed: DeviceSliceMut<'_, u8>,
    ) -> Result<()> {
        const NAME: &str = "quantize_pack";
        self.expect(NAME, "weights", weights, product_of(NAME, "weights", rows, cols)?)?;
        self.expect_packed(NAME, packing, packed.as_ref(), rows, cols)?;
        let stride = self.scale_stride(NAME, "thresholds", thresholds, rows)?;
        let kernel = match packing {
            Packing::TwoBits => "hqk_ternary_quantize_pack_cuda",
            Packing::FiveTrits => "hqk_quantize_pack5_cuda",
        };
        let arguments = arguments![weights.address, rows, cols, thresholds.address, stride, packed.address];
        // SAFETY: the kernel's parameters; sizes are checked.
        unsafe { self.inner.launch(kernel, arguments) }
    }

    /// Packs trits `[rows, cols]`; negative, zero and positive count as -1, 0, 1.
    pub fn pack(
        &self,
        packing: Packing,
        trits: DeviceSlice<'_, i8>,
        (rows, cols): (usize, usize),
        packed: DeviceSliceMut<'_, u8>,
    ) -> Result<()> {
        self.expect("pack", "trits", trits, product_of("pack", "trits", rows, cols)?)?;
        self.expect_packed("pack", packing, packed.as_ref(), rows, cols)?;
        let kernel = match packing {
            Packing::TwoBits => "hqk_ternary_pack_cuda",
            Packing::FiveTrits => "hqk_pack5_cuda",
        };
        // SAFETY: the kernel's parameters; sizes are checked.
        unsafe { self.inner.launch(kernel, arguments![trits.address, rows, cols, packed.address]) }
    }

    /// The trits `[rows, cols]` of a packed matrix.
    pub fn unpack(
        &self,
        packing: Packing,
        packed: DeviceSlice<'_, u8>,
        (rows, cols): (usize, usize),
        trits: DeviceSliceMut<'_, i8>,
    ) -> Result<()> {
        self.expect("unpack", "trits", trits.as_ref(), product_of("unpack", "trits", rows, cols)?)?;
        self.expect_packed("unpack", packing, packed, rows, cols)?;
        let kernel = match packing {
            Packing::TwoBits => "hqk_ternary_unpack_cuda",
            Packing::FiveTrits => "hqk_unpack5_cuda",
        };
        // SAFETY: the kernel's parameters; sizes are checked.
        unsafe { self.inner.launch(kernel, arguments![packed.address, rows, cols, trits.address]) }
    }

    /// `y = x W^T` for ternary `W` `[rows, cols]`: bit for bit [`crate::dispatch::Context::ternary_matmul`]. Five trits a byte:
    /// one token alone.
    #[allow(clippy::too_many_arguments)]
    pub fn ternary_matmul(
        &self,
        packing: Packing,
        packed: DeviceSlice<'_, u8>,
        (rows, cols): (usize, usize),
        weight_scales: DeviceSlice<'_, f32>,
        x: DeviceActivations<'_>,
        y: DeviceSliceMut<'_, f32>,
    ) -> Result<()> {
        const NAME: &str = "ternary_matmul";
        let tokens = self.expect_activations(NAME, x, cols)?;
        self.expect_packed(NAME, packing, packed, rows, cols)?;
        let weight_scale_stride = self.scale_stride(NAME, "weight_scales", weight_scales, rows)?;
        self.expect(NAME, "y", y.as_ref(), product_of(NAME, "y", tokens, rows)?)?;
        let to = Target {
            y: y.address,
            integers: 0,
            stride: rows,
            x_scales: x.scales.address,
            x_sums: x.sums.address,
            weight_scales: weight_scales.address,
            weight_scale_stride,
        };
        let kernel = match (packing, tokens) {
            (_, 0) => return Ok(()),
            (Packing::TwoBits, 1) => "hqk_ternary_matvec_cuda",
            (Packing::TwoBits, 2..=FEW_TOKENS) => "hqk_ternary_few_cuda",
            (Packing::TwoBits, _) => "hqk_ternary_matmul_cuda",
            (Packing::FiveTrits, 1) => "hqk_pack5_matvec_cuda",
            (Packing::FiveTrits, _) => return Err(Error::shape(NAME, "x", "one token at five trits a byte", tokens)),
        };
        if tokens == 1 {
            // SAFETY: the kernel's parameters; sizes are checked.
            return unsafe { self.inner.launch(kernel, arguments![packed.address, rows, cols, x.values.address, to]) };
        }
        let arguments = arguments![packed.address, rows, cols, x.values.address, cols, tokens, to];
        // SAFETY: the kernel's parameters; sizes are checked.
        unsafe { self.inner.launch(kernel, arguments) }
    }

    /// `dx = dy W` from the same two-bit weights: bit for bit [`crate::dispatch::Context::ternary_matmul_transposed`].
    pub fn ternary_matmul_transposed(
        &self,
        packed: DeviceSlice<'_, u8>,
        (rows, cols): (usize, usize),
        dy: DeviceActivations<'_>,
        dx: DeviceSliceMut<'_, f32>,
    ) -> Result<()> {
        const NAME: &str = "ternary_matmul_transposed";
        let tokens = self.expect_activations(NAME, dy, rows)?;
        self.expect_packed(NAME, Packing::TwoBits, packed, rows, cols)?;
        self.expect(NAME, "dx", dx.as_ref(), product_of(NAME, "dx", tokens, cols)?)?;
        let to = Target {
            y: dx.address,
            integers: 0,
            stride: cols,
            x_scales: dy.scales.address,
            x_sums: dy.sums.address,
            weight_scales: 0,
            weight_scale_stride: 0,
        };
        let arguments = arguments![packed.address, rows, cols, dy.values.address, rows, tokens, to];
        // SAFETY: the kernel's parameters; sizes are checked.
        unsafe { self.inner.launch("hqk_ternary_transposed_cuda", arguments) }
    }

    /// `c[i][j] (+)= scales[i] * sum over t of a[t][i] b[t][j]` for int8 `a` `[tokens, m]`, `b` `[tokens, n]`: bit for bit
    /// [`crate::dispatch::Context::int8_matmul`].
    #[allow(clippy::too_many_arguments)]
    pub fn int8_matmul_tn(
        &self,
        a: DeviceSlice<'_, i8>,
        b: DeviceSlice<'_, i8>,
        (tokens, m, n): (usize, usize, usize),
        scales: DeviceSlice<'_, f32>,
        accumulate: bool,
        c: DeviceSliceMut<'_, f32>,
    ) -> Result<()> {
        const NAME: &str = "int8_matmul_tn";
        self.expect(NAME, "a", a, product_of(NAME, "a", tokens, m)?)?;
        self.expect(NAME, "b", b, product_of(NAME, "b", tokens, n)?)?;
        self.expect(NAME, "scales", scales, m)?;
        self.expect(NAME, "c", c.as_ref(), product_of(NAME, "c", m, n)?)?;
        if tokens == 0 && accumulate {
            return Ok(());
        }
        for first in (0..tokens.max(1)).step_by(SECTION) {
            let (count, add) = (SECTION.min(tokens - first), i32::from(accumulate || first > 0));
            let (a, b) = (a.address + (first * m) as u64, b.address + (first * n) as u64);
            let arguments = arguments![a, m, b, n, count, m, n, scales.address, add, c.address, n];
            // SAFETY: the kernel's parameters; sizes are checked.
            unsafe { self.inner.launch("hqk_int8_matmul_tn_cuda", arguments) }?;
        }
        Ok(())
    }

    fn expect_packed(
        &self,
        operation: &'static str,
        packing: Packing,
        packed: DeviceSlice<'_, u8>,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        product_of(operation, "packed", rows.saturating_add(63), cols.saturating_add(31))?;
        self.expect(operation, "packed", packed, packing.bytes(rows, cols))?;
        if !packed.address.is_multiple_of(16) {
            let found = format!("{:#x}", packed.address);
            return Err(Error::invalid("packed", "a multiple of 16 as address", found));
        }
        Ok(())
    }

    /// The stride of one scale for all rows, or one a row.
    fn scale_stride(
        &self,
        operation: &'static str,
        argument: &'static str,
        scales: DeviceSlice<'_, f32>,
        rows: usize,
    ) -> Result<usize> {
        self.expect(operation, argument, scales, if scales.len == 1 { 1 } else { rows })?;
        Ok(usize::from(scales.len != 1))
    }

    /// Number of tokens of activations of `k` values.
    fn expect_activations(&self, operation: &'static str, x: DeviceActivations<'_>, k: usize) -> Result<usize> {
        let tokens = x.scales.len;
        if k > TERNARY_MAX_K {
            return Err(Error::shape(operation, "x", format!("at most {TERNARY_MAX_K} values a token"), k));
        }
        self.expect(operation, "x", x.values, product_of(operation, "x", tokens, k)?)?;
        self.expect(operation, "scales of x", x.scales, tokens)?;
        self.expect(operation, "sums of x", x.sums, tokens)?;
        Ok(tokens)
    }
}
