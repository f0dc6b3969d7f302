//! Models as folders and files: load, save, export, import, inspect.

use std::ffi::c_char;
use std::path::Path;

use super::boundary::{Failure, give_text, guard, place, text};
use super::context::{context_of, hq_context};
use super::model::{hq_model, model_of, ready};
use super::status::hq_status;
use crate::Error;
use crate::formats::inspect;
use crate::models::{ExportType, GgufExportType};
use crate::train::{export_gguf, export_model, export_packed, import_model, open_any_model};

/// Reads a model: a folder in Hugging Face layout (`config.json`, `model.safetensors`, perhaps `tokenizer.json`), a run of
/// the trainer, or a GGUF or packed file (a model to compute with, not to train). HQ_IO: it cannot be read; HQ_FORMAT: it is damaged or of another kind.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_load(
    context: *const hq_context,
    path: *const c_char,
    out: *mut *mut hq_model,
) -> hq_status {
    guard("hq_model_load", || {
        // SAFETY: as the caller vouches.
        let (context, path, out) = unsafe { (context_of(context)?, text(path, "path")?, place(out, "out")?) };
        let (model, tokenizer) = open_any_model(context, Path::new(path))?;
        out.write(ready(context, model, tokenizer)?);
        Ok(())
    })
}

/// Writes the model as a folder in Hugging Face layout (f32 weights), made if missing; each file is replaced in one step.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_save(model: *const hq_model, folder: *const c_char) -> hq_status {
    guard("hq_model_save", || {
        // SAFETY: as the caller vouches.
        let (value, folder) = unsafe { (model_of(model)?, text(folder, "folder")?) };
        value.model.save(Path::new(folder))?;
        Ok(value.tokenizer.save(Path::new(folder))?)
    })
}

/// A folder for transformers: f32 weights as they are.
pub const HQ_EXPORT_F32: u32 = 0;
/// A folder for transformers: half precision.
pub const HQ_EXPORT_F16: u32 = 1;
/// A folder for transformers: half precision with the range of f32.
pub const HQ_EXPORT_BF16: u32 = 2;
/// A folder for transformers in BitNet's checkpoint form: ternary layers four weights a byte, the rest f32.
pub const HQ_EXPORT_PACKED: u32 = 3;
/// A GGUF file for llama.cpp: f32.
pub const HQ_EXPORT_GGUF_F32: u32 = 4;
/// A GGUF file: half precision.
pub const HQ_EXPORT_GGUF_F16: u32 = 5;
/// A GGUF file: int8 with a scale for each 32 weights.
pub const HQ_EXPORT_GGUF_Q8_0: u32 = 6;
/// A GGUF file: ternary layers at 1.6875 bits a weight, embedding and head in Q8_0.
pub const HQ_EXPORT_GGUF_TQ1_0: u32 = 7;
/// A GGUF file: ternary layers at 2.0625 bits a weight, embedding and head in Q8_0.
pub const HQ_EXPORT_GGUF_TQ2_0: u32 = 8;
/// One file at 1.6 bits a ternary weight, embedding and head at 8.5 bits, which `hq_model_load` uses where it lies.
pub const HQ_EXPORT_PACKED_FILE: u32 = 9;

/// Writes the model behind `from` (what `hq_model_load` reads; for transformers a folder) to the new folder or file `to`;
/// `kind` is an HQ_EXPORT_ constant. HQ_INVALID_VALUE: a model that the reader would compute differently, a `to` that exists.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_export_model(
    context: *const hq_context,
    from: *const c_char,
    to: *const c_char,
    kind: u32,
) -> hq_status {
    guard("hq_export_model", || {
        // SAFETY: as the caller vouches.
        let (context, from, to) = unsafe { (context_of(context)?, text(from, "from")?, text(to, "to")?) };
        let (from, to) = (Path::new(from), Path::new(to));
        let folder = |kind| export_model(context, from, to, kind).map(drop);
        let gguf = |kind| export_gguf(context, from, to, kind).map(drop);
        match kind {
            HQ_EXPORT_F32 => folder(ExportType::F32)?,
            HQ_EXPORT_F16 => folder(ExportType::F16)?,
            HQ_EXPORT_BF16 => folder(ExportType::Bf16)?,
            HQ_EXPORT_PACKED => folder(ExportType::Packed)?,
            HQ_EXPORT_GGUF_F32 => gguf(GgufExportType::F32)?,
            HQ_EXPORT_GGUF_F16 => gguf(GgufExportType::F16)?,
            HQ_EXPORT_GGUF_Q8_0 => gguf(GgufExportType::Q8_0)?,
            HQ_EXPORT_GGUF_TQ1_0 => gguf(GgufExportType::Tq1_0)?,
            HQ_EXPORT_GGUF_TQ2_0 => gguf(GgufExportType::Tq2_0)?,
            HQ_EXPORT_PACKED_FILE => drop(export_packed(context, from, to)?),
            other => return Err(Failure::invalid("kind", "an HQ_EXPORT_ constant (0 to 9)", other)),
        }
        Ok(())
    })
}

/// What a safetensors, GGUF or packed file, or a folder of safetensors files, holds, as JSON: `files` (`path`, `bytes`,
/// `metadata`, `tensors` with `name`, `dtype`, `shape`, `elements`, `bytes`), `elements`, `bytes`, `ratio_to_f32`. `*length` gets
/// the text's bytes without the NUL; `buffer`, if not NULL, gets the text (HQ_SHAPE: `capacity` is too small). HQ_IO and
/// HQ_FORMAT: what cannot be read.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_inspect(
    path: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_inspect", || {
        // SAFETY: as the caller vouches.
        let found = inspect(unsafe { text(path, "path") }?)?;
        let json = serde_json::to_string(&found).map_err(|error| Error::invalid("path", "UTF-8 names", error))?;
        // SAFETY: as the caller vouches.
        unsafe { give_text(&json, buffer, capacity, length) }
    })
}

/// Which tensors of the model have several uses, and what that saves, as JSON: `total` and `unique` parameters, `reduction`
/// (`1 - unique / total`), `packed_bytes`, `shared` (`name`, `elements`, `users`). `*length` gets the text's bytes without the
/// NUL; `buffer`, if not NULL, gets the text (HQ_SHAPE: `capacity` is too small).
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_model_sharing(
    model: *const hq_model,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> hq_status {
    guard("hq_model_sharing", || {
        // SAFETY: as the caller vouches.
        let found = unsafe { model_of(model) }?.model.config.sharing_info()?;
        let json = serde_json::to_string(&found).expect("numbers and names become JSON");
        // SAFETY: as the caller vouches.
        unsafe { give_text(&json, buffer, capacity, length) }
    })
}

/// Reads the Hugging Face folder `from` and writes it into the new model folder `out_folder` as hybridq keeps models: f32
/// weights in one file, with the tokenizer. HQ_FORMAT: what the format or this library cannot express.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_import_model(from: *const c_char, out_folder: *const c_char) -> hq_status {
    guard("hq_import_model", || {
        // SAFETY: as the caller vouches.
        let (from, out) = unsafe { (text(from, "from")?, text(out_folder, "out_folder")?) };
        import_model(Path::new(from), Path::new(out))?;
        Ok(())
    })
}
