//! Quantized gradients: what is kept of a gradient when it is sent or stored in few levels.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::dispatch::Context;
use crate::tensor::{Philox, RandomStream};
use crate::{Error, Result};

/// Random streams of stochastic rounding (see [`RandomStream::new`]).
const ROUNDING_PURPOSE: u32 = 31;

/// Elements of one block of work; a multiple of the four draws of a Philox block.
const BLOCK: usize = 1 << 14;

/// Clipping that suits ternary gradients (TernGrad, Wen et al. 2017), in standard deviations.
pub const TERNGRAD_CLIP_SIGMA: f64 = 2.5;

/// How a value between two levels is rounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradientRounding {
    /// To the nearest level, ties to even; then the tensor is scaled back to its L2 norm from before. Biased.
    #[default]
    Deterministic,
    /// Up or down at random so that the mean is the value itself; the norm is not restored (it grows). Unbiased.
    Stochastic,
}

/// Quantizes gradients to `2 * levels + 1` values: normalise by the largest magnitude, round, scale back.
///
/// Ternary (`levels` 1) of a Gaussian gradient, deterministic: cosine to the true gradient about 0.3 for a million
/// elements without clipping, since the largest of them sets the scale and all below half of it become zero; about 0.8
/// with clipping at 2.5 sigma. Clip.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradientQuantizer {
    /// Levels above zero, 1 to 127: 1 is ternary, 2 the five-level grid.
    pub levels: u8,
    /// Rounding.
    pub rounding: GradientRounding,
    /// Clip at this many root-mean-squares of the tensor first. Clipping makes stochastic rounding slightly biased (by
    /// what is cut off).
    pub clip_sigma: Option<f64>,
}

impl Default for GradientQuantizer {
    /// Ternary, deterministic, clipped at [`TERNGRAD_CLIP_SIGMA`].
    fn default() -> Self {
        GradientQuantizer {
            levels: 1,
            rounding: GradientRounding::Deterministic,
            clip_sigma: Some(TERNGRAD_CLIP_SIGMA),
        }
    }
}

/// The draw of stochastic rounding: a pure function of these three and the element's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GradientDraw {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run.
    pub step: u32,
    /// Index of the parameter.
    pub tensor: u32,
}

/// Quantizes `gradients` in place. Gives the size of one level, 0 if all are zero. Finite gradients of a norm that does
/// not overflow f32 keep their norm in the deterministic mode (to f32 rounding).
///
/// Errors: `levels` is not 1 to 127; `clip_sigma` is not a positive number; a gradient that is not finite.
pub fn quantize_gradients(
    context: &Context,
    quantizer: &GradientQuantizer,
    draw: GradientDraw,
    gradients: &mut [f32],
) -> Result<f32> {
    let levels = f32::from(quantizer.levels);
    if !(1.0..=127.0).contains(&levels) {
        return Err(Error::invalid("levels", "1 to 127", quantizer.levels));
    }
    if let Some(sigma) = quantizer.clip_sigma
        && !(sigma > 0.0 && sigma.is_finite())
    {
        return Err(Error::invalid("clip_sigma", "a positive number", sigma));
    }
    let norm = context.norm(gradients);
    if !norm.is_finite()
        && let Some(index) = gradients.iter().position(|g| !g.is_finite())
    {
        return Err(Error::NonFinite { tensor: "gradients".into(), index, value: gradients[index] });
    }
    let maximum = |block: &[f32]| block.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    let largest = context.map(gradients.chunks(BLOCK), maximum).into_iter().fold(0.0, f32::max);
    if largest == 0.0 {
        return Ok(0.0);
    }
    let limit = match quantizer.clip_sigma {
        Some(sigma) => largest.min((sigma * norm / (gradients.len() as f64).sqrt()) as f32),
        None => largest,
    };
    let top = limit.max(f32::MIN_POSITIVE);
    let step = top / levels;
    let philox = Philox::new(RandomStream::key(draw.seed, ROUNDING_PURPOSE));
    let stochastic = quantizer.rounding == GradientRounding::Stochastic;
    context.for_each(gradients.chunks_mut(BLOCK).enumerate(), |(block, gradients)| {
        if !stochastic {
            gradients.iter_mut().for_each(|g| *g = ((*g).clamp(-top, top) / top * levels).round_ties_even());
            return;
        }
        for (four, gradients) in gradients.chunks_mut(4).enumerate() {
            let counter = (block * (BLOCK / 4) + four) as u64;
            let bits = philox.block([counter as u32, (counter >> 32) as u32, draw.tensor, draw.step]);
            for (g, bits) in gradients.iter_mut().zip(bits) {
                let uniform = f64::from(bits) * (1.0 / 4_294_967_296.0);
                let scaled = f64::from((*g).clamp(-top, top)) / f64::from(top) * f64::from(levels);
                *g = (scaled + uniform).floor() as f32;
            }
        }
    });
    // The gradients are whole numbers of levels here; one factor brings them back.
    let factor = if stochastic {
        step
    } else {
        // Zero only if every magnitude lies below the least normal number.
        let codes_norm = context.norm(gradients);
        if codes_norm > 0.0 { (norm / codes_norm) as f32 } else { 0.0 }
    };
    context.scale(gradients, factor);
    Ok(factor)
}
