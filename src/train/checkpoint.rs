//! Checkpoints: one safetensors file each, with everything a run needs to go on exactly.
//!
//! Tensors are `weight.NAME` (latent weights as they are kept: f32, bf16, or int8 with
//! `weight_steps.NAME`) and `optimizer.NAME`; the metadata key `hybridq` holds the
//! [`CheckpointHeader`] as JSON, `sha256` the checksum of header and tensors. A file is written beside its place, synced
//! and renamed, so that a kill at any moment leaves the older files whole; the two newest are kept.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::formats::{SafetensorsFile, TensorData, write_safetensors};
use crate::nn::{ParamStore, Precision};
use crate::optim::{Optimizer, OptimizerState, StateTensor, StateValues};
use crate::quant::{Stored, StoredMut};
use crate::{Error, Result};

/// Version of the layout; a reader refuses others.
const VERSION: u32 = 3;
/// Metadata key of the header.
const HEADER_KEY: &str = "hybridq";
/// Metadata key of the checksum.
const CHECKSUM_KEY: &str = "sha256";
/// Checkpoints kept in a run.
const KEPT: usize = 2;

/// Where a run stood.
///
/// Random numbers need no state of their own: every draw is a function of the seed (in the identity) and the step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CheckpointHeader {
    /// Version of the layout.
    pub version: u32,
    /// Steps done; also the cursor in the data, because a batch is a function of seed and step.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Training time so far.
    pub seconds: f64,
    /// Bytes of `metrics.jsonl` that belong to it.
    pub metrics_offset: u64,
    /// Digest of configuration, model and data.
    pub identity: String,
    /// Lowest validation loss so far, as f64 bits, and evaluations since.
    pub convergence: (u64, u64),
    /// Flip rate of the last step, as f64 bits.
    pub flip_rate: u64,
    /// Precision of each parameter.
    pub precisions: Vec<Precision>,
    /// Of each parameter's learned scale: logarithm of the factor and its moments, as f32 bits; empty where none is learned.
    pub learned_scales: Vec<[u32; 3]>,
    /// Steps that each parameter's flip rate has been low; empty where none is frozen.
    pub quiet_steps: Vec<u64>,
    /// Running mean of each data cluster's loss, as f64 bits.
    pub cluster_losses: Vec<u64>,
    /// The optimizer's name.
    pub optimizer: String,
    /// The optimizer's scalars.
    pub scalars: serde_json::Value,
}

/// What every version's header has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// An opened and verified checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where the run stood.
    pub header: CheckpointHeader,
    file: SafetensorsFile,
}

impl Checkpoint {
    /// Writes the checkpoint of `header.step` into `folder` and removes all but the newest two. Gives the file's path.
    ///
    /// Errors: those of [`Checkpoint::save`].
    pub fn save_in(
        folder: &Path,
        header: CheckpointHeader,
        store: &ParamStore,
        optimizer: &dyn Optimizer,
    ) -> Result<PathBuf> {
        let path = folder.join(file_name(header.step));
        Self::save(&path, header, store, optimizer)?;
        for (_, old) in list(folder)?.iter().rev().skip(KEPT) {
            std::fs::remove_file(old).map_err(|error| Error::io(old, error))?;
        }
        Ok(path)
    }

