//! Parameters: names, shapes and kinds over flat buffers of weights and gradients, and the quantized copies.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::numbers::{KeptPrecision, Numbers};
use crate::dispatch::{Context, StochasticRounding};
pub use crate::quant::Precision;
use crate::quant::{OutputScale, QuantizedWeight, Stored, StoredMut};
use crate::tensor::{AlignedBuffer, RandomStream};
use crate::{Error, Result};

/// Random streams of parameter initialisation (see [`RandomStream::new`]).
const INIT_PURPOSE: u32 = 1;

/// Random streams of the rounding of weights that are kept in fewer bits.
const WEIGHT_PURPOSE: u32 = 72;

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

/// What may change about a parameter while it is trained.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Form {
    pub scale: OutputScale,
    /// Share of the codes that the last [`ParamStore::quantize`] changed.
    pub flip_rate: f32,
    pub is_frozen: bool,
}

/// All parameters of a model: latent weights and gradients, each in one flat buffer in declaration order, and the quantized
/// copies the forward pass reads.
///
/// Weights and gradients are f32; [`super::Plan::keep_parameters`] keeps chosen ones in less memory, rounded stochastically
/// whenever they change. Such a tensor has no slice of f32: [`ParamStore::weight_values`] and
/// [`ParamStore::gradient_values`] give every tensor's numbers.
#[derive(Debug)]
pub struct ParamStore {
    specs: Vec<ParamSpec>,
    weights: Numbers,
    gradients: Numbers,
    quantized: Vec<Option<QuantizedWeight>>,
    /// Which parameters have latent weights.
    latent: Vec<bool>,
    forms: Vec<Form>,
    /// Weights in fewer bits of the tensor that is being quantized, as f32.
    decoded: AlignedBuffer<f32>,
    /// Of the rounding of weights in fewer bits.
    seed: u64,
    /// Whether nothing has had the gradients to change since they became zero.
    gradients_are_zero: bool,
}

