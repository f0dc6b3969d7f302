//! Models as folders: load, save, export, import.

use std::ffi::c_char;
use std::path::Path;

use super::boundary::{Failure, guard, handle_ref, place, text};
use super::context::{context_of, hq_context};
use super::model::{hq_model, ready};
use super::status::hq_status;
use crate::models::ExportType;
use crate::train::{export_model, import_model, open_model};

/// Reads a model: a folder in Hugging Face layout (`config.json`, `model.safetensors`, perhaps `tokenizer.json`), a run of
/// the trainer, or a GGUF file (a model to compute with, not to train). HQ_IO: it cannot be read; HQ_FORMAT: it is damaged or of another kind.
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
        let (model, tokenizer) = open_model(context, Path::new(path))?;
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
        let (value, folder) = unsafe { (handle_ref(model, "model")?, text(folder, "folder")?) };
        value.model.save(Path::new(folder))?;
        Ok(value.tokenizer.save(Path::new(folder))?)
    })
}

/// f32 weights as they are.
pub const HQ_EXPORT_F32: u32 = 0;
/// Half precision.
pub const HQ_EXPORT_F16: u32 = 1;
/// Half precision with the range of f32.
pub const HQ_EXPORT_BF16: u32 = 2;
/// BitNet's checkpoint form: ternary layers four weights a byte, the rest f32.
pub const HQ_EXPORT_PACKED: u32 = 3;

/// Writes the model behind `from` (a run, a model folder, a Hugging Face folder) into the new folder `out_folder` in a form
/// that transformers loads; `kind` is an HQ_EXPORT_ constant. HQ_INVALID_VALUE: a model that transformers would compute
/// differently, or a folder that holds a model already.
///
/// # Safety
/// The pointers are as [`crate::capi`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hq_export_model(
    context: *const hq_context,
    from: *const c_char,
    out_folder: *const c_char,
    kind: u32,
) -> hq_status {
    guard("hq_export_model", || {
        let kind = match kind {
            HQ_EXPORT_F32 => ExportType::F32,
            HQ_EXPORT_F16 => ExportType::F16,
            HQ_EXPORT_BF16 => ExportType::Bf16,
            HQ_EXPORT_PACKED => ExportType::Packed,
            other => return Err(Failure::invalid("kind", "an HQ_EXPORT_ constant (0 to 3)", other)),
        };
        // SAFETY: as the caller vouches.
        let (context, from, out) =
            unsafe { (context_of(context)?, text(from, "from")?, text(out_folder, "out_folder")?) };
        export_model(context, Path::new(from), Path::new(out), kind)?;
        Ok(())
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
