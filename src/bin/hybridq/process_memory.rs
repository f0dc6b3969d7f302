//! The memory of this process, as the system counts it (Linux; elsewhere unknown).
#![forbid(unsafe_code)]

use hybridq::train::{LanguageModelTrainer, MemoryPlan};

/// Bytes of a MiB.
pub const MIB: f64 = (1 << 20) as f64;

/// Makes the peak of [`peak_memory`] begin anew, where the system allows it (Linux).
pub fn reset_peak_memory() {
    // Without it the peak is that of the whole run: an upper bound all the same.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Memory this process holds, in MiB (Linux).
pub fn resident_memory() -> Option<f64> {
    status_mib("VmRSS:")
}

/// Most memory this process held since the last reset, in MiB (Linux).
pub fn peak_memory() -> Option<f64> {
    status_mib("VmHWM:")
}

/// The memory plan of a run at its start, and what the process holds beside it, in MiB (Linux): its program, rests of the
/// allocator.
pub fn plan_memory(trainer: &mut LanguageModelTrainer) -> (MemoryPlan, Option<f64>) {
    // Before the plan, which makes the buffers of the steps.
    let resident = resident_memory();
    let plan = trainer.memory_plan();
    (plan, resident.map(|resident| (resident - plan.begun() as f64 / MIB).max(0.0)))
}

fn status_mib(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}