impl ParamStore {
    /// A store of zeros for `specs`. Error: two parameters of one name.
    pub fn new(specs: Vec<ParamSpec>) -> Result<Self> {
        let mut names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid("parameter", "unique names", pair[0]));
        }
        let forms: Vec<_> = specs.iter().map(|spec| (KeptPrecision::F32, spec.len())).collect();
        let (quantized, latent) = (specs.iter().map(|_| None).collect(), vec![true; specs.len()]);
        let [weights, gradients] = [(); 2].map(|()| Numbers::zeroed(&forms));
        let (forms, decoded) = (vec![Form::default(); specs.len()], AlignedBuffer::default());
        let gradients_are_zero = true;
        Ok(ParamStore { specs, weights, gradients, quantized, latent, forms, decoded, seed: 0, gradients_are_zero })
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

    /// Whether a parameter has latent weights: all have, but those of [`ParamStore::packed`].
    pub fn has_weights(&self, id: ParamId) -> bool {
        self.latent[id.0]
    }

    /// Error: a parameter without latent weights.
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
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ParamId> + DoubleEndedIterator + Send + use<> {
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

    /// Quantizes a matrix in another form from the next [`ParamStore::quantize`] on, which must follow before the next pass.
    /// Errors: a parameter that is f32, or would become so (its layer's inputs are rounded or not by what it was made for);
    /// one without latent weights.
    pub fn set_precision(&mut self, id: ParamId, precision: Precision) -> Result<()> {
        let spec = &mut self.specs[id.0];
        if [spec.precision, precision].contains(&Precision::F32) || !self.latent[id.0] {
            let expected = format!("another quantized form than {} of a parameter that is trained", spec.precision);
            return Err(Error::invalid(format!("{}: precision", spec.name), expected, precision));
        }
        if spec.precision != precision {
            spec.precision = precision;
            self.quantized[id.0] = None;
        }
        Ok(())
    }

    /// What becomes of the scales of a quantized parameter.
    pub fn output_scale(&self, id: ParamId) -> OutputScale {
        self.forms[id.0].scale
    }

    /// Sets [`ParamStore::output_scale`]; [`ParamStore::quantize`] must follow before the next pass.
    pub fn set_output_scale(&mut self, id: ParamId, scale: OutputScale) {
        self.forms[id.0].scale = scale;
    }

    /// Whether optimizers leave a parameter alone. The gradient of a frozen layer's weights is not computed.
    pub fn is_frozen(&self, id: ParamId) -> bool {
        self.forms[id.0].is_frozen
    }

    /// Sets [`ParamStore::is_frozen`].
    pub fn set_frozen(&mut self, id: ParamId, is_frozen: bool) {
        self.forms[id.0].is_frozen = is_frozen;
    }

    /// Share of a parameter's quantized values that the last [`ParamStore::quantize`] changed.
    pub fn flip_rate(&self, id: ParamId) -> f32 {
        self.forms[id.0].flip_rate
    }

    /// Number of elements of all parameters.
    pub fn total_elements(&self) -> usize {
        self.specs.iter().map(ParamSpec::len).sum()
    }

    /// Bytes of the latent weights, of the gradients, and of the quantized copies there are.
    pub fn memory_bytes(&self) -> [usize; 3] {
        let quantized = self.quantized.iter().flatten().map(QuantizedWeight::memory_bytes).sum();
        [self.weights.bytes() + size_of_val(&self.decoded[..]), self.gradients.bytes(), quantized]
    }

    /// From here on the weights and gradients of each parameter are kept as `forms` says: weights as they are now, rounded to
    /// nearest, gradients from zero on. `seed`: of all later rounding, which is stochastic.
    pub(super) fn keep(&mut self, seed: u64, forms: impl Fn(ParamId) -> [KeptPrecision; 2]) {
        let len = |id: ParamId| if self.latent[id.0] { self.specs[id.0].len() } else { 0 };
        let [of_weights, of_gradients] =
            [0, 1].map(|which| self.ids().map(|id| (forms(id)[which], len(id))).collect::<Vec<_>>());
        // The old memory goes before the new one comes.
        self.gradients = Numbers::default();
        self.gradients = Numbers::zeroed(&of_gradients);
        self.gradients_are_zero = true;
        self.weights = self.weights.in_forms(&of_weights);
        let is_decoded = |id: &ParamId| {
            !matches!(self.stored_weight(*id), Stored::F32(_)) && self.spec(*id).precision != Precision::F32
        };
        let longest = self.ids().filter(is_decoded).map(len).max().unwrap_or(0);
        self.decoded = AlignedBuffer::zeroed(longest);
        self.seed = seed;
    }

    /// Whether any weights, and any gradients, are kept in fewer bits than f32.
    pub fn is_in_fewer_bits(&self) -> [bool; 2] {
        [&self.weights, &self.gradients].map(Numbers::has_fewer_bits)
    }

    /// Latent weights, row-major; none where they are not kept in f32, or [`ParamStore::has_weights`] says so.
    pub fn weight(&self, id: ParamId) -> &[f32] {
        self.weights.floats(id.0)
    }

    /// Latent weights to change, where they are kept in f32; [`ParamStore::quantize`] must follow before the next forward
    /// pass.
    pub fn weight_mut(&mut self, id: ParamId) -> &mut [f32] {
        self.weights.floats_mut(id.0)
    }

    /// The latent weights in f32, however they are kept.
    pub fn weight_values(&self, id: ParamId) -> Cow<'_, [f32]> {
        self.weights.values(id.0)
    }

    /// The gradient of the loss; none where it is not kept in f32.
    pub fn gradient(&self, id: ParamId) -> &[f32] {
        self.gradients.floats(id.0)
    }

    /// The gradient to add to, where it is kept in f32.
    pub fn gradient_mut(&mut self, id: ParamId) -> &mut [f32] {
        self.gradients_are_zero = false;
        self.gradients.floats_mut(id.0)
    }

    /// The gradient in f32, however it is kept.
    pub fn gradient_values(&self, id: ParamId) -> Cow<'_, [f32]> {
        self.gradients.values(id.0)
    }

    /// A parameter's weights to change beside its gradient, where both are kept in f32: what an optimizer works on.
    pub fn weight_and_gradient_mut(&mut self, id: ParamId) -> (&mut [f32], &mut [f32]) {
        self.gradients_are_zero = false;
        (self.weights.floats_mut(id.0), self.gradients.floats_mut(id.0))
    }

    /// A parameter's weights beside its gradient to add to, where both are kept in f32: what a backward pass works on. The
    /// quantized copy comes third.
    pub fn backward_view(&mut self, id: ParamId) -> (&[f32], &mut [f32], Option<&QuantizedWeight>) {
        self.gradients_are_zero = false;
        (self.weights.floats(id.0), self.gradients.floats_mut(id.0), self.quantized[id.0].as_ref())
    }

    /// The weights as they are kept.
    pub(crate) fn stored_weight(&self, id: ParamId) -> Stored<'_> {
        self.weights.stored(id.0)
    }

    /// The weights as they are kept, to change.
    pub(crate) fn stored_weight_mut(&mut self, id: ParamId) -> StoredMut<'_> {
        self.weights.stored_mut(id.0)
    }

    /// The gradient as it is kept.
    pub(crate) fn stored_gradient(&self, id: ParamId) -> Stored<'_> {
        self.gradients.stored(id.0)
    }

    /// As [`ParamStore::weight_and_gradient_mut`], however they are kept.
    pub(crate) fn stored_for_update(&mut self, id: ParamId) -> (StoredMut<'_>, Stored<'_>) {
        (self.weights.stored_mut(id.0), self.gradients.stored(id.0))
    }

    /// As [`ParamStore::backward_view`], however they are kept.
    pub(crate) fn stored_for_backward(&mut self, id: ParamId) -> (Stored<'_>, StoredMut<'_>, Option<&QuantizedWeight>) {
        self.gradients_are_zero = false;
        (self.weights.stored(id.0), self.gradients.stored_mut(id.0), self.quantized[id.0].as_ref())
    }

    /// A parameter's weights beside its gradient to add to, however they are kept; and, while all gradients are zero, memory
    /// of others' in f32 to work in, which is to be zero again afterwards.
    pub(crate) fn stored_and_idle_gradients(&mut self, id: ParamId) -> (Stored<'_>, StoredMut<'_>, &mut [f32]) {
        let (gradient, rest) = self.gradients.stored_mut_and_rest(id.0);
        let are_zero = std::mem::replace(&mut self.gradients_are_zero, false);
        (self.weights.stored(id.0), gradient, if are_zero { rest } else { &mut [] })
    }

    /// How the weights of a parameter are rounded at `step`, where they are not kept in f32.
    pub(crate) fn weight_rounding(&self, id: ParamId, step: u64) -> StochasticRounding {
        StochasticRounding::new(self.seed, WEIGHT_PURPOSE, step as u32, id.0 as u32)
    }

    /// All gradients that are kept in f32 as one slice (padding between tensors is zero): for norms and exchange between
    /// ranks.
    pub fn gradients(&self) -> &[f32] {
        self.gradients.all_floats()
    }

    /// All gradients that are kept in f32, to scale.
    pub fn gradients_mut(&mut self) -> &mut [f32] {
        self.gradients_are_zero = false;
        self.gradients.all_floats_mut()
    }

    /// Sets every gradient to zero.
    pub fn zero_gradients(&mut self) {
        self.gradients.clear();
        self.gradients_are_zero = true;
    }

    /// Sets every gradient to zero, on the context's threads.
    pub fn zero_gradients_on(&mut self, context: &Context) {
        self.gradients.clear_on(context);
        self.gradients_are_zero = true;
    }

    /// The Euclidean norm of all gradients. NaN if an element is NaN, else infinite if one is.
    pub fn gradient_norm(&self, context: &Context) -> f64 {
        self.gradients.norm(context)
    }

    /// Scales all gradients down to the norm `max` if theirs is larger; gives the norm before. A norm that is not finite is
    /// returned as it is and they are left alone. `step`: of the rounding of those that are not kept in f32.
    pub fn clip_gradients(&mut self, context: &Context, max: f64, step: u64) -> f64 {
        let norm = self.gradients.norm(context);
        if norm > max && norm.is_finite() {
            self.gradients.scale(context, (max / norm) as f32, self.seed, step);
        }
        norm
    }

    /// A parameter's declaration and weights beside the quantized copy to renew.
    pub(super) fn quantize_view(
        &mut self,
        context: &Context,
        id: ParamId,
    ) -> (&ParamSpec, &[f32], &mut Option<QuantizedWeight>, &mut Form) {
        let (spec, copy, form) = (&self.specs[id.0], &mut self.quantized[id.0], &mut self.forms[id.0]);
        match self.weights.stored(id.0) {
            Stored::F32(weights) => (spec, weights, copy, form),
            _ if spec.precision == Precision::F32 => (spec, &[], copy, form),
            stored => {
                let decoded = &mut self.decoded[..spec.len()];
                stored.decode(context, decoded);
                (spec, decoded, copy, form)
            }
        }
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
