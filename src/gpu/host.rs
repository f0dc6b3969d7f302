//! Operations of a device on host memory: operands are copied there, results back.

use std::sync::Mutex;

use bytemuck::Pod;

use super::{Device, DeviceActivations, DeviceBuffer, DeviceSlice, DeviceSliceMut, Packing, Stream};
use crate::Result;
use crate::kernels::Activations;

/// An operation with its operands in host memory.
pub enum HostCall<'a> {
    /// [`Stream::ternary_matmul`] at two bits a weight.
    TernaryMatmul {
        /// Weights, packed.
        packed: &'a [u8],
        /// Rows and columns of the weights.
        shape: (usize, usize),
        /// One for the matrix, or one a row.
        weight_scales: &'a [f32],
        /// Activations `[tokens, cols]`.
        x: Activations<'a>,
        /// The result `[tokens, rows]`.
        y: &'a mut [f32],
    },
    /// [`Stream::ternary_matmul_transposed`].
    TernaryMatmulTransposed {
        /// Weights, packed.
        packed: &'a [u8],
        /// Rows and columns of the weights.
        shape: (usize, usize),
        /// Gradients `[tokens, rows]`.
        dy: Activations<'a>,
        /// The result `[tokens, cols]`.
        dx: &'a mut [f32],
    },
    /// [`Stream::int8_matmul_tn`].
    Int8MatmulTn {
        /// Left factor `[tokens, m]`.
        a: &'a [i8],
        /// Right factor `[tokens, n]`.
        b: &'a [i8],
        /// Tokens, m and n.
        shape: (usize, usize, usize),
        /// One a row of the result.
        scales: &'a [f32],
        /// Whether the product is added to `c`, which a failed call then leaves as it was.
        accumulate: bool,
        /// The result `[m, n]`.
        c: &'a mut [f32],
    },
    /// [`Stream::kmeans_assign`].
    KmeansAssign {
        /// Points `[n, dim]`.
        points: &'a [f32],
        /// Coordinates of a point.
        dim: usize,
        /// Centroids `[k, dim]`.
        centroids: &'a [f32],
        /// The nearest centroid of each point.
        labels: &'a mut [u32],
        /// The squared distance to it.
        distances: &'a mut [f32],
    },
    /// Copies bytes to the device and forgets them: what a copy takes.
    Upload(&'a [u8]),
    /// Copies as many bytes back, whatever they are.
    Download(&'a mut [u8]),
}

/// Device memory that grows to the largest call and is kept for the next.
struct Kept<T>(Option<DeviceBuffer<T>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(None)
    }
}

impl<T: Pod> Kept<T> {
    /// Room for `len` values, whatever they are.
    fn room(&mut self, stream: &Stream, len: usize) -> Result<DeviceSliceMut<'_, T>> {
        if self.0.as_ref().is_none_or(|buffer| buffer.len() < len) {
            // The old one is given back first: both might not fit.
            self.0 = None;
            self.0 = Some(DeviceBuffer::new(&stream.device(), len)?);
        }
        Ok(self.0.as_mut().expect("made above").as_mut().first(len))
    }

    /// A copy of `values`.
    fn copy_of(&mut self, stream: &Stream, values: &[T]) -> Result<DeviceSlice<'_, T>> {
        stream.upload(values, self.room(stream, values.len())?)?;
        Ok(self.0.as_ref().expect("made above").as_ref().first(values.len()))
    }

    /// The first of them, copied to `values`.
    fn back(&mut self, stream: &Stream, values: &mut [T]) -> Result<()> {
        stream.download(self.room(stream, values.len())?.as_ref(), values)
    }
}

#[derive(Default)]
struct Buffers {
    packed: Kept<u8>,
    values: Kept<i8>,
    more_values: Kept<i8>,
    floats: Kept<f32>,
    more_floats: Kept<f32>,
    sums: Kept<i32>,
    labels: Kept<u32>,
    out: Kept<f32>,
}

/// A queue of a device for calls on host memory. Threads may share it: their calls come one after the other. It keeps as much
/// device memory as its largest calls took.
pub struct HostCalls {
    stream: Stream,
    buffers: Mutex<Buffers>,
}

impl HostCalls {
    /// A queue for `device`.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(HostCalls { stream: Stream::new(device)?, buffers: Mutex::default() })
    }

    /// Does `call`; it is done when this returns. Errors: sizes that do not fit, numbers that must be finite and are not, and
    /// the device's; what outputs hold then is open, but for a `c` that was to be added to.
    pub fn run(&self, call: HostCall<'_>) -> Result<()> {
        let stream = &self.stream;
        let at = &mut *self.buffers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match call {
            HostCall::TernaryMatmul { packed, shape, weight_scales, x, y } => {
                let packed = at.packed.copy_of(stream, packed)?;
                let weight_scales = at.more_floats.copy_of(stream, weight_scales)?;
                let x = DeviceActivations {
                    values: at.values.copy_of(stream, x.values)?,
                    scales: at.floats.copy_of(stream, x.scales)?,
                    sums: at.sums.copy_of(stream, x.sums)?,
                };
                let out = at.out.room(stream, y.len())?;
                stream.ternary_matmul(Packing::TwoBits, packed, shape, weight_scales, x, out)?;
                at.out.back(stream, y)
            }
            HostCall::TernaryMatmulTransposed { packed, shape, dy, dx } => {
                let packed = at.packed.copy_of(stream, packed)?;
                let dy = DeviceActivations {
                    values: at.values.copy_of(stream, dy.values)?,
                    scales: at.floats.copy_of(stream, dy.scales)?,
                    sums: at.sums.copy_of(stream, dy.sums)?,
                };
                stream.ternary_matmul_transposed(packed, shape, dy, at.out.room(stream, dx.len())?)?;
                at.out.back(stream, dx)
            }
            HostCall::Int8MatmulTn { a, b, shape, scales, accumulate, c } => {
                let a = at.values.copy_of(stream, a)?;
                let b = at.more_values.copy_of(stream, b)?;
                let scales = at.floats.copy_of(stream, scales)?;
                if accumulate {
                    at.out.copy_of(stream, c)?;
                }
                stream.int8_matmul_tn(a, b, shape, scales, accumulate, at.out.room(stream, c.len())?)?;
                if !accumulate {
                    return at.out.back(stream, c);
                }
                // A copy that fails half-way must not leave half of the sums added.
                let mut whole = vec![0.0; c.len()];
                at.out.back(stream, &mut whole)?;
                c.copy_from_slice(&whole);
                Ok(())
            }
            HostCall::KmeansAssign { points, dim, centroids, labels, distances } => {
                let points = at.floats.copy_of(stream, points)?;
                let centroids = at.more_floats.copy_of(stream, centroids)?;
                let near = at.labels.room(stream, labels.len())?;
                stream.kmeans_assign(points, dim, centroids, near, at.out.room(stream, distances.len())?)?;
                at.labels.back(stream, labels)?;
                at.out.back(stream, distances)
            }
            HostCall::Upload(bytes) => at.packed.copy_of(stream, bytes).map(drop),
            HostCall::Download(bytes) => at.packed.back(stream, bytes),
        }
    }
}
