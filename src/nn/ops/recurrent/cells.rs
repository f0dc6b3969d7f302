//! One step of an LSTM and of a GRU, forward and backward, for one sequence.
#![forbid(unsafe_code)]

use crate::kernels::KernelTable;

/// One step of one sequence; `kept` becomes i, f, g, o, c and tanh(c).
pub(super) fn lstm_step(
    kernels: &KernelTable,
    x: &[f32],
    from_state: impl Fn(usize) -> f32,
    sums: &mut [f32],
    kept: &mut [f32],
    hidden: &mut [f32],
    memory: &mut [f32],
) {
    let width = hidden.len();
    sums.iter_mut().zip(x).enumerate().for_each(|(gate, (sum, x))| *sum = x + from_state(gate));
    kernels.sigmoid_values(&sums[..2 * width], &mut kept[..2 * width]);
    kernels.tanh_values(&sums[2 * width..3 * width], &mut kept[2 * width..3 * width]);
    kernels.sigmoid_values(&sums[3 * width..], &mut kept[3 * width..4 * width]);
    let (gates, states) = kept.split_at_mut(4 * width);
    let (cell, bent) = states.split_at_mut(width);
    for j in 0..width {
        memory[j] = gates[width + j] * memory[j] + gates[j] * gates[2 * width + j];
    }
    cell.copy_from_slice(memory);
    kernels.tanh_values(memory, bent);
    hidden.iter_mut().zip(gates[3 * width..].iter().zip(bent)).for_each(|(h, (o, bent))| *h = o * *bent);
}

/// The gradient of the sums of [`lstm_step`]; `d_memory` becomes that of the c before.
pub(super) fn lstm_step_backward(
    kept: &[f32],
    memory_before: &[f32],
    d_hidden: &[f32],
    d_memory: &mut [f32],
    d_sums: &mut [f32],
) {
    let width = d_hidden.len();
    for j in 0..width {
        let [i, f, g, o, _, bent] = [0, 1, 2, 3, 4, 5].map(|part| kept[part * width + j]);
        let dc = d_memory[j] + d_hidden[j] * o * (1.0 - bent * bent);
        d_sums[j] = dc * g * i * (1.0 - i);
        d_sums[width + j] = dc * memory_before[j] * f * (1.0 - f);
        d_sums[2 * width + j] = dc * i * (1.0 - g * g);
        d_sums[3 * width + j] = d_hidden[j] * bent * o * (1.0 - o);
        d_memory[j] = dc * f;
    }
}

/// One step of one sequence; `kept` becomes r, z, n and what the state adds to n before r.
pub(super) fn gru_step(
    kernels: &KernelTable,
    x: &[f32],
    from_state: impl Fn(usize) -> f32,
    sums: &mut [f32],
    kept: &mut [f32],
    hidden: &mut [f32],
) {
    let width = hidden.len();
    let (open, rest) = sums.split_at_mut(2 * width);
    open.iter_mut().zip(x).enumerate().for_each(|(gate, (sum, x))| *sum = x + from_state(gate));
    kernels.sigmoid_values(open, &mut kept[..2 * width]);
    let (gates, added) = kept.split_at_mut(3 * width);
    for j in 0..width {
        added[j] = from_state(2 * width + j);
        rest[j] = x[2 * width + j] + gates[j] * added[j];
    }
    kernels.tanh_values(rest, &mut gates[2 * width..]);
    for j in 0..width {
        let (z, n) = (gates[width + j], gates[2 * width + j]);
        hidden[j] = (1.0 - z) * n + z * hidden[j];
    }
}

/// The gradients of the inputs and of the state's sums of [`gru_step`]; `d_hidden` becomes the part of the h before that
/// does not go through them.
pub(super) fn gru_step_backward(
    kept: &[f32],
    hidden_before: &[f32],
    d_hidden: &mut [f32],
    dx: &mut [f32],
    of_state: &mut [f32],
) {
    let width = d_hidden.len();
    for j in 0..width {
        let [r, z, n, added] = [0, 1, 2, 3].map(|part| kept[part * width + j]);
        let dn = d_hidden[j] * (1.0 - z) * (1.0 - n * n);
        let of_sums = [dn * added * r * (1.0 - r), d_hidden[j] * (hidden_before[j] - n) * z * (1.0 - z)];
        for (gate, gradient) in of_sums.into_iter().enumerate() {
            dx[gate * width + j] = gradient;
            of_state[gate * width + j] = gradient;
        }
        dx[2 * width + j] = dn;
        of_state[2 * width + j] = dn * r;
        d_hidden[j] *= z;
    }
}
