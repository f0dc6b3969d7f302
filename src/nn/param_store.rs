//! Parameters: names, shapes and kinds over flat buffers of weights and gradients, and the quantized copies.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

pub use crate::quant::Precision;
use crate::quant::QuantizedWeight;
use crate::tensor::{AlignedBuffer, RandomStream};
use crate::{Error, Result};

/// Random streams of parameter initialisation (see [`RandomStream::new`]).
const INIT_PURPOSE: u32 = 1;

/// Every tensor starts at a multiple of this many floats (64 bytes).
const ALIGN_ELEMENTS: usize = 16;

/// Names a parameter of one [`ParamStore`]. Sharing a tensor means holding the same id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ParamId(pub(super) usize);

impl ParamId {
    /// Position in [`ParamStore::ids`] and in per-parameter tables of optimizers.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The role of a parameter: optimizers decide decay and step rule by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParamKind {
    /// A matrix `[out, in]` applied to activations.
    Linear,
    /// A lookup table `[entries, width]`.
    Embedding,
    /// The gain of a normalisation.
    Gain,
    /// An additive vector.
    Bias,
}

/// How a parameter starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    /// Gaussian with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// All elements the same.
    Constant(f32),
}

/// What a parameter is: declared by models through [`super::PlanBuilder::parameter`].
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Unique name, as stored in model files.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Role.
    pub kind: ParamKind,
    /// Quantized form in the forward pass.
    pub precision: Precision,
    /// Initial values.
    pub init: Init,
}

impl ParamSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters of a model: latent f32 weights and gradients, each in one flat buffer in declaration order, and the
/// quantized copies the forward pass reads.
#[derive(Debug)]
pub struct ParamStore {
    specs: Vec<ParamSpec>,
    offsets: Vec<usize>,
    weights: AlignedBuffer<f32>,
    gradients: AlignedBuffer<f32>,
    quantized: Vec<Option<QuantizedWeight>>,
    /// Which parameters have f32 weights.
    latent: Vec<bool>,
}

