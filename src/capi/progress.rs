//! The trainer's progress, told to the caller's function.

use std::ffi::{CString, c_char, c_void};

use super::step_report::{hq_step_report, step_report};
use crate::train::Progress;

/// A step was done: `report`.
pub const HQ_PROGRESS_STEP: u32 = 0;
/// An evaluation was done: `validation_loss`.
pub const HQ_PROGRESS_EVALUATION: u32 = 1;
/// A checkpoint was written: `path`.
pub const HQ_PROGRESS_CHECKPOINT: u32 = 2;

/// What a trainer did. Fields that an event does not have are 0; what it points to is valid during the call. Later versions
/// may be larger (`struct_size`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hq_progress {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// An HQ_PROGRESS_ constant.
    pub kind: u32,
    /// The step, for HQ_PROGRESS_STEP; else NULL.
    pub report: *const hq_step_report,
    /// The file, for HQ_PROGRESS_CHECKPOINT; else NULL.
    pub path: *const c_char,
    /// Steps done (0 for a checkpoint).
    pub step: u64,
    /// Mean loss on the held-out examples, for HQ_PROGRESS_EVALUATION.
    pub validation_loss: f64,
}

/// Gets what the trainer did and the caller's pointer. A result other than 0 cancels the run.
pub type hq_progress_callback =
    Option<unsafe extern "C" fn(progress: *const hq_progress, user_data: *mut c_void) -> i32>;

/// The caller's function, if there is one.
#[derive(Clone, Copy)]
pub(super) struct ProgressSlot {
    callback: hq_progress_callback,
    user_data: *mut c_void,
}

// SAFETY: the header tells the caller that the function is called on the thread that trains.
unsafe impl Send for ProgressSlot {}

impl Default for ProgressSlot {
    fn default() -> Self {
        ProgressSlot { callback: None, user_data: std::ptr::null_mut() }
    }
}

impl ProgressSlot {
    pub(super) fn new(callback: hq_progress_callback, user_data: *mut c_void) -> Self {
        ProgressSlot { callback, user_data }
    }

    /// The result of the caller's function; 0 without one.
    pub(super) fn call(self, progress: Progress<'_>) -> i32 {
        let Some(callback) = self.callback else { return 0 };
        let mut event = hq_progress {
            struct_size: size_of::<hq_progress>() as u32,
            kind: HQ_PROGRESS_STEP,
            report: std::ptr::null(),
            path: std::ptr::null(),
            step: 0,
            validation_loss: 0.0,
        };
        let (report, path);
        match progress {
            Progress::Step(metrics) => {
                report = step_report(metrics);
                (event.report, event.step) = (&raw const report, metrics.step);
            }
            Progress::Evaluation(metrics) => {
                (event.kind, event.step) = (HQ_PROGRESS_EVALUATION, metrics.step);
                event.validation_loss = metrics.val_loss;
            }
            Progress::Checkpoint(file) => {
                path = CString::new(file.to_string_lossy().into_owned()).unwrap_or_default();
                (event.kind, event.path) = (HQ_PROGRESS_CHECKPOINT, path.as_ptr());
            }
        }
        // SAFETY: the event and what it points to live through the call; the caller vouches for its function.
        unsafe { callback(&raw const event, self.user_data) }
    }
}
