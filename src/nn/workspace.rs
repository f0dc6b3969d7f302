//! Scratch memory of operations, kept from step to step.
#![forbid(unsafe_code)]

use super::plan::Scratch;
use crate::quant::QuantizedRows;
use crate::tensor::AlignedBuffer;

/// Scratch buffers that an operation takes for the length of a call and puts back. What operations list in
/// [`super::Operation::scratch`] is there before the first step.
#[derive(Debug, Default)]
pub struct Workspace {
    floats: Vec<AlignedBuffer<f32>>,
    quantized: Vec<QuantizedRows>,
}

impl Workspace {
    /// A buffer of at least `len` floats with any content; [`Workspace::put_float`] must follow.
    pub fn take_float(&mut self, len: usize) -> AlignedBuffer<f32> {
        take(&mut self.floats, |buffer| buffer.len(), |buffer| buffer.len() >= len)
            .unwrap_or_else(|_| AlignedBuffer::zeroed(len))
    }

    /// Puts back what [`Workspace::take_float`] gave.
    pub fn put_float(&mut self, buffer: AlignedBuffer<f32>) {
        self.floats.push(buffer);
    }

    /// Room for at least `rows` rows of at least `width` int8 values each, with any content;
    /// [`Workspace::put_quantized`] must follow.
    pub fn take_quantized(&mut self, rows: usize, width: usize) -> QuantizedRows {
        let values = rows * width;
        let fits = |kept: &QuantizedRows| kept.scales.len() >= rows && kept.values.len() >= values;
        take(&mut self.quantized, |kept| kept.values.len(), fits).unwrap_or_else(|given_up| {
            // No smaller than the one given up: whom that one was enough for, this one is.
            let before = given_up.map_or((0, 0), |old| (old.scales.len(), old.values.len()));
            let (rows, values) = (rows.max(before.0), values.max(before.1));
            QuantizedRows {
                values: AlignedBuffer::zeroed(values),
                scales: AlignedBuffer::zeroed(rows),
                sums: AlignedBuffer::zeroed(rows),
            }
        })
    }

    /// Puts back what [`Workspace::take_quantized`] gave.
    pub fn put_quantized(&mut self, rows: QuantizedRows) {
        self.quantized.push(rows);
    }

    /// Reserves what [`Operation::scratch`](super::Operation::scratch) lists.
    pub(super) fn reserve(&mut self, scratch: &Scratch) {
        let floats: Vec<_> = scratch.floats.iter().map(|&len| self.take_float(len)).collect();
        let rows = scratch.quantized.iter().map(|&(rows, width)| self.take_quantized(rows, width));
        let rows: Vec<_> = rows.collect();
        self.floats.extend(floats);
        self.quantized.extend(rows);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let floats: usize = self.floats.iter().map(|buffer| 4 * buffer.len()).sum();
        let quantized = self.quantized.iter().map(|rows| rows.values.len() + 8 * rows.scales.len());
        floats + quantized.sum::<usize>()
    }
}

/// The smallest kept buffer that fits. If none does, the largest is given up for the one the caller makes.
fn take<T>(kept: &mut Vec<T>, size: impl Fn(&T) -> usize, fits: impl Fn(&T) -> bool) -> Result<T, Option<T>> {
    let fitting = (0..kept.len()).filter(|&index| fits(&kept[index])).min_by_key(|&index| size(&kept[index]));
    if let Some(index) = fitting {
        return Ok(kept.swap_remove(index));
    }
    let largest = (0..kept.len()).max_by_key(|&index| size(&kept[index]));
    Err(largest.map(|index| kept.swap_remove(index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_kept_and_replaced_by_larger_ones() {
        let mut workspace = Workspace::default();
        let (a, b) = (workspace.take_float(10), workspace.take_float(20));
        let start = b.as_ptr();
        workspace.put_float(a);
        workspace.put_float(b);
        let b = workspace.take_float(15);
        assert_eq!((b.as_ptr(), b.len()), (start, 20));
        workspace.put_float(b);
        let c = workspace.take_float(30);
        assert_eq!((c.len(), workspace.bytes()), (30, 40));
        let rows = workspace.take_quantized(3, 5);
        workspace.put_quantized(rows);
        assert_eq!(workspace.take_quantized(4, 2).scales.len(), 4);
    }
}