    /// Writes a checkpoint to `path`. `version`, `optimizer` and `scalars` of the header are filled in.
    ///
    /// Errors: a weight that is not finite (such a run is not worth going on from), the system's.
    pub fn save(
        path: &Path,
        mut header: CheckpointHeader,
        store: &ParamStore,
        optimizer: &dyn Optimizer,
    ) -> Result<()> {
        let state = optimizer.state();
        header.version = VERSION;
        header.optimizer = optimizer.name().into();
        header.scalars = state.scalars.clone();
        let mut tensors = Vec::new();
        for id in store.ids() {
            let (spec, values) = (store.spec(id), store.weight_values(id));
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(Error::NonFinite { tensor: spec.name.clone(), index, value: values[index] });
            }
            for (part, dtype, shape, bytes) in parts_of(&spec.shape, store.stored_weight(id)) {
                tensors.push(TensorData::raw(format!("{part}.{}", spec.name), dtype, &shape, bytes));
            }
        }
        for tensor in &state.tensors {
            let dtype = match tensor.values {
                StateValues::F32(_) => Dtype::F32,
                StateValues::Bf16(_) => Dtype::BF16,
                StateValues::U8(_) => Dtype::U8,
            };
            let name = format!("optimizer.{}", tensor.name);
            tensors.push(TensorData::raw(name, dtype, &tensor.shape, tensor.values.bytes()));
        }
        let header_json = serde_json::to_string(&header).expect("a header is plain data");
        let named = store.ids().flat_map(|id| {
            let (spec, parts) = (store.spec(id), parts_of(&store.spec(id).shape, store.stored_weight(id)));
            parts.into_iter().map(|(part, .., bytes)| (format!("{part}.{}", spec.name), bytes))
        });
        let of_state = state.tensors.iter().map(|t| (format!("optimizer.{}", t.name), t.values.bytes()));
        let checksum = checksum(&header_json, named.chain(of_state).collect());
        let metadata = BTreeMap::from([(HEADER_KEY.to_string(), header_json), (CHECKSUM_KEY.to_string(), checksum)]);
        write_safetensors(path, &metadata, &tensors)?;
        Ok(())
    }

    /// Opens `path` and verifies version, checksum and, if given, identity. Errors name the file and what is wrong.
    pub fn open(path: &Path, identity: Option<&str>) -> Result<Self> {
        let file = SafetensorsFile::open(path)?;
        let fail = |message: String| Error::format(path, None, message);
        let (Some(json), Some(stored)) = (file.metadata().get(HEADER_KEY), file.metadata().get(CHECKSUM_KEY)) else {
            return Err(fail("not a checkpoint of hybridq: its metadata is missing".into()));
        };
        let mut named = Vec::new();
        for tensor in file.tensors() {
            named.push((tensor.name.clone(), file.bytes(&tensor.name)?));
        }
        if checksum(json, named) != *stored {
            return Err(fail("damaged: its checksum does not fit its content".into()));
        }
        let unread = |error: serde_json::Error| fail(format!("its header cannot be read: {error}"));
        // The version first: the headers of others have other fields.
        let Version { version } = serde_json::from_str(json).map_err(unread)?;
        if version != VERSION {
            return Err(fail(format!("version {version}, expected {VERSION}")));
        }
        let header: CheckpointHeader = serde_json::from_str(json).map_err(unread)?;
        if identity.is_some_and(|identity| identity != header.identity) {
            return Err(fail("belongs to a run with another model, data or configuration".into()));
        }
        Ok(Checkpoint { header, file })
    }

    /// The newest checkpoint in `folder` that can be used; `None` if there are no files. A file that cannot be used is
    /// skipped with a warning. Error: there are files, and none can be used.
    pub fn newest(folder: &Path, identity: &str) -> Result<Option<Self>> {
        let files = list(folder)?;
        for (_, path) in files.iter().rev() {
            match Checkpoint::open(path, Some(identity)) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => tracing::warn!("{error}; trying the checkpoint before it"),
            }
        }
        match files.len() {
            0 => Ok(None),
            count => Err(Error::format(folder, None, format!("none of the {count} checkpoints can be used"))),
        }
    }

    /// Puts weights and optimizer state back. Errors: a tensor is missing, of another shape, or belongs to nothing.
    pub fn restore(&self, store: &mut ParamStore, optimizer: &mut dyn Optimizer) -> Result<()> {
        if self.header.optimizer != optimizer.name() {
            let message = format!("optimizer {}, expected {}", self.header.optimizer, optimizer.name());
            return Err(Error::format(self.file.path(), None, message));
        }
        for id in store.ids() {
            let [name, of_steps] = ["weight", STEPS].map(|part| format!("{part}.{}", store.spec(id).name));
            let shape = store.spec(id).shape.clone();
            match store.stored_weight_mut(id) {
                StoredMut::F32(weight) => self.file.read_f32(&name, &shape, weight)?,
                StoredMut::Bf16(bits) => self.read_bf16(&name, &shape, bits)?,
                StoredMut::Steps(values, steps) => {
                    values.copy_from_slice(&self.file.elements::<i8>(&name, &shape)?);
                    self.file.read_f32(&of_steps, &[steps.len()], steps)?;
                }
                StoredMut::Int8(..) => unreachable!("no such weights"),
            }
        }
        let mut tensors = Vec::new();
        for tensor in self.file.tensors() {
            if let Some(name) = tensor.name.strip_prefix("optimizer.") {
                let values = match tensor.dtype {
                    Dtype::U8 => StateValues::U8(self.file.elements(&tensor.name, &tensor.shape)?),
                    Dtype::BF16 => StateValues::Bf16(bf16_bits(self.file.bytes(&tensor.name)?).into()),
                    _ => StateValues::F32(self.file.elements(&tensor.name, &tensor.shape)?),
                };
                tensors.push(StateTensor { name: name.into(), shape: tensor.shape.clone(), values });
            }
        }
        optimizer.load_state(&OptimizerState { tensors, scalars: self.header.scalars.clone() })
    }

    /// The bits of a tensor in bf16. Error: it is missing, of another shape or type.
    fn read_bf16(&self, name: &str, shape: &[usize], bits: &mut [u16]) -> Result<()> {
        let tensor = self.file.tensor(name)?;
        if (tensor.dtype, &tensor.shape[..]) != (Dtype::BF16, shape) {
            let message = format!("{name}: expected BF16 {shape:?}, found {} {:?}", tensor.dtype, tensor.shape);
            return Err(Error::format(self.file.path(), None, message));
        }
        bits.copy_from_slice(&bf16_bits(self.file.bytes(name)?));
        Ok(())
    }
}

