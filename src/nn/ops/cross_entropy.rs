//! Cross entropy of rows of logits, for the heads.
#![forbid(unsafe_code)]

use crate::kernels::KernelTable;
use crate::nn::{Batch, IGNORED};
use crate::{Error, Result};

/// Losses of rows of `width` logits and, with a factor on it, the gradient in place of the logits. A row whose target is
/// [`IGNORED`] has loss 0 and gradient 0.
pub(super) fn cross_entropy(
    kernels: &KernelTable,
    logits: &mut [f32],
    width: usize,
    targets: &[u32],
    losses: &mut [f32],
    gradient_scale: Option<f32>,
) {
    let score = |logits: &mut [f32], targets: &[u32], losses: &mut [f32]| match gradient_scale {
        Some(scale) => kernels.cross_entropy_rows(logits, width, targets, losses, scale),
        None => kernels.cross_entropy_losses_rows(logits, width, targets, losses),
    };
    if !targets.contains(&IGNORED) {
        return score(logits, targets, losses);
    }
    let rows = logits.chunks_exact_mut(width).zip(targets.chunks(1).zip(losses.chunks_mut(1)));
    for (logits, (target, loss)) in rows {
        if target == [IGNORED] {
            logits.fill(0.0);
            loss.fill(0.0);
        } else {
            score(logits, target, loss);
        }
    }
}

/// Adds the losses of a chunk of tokens, the first of which is number `first` of its batch, to the sums of their sequences. Where
/// the batch has weights, losses and gradients (rows of `width` in place of the logits) are then multiplied with them.
pub(super) fn sum_by_sequence(
    batch: Batch<'_>,
    first: usize,
    width: usize,
    logits: &mut [f32],
    losses: &mut [f32],
    sums: &mut [f64],
) {
    for (token, loss) in losses.iter_mut().enumerate() {
        let sequence = (first + token) / batch.length.max(1);
        sums[sequence] += f64::from(*loss);
        if let Some(&weight) = batch.weights.get(sequence) {
            *loss *= weight;
            logits[token * width..][..width].iter_mut().for_each(|gradient| *gradient *= weight);
        }
    }
}

/// How many of `targets` count. Errors: another number than `rows`, one that is not below `limit` (`what`: its name), none
/// that counts.
pub(super) fn counted_targets(targets: &[u32], rows: usize, limit: usize, what: &str) -> Result<usize> {
    if targets.len() != rows {
        return Err(Error::shape("step", "targets", rows, targets.len()));
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= limit && target != IGNORED) {
        return Err(Error::invalid("target", format!("below {what} {limit}"), target));
    }
    match targets.iter().filter(|&&target| target != IGNORED).count() {
        0 => Err(Error::invalid("targets", "at least one that is not ignored", "none")),
        counted => Ok(counted),
    }
}