impl ParamStore {
    /// A store of zeros for `specs`. Error: two parameters of one name.
    pub fn new(specs: Vec<ParamSpec>) -> Result<Self> {
        let mut names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid("parameter", "unique names", pair[0]));
        }
        let mut offsets = Vec::with_capacity(specs.len());
        let mut end = 0usize;
        for spec in &specs {
            offsets.push(end);
            end += spec.len().next_multiple_of(ALIGN_ELEMENTS);
        }
        let (quantized, latent) = (specs.iter().map(|_| None).collect(), vec![true; specs.len()]);
        let (weights, gradients) = (AlignedBuffer::zeroed(end), AlignedBuffer::zeroed(end));
        Ok(ParamStore { specs, offsets, weights, gradients, quantized, latent })
    }

    /// A store to compute with, not to train: a parameter has the packed form given for it, in the order of `specs`, or
    /// zeros to be overwritten. Error: two parameters of one name, a form of another shape.
    pub fn packed(specs: Vec<ParamSpec>, forms: Vec<Option<QuantizedWeight>>) -> Result<Self> {
        assert_eq!(specs.len(), forms.len(), "a form for every parameter");
        let misfit = |(spec, form): (&ParamSpec, &Option<QuantizedWeight>)| {
            let shape = form.as_ref()?.shape();
            (spec.shape != [shape.0, shape.1])
                .then(|| Error::shape("packed", "form", format!("{:?}", spec.shape), format!("{shape:?}")))
        };
        if let Some(error) = specs.iter().zip(&forms).find_map(misfit) {
            return Err(error);
        }
        let mut floats = specs.clone();
        floats.iter_mut().zip(&forms).filter(|(_, form)| form.is_some()).for_each(|(spec, _)| spec.shape = vec![0]);
        let latent = forms.iter().map(Option::is_none).collect();
        let store = ParamStore::new(floats)?;
        Ok(ParamStore { specs, quantized: forms, latent, ..store })
    }

    /// Whether a parameter has f32 weights: all have, but those of [`ParamStore::packed`].
    pub fn has_weights(&self, id: ParamId) -> bool {
        self.latent[id.0]
    }

    /// Error: a parameter without f32 weights.
    pub fn check_weights(&self) -> Result<()> {
        match self.ids().find(|&id| !self.has_weights(id)) {
            None => Ok(()),
            Some(id) => {
                Err(Error::Unsupported(format!("{}: packed, has no weights to train or save", self.spec(id).name)))
            }
        }
    }

    /// Draws every parameter's initial values from `seed`.
    pub fn initialize(&mut self, seed: u64) {
        for id in self.ids() {
            let init = self.spec(id).init;
            let mut stream = RandomStream::new(seed, INIT_PURPOSE, 0, id.0 as u32);
            for weight in self.weight_mut(id) {
                *weight = match init {
                    Init::Normal { std } => (stream.normal() * f64::from(std)) as f32,
                    Init::Constant(value) => value,
                };
            }
        }
    }

    /// All ids, in declaration order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    /// The declaration of a parameter.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    /// The parameter called `name`.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.specs.iter().position(|spec| spec.name == name).map(ParamId)
    }

    /// Number of elements of all parameters.
    pub fn total_elements(&self) -> usize {
        self.specs.iter().map(ParamSpec::len).sum()
    }

    /// Bytes of the latent weights, of the gradients, and of the quantized copies there are.
    pub fn memory_bytes(&self) -> [usize; 3] {
        let quantized = self.quantized.iter().flatten().map(QuantizedWeight::memory_bytes).sum();
        [size_of_val(&self.weights[..]), size_of_val(&self.gradients[..]), quantized]
    }

    fn range(&self, id: ParamId) -> std::ops::Range<usize> {
        let start = self.offsets[id.0];
        start..start + if self.latent[id.0] { self.specs[id.0].len() } else { 0 }
    }

    /// Latent weights, row-major; none where [`ParamStore::has_weights`] says so.
    pub fn weight(&self, id: ParamId) -> &[f32] {
        &self.weights[self.range(id)]
    }

    /// Latent weights to change; [`ParamStore::quantize`] must follow before the next forward pass.
    pub fn weight_mut(&mut self, id: ParamId) -> &mut [f32] {
        let range = self.range(id);
        &mut self.weights[range]
    }

    /// The gradient of the loss.
    pub fn gradient(&self, id: ParamId) -> &[f32] {
        &self.gradients[self.range(id)]
    }

    /// The gradient to add to.
    pub fn gradient_mut(&mut self, id: ParamId) -> &mut [f32] {
        let range = self.range(id);
        &mut self.gradients[range]
    }

    /// A parameter's weights to change beside its gradient: what an optimizer works on.
    pub fn weight_and_gradient_mut(&mut self, id: ParamId) -> (&mut [f32], &mut [f32]) {
        let range = self.range(id);
        (&mut self.weights[range.clone()], &mut self.gradients[range])
    }

    /// A parameter's weights beside its gradient to add to: what a backward pass works on. The quantized copy comes
    /// third.
    pub fn backward_view(&mut self, id: ParamId) -> (&[f32], &mut [f32], Option<&QuantizedWeight>) {
        let range = self.range(id);
        (&self.weights[range.clone()], &mut self.gradients[range], self.quantized[id.0].as_ref())
    }

    /// All gradients as one slice (padding between tensors is zero): for norms and exchange between ranks.
    pub fn gradients(&self) -> &[f32] {
        &self.gradients
    }

    /// All gradients, to scale.
    pub fn gradients_mut(&mut self) -> &mut [f32] {
        &mut self.gradients
    }

    /// Sets every gradient to zero.
    pub fn zero_gradients(&mut self) {
        self.gradients.fill(0.0);
    }

    /// A parameter's declaration and weights beside the quantized copy to renew.
    pub(super) fn quantize_view(&mut self, id: ParamId) -> (&ParamSpec, &[f32], &mut Option<QuantizedWeight>) {
        let range = self.range(id);
        (&self.specs[id.0], &self.weights[range], &mut self.quantized[id.0])
    }

    /// The quantized copy of a parameter; an error that names it if [`ParamStore::quantize`] was never called.
    pub fn quantized_or_error(&self, id: ParamId) -> Result<&QuantizedWeight> {
        let name = || format!("{}: quantized copy", self.spec(id).name);
        self.quantized(id).ok_or_else(|| Error::invalid(name(), "ParamStore::quantize before the first pass", "none"))
    }

    /// The quantized copy of a parameter, made by [`ParamStore::quantize`]; `None` for [`Precision::F32`].
    pub fn quantized(&self, id: ParamId) -> Option<&QuantizedWeight> {
        self.quantized[id.0].as_ref()
    }
}