fn file_name(step: u64) -> String {
    format!("step-{step:010}.safetensors")
}

/// Checkpoint files of `folder` by rising step; temporary and other files are left out.
fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
        let path = entry.map_err(|error| Error::io(folder, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix("step-").and_then(|rest| rest.strip_suffix(".safetensors"));
        if let Some(step) = digits.and_then(|digits| digits.parse().ok()) {
            files.push((step, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Scales of the blocks of a weight in int8.
const STEPS: &str = "weight_steps";

/// The elements of a tensor of bf16 as bits.
fn bf16_bits(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Weights as they lie in memory: names, types, shapes and bytes of the tensors of a checkpoint.
fn parts_of<'a>(shape: &[usize], weights: Stored<'a>) -> Vec<(&'static str, Dtype, Vec<usize>, &'a [u8])> {
    let part = |dtype, bytes| ("weight", dtype, shape.to_vec(), bytes);
    match weights {
        Stored::F32(values) => vec![part(Dtype::F32, bytemuck::cast_slice(values))],
        Stored::Bf16(bits) => vec![part(Dtype::BF16, bytemuck::cast_slice(bits))],
        Stored::Steps(values, steps) => vec![
            part(Dtype::I8, bytemuck::cast_slice(values)),
            (STEPS, Dtype::F32, vec![steps.len()], bytemuck::cast_slice(steps)),
        ],
        Stored::Int8(..) => unreachable!("no such weights"),
    }
}

/// SHA-256 over the header and, by rising name, each tensor's name, length and bytes.
fn checksum(header: &str, mut tensors: Vec<(String, &[u8])>) -> String {
    tensors.sort();
    let mut hash = Sha256::new();
    for part in [header.as_bytes()].into_iter().chain(tensors.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]))
    {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hexadecimal(&hash.finalize())
}

/// SHA-256 of `bytes` in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
