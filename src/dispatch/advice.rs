//! What would make this machine faster, in words.
#![forbid(unsafe_code)]

use std::path::Path;

use super::cache::{ConfigSource, cache_path};
use super::context::Context;
use crate::kernels::{Isa, KernelTable};

/// Levels that are worth a word when a CPU lacks them, on the architecture that has them.
const WORTH_A_WORD: [(&str, Isa, &str); 4] = [
    ("x86_64", Isa::Avx2, "AVX2 and FMA: the portable kernels serve, which are slow"),
    ("x86_64", Isa::Avx512Vnni, "AVX-512 VNNI: int8 products run below what newer CPUs reach"),
    ("aarch64", Isa::NeonDotprod, "the int8 dot product instructions: products run below what newer CPUs reach"),
    ("aarch64", Isa::NeonI8mm, "the int8 matrix instructions: products of many tokens run below what newer CPUs reach"),
];

impl Context {
    /// Advice on this CPU, build and configuration: one sentence each, most useful first; none if all is well.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let (active, best) = (self.kernels().isa(), KernelTable::available().last().map(KernelTable::isa));
        if let Some(best) = best.filter(|best| *best != active) {
            let why = match std::env::var("HYBRIDQ_ISA") {
                Ok(name) if name == active.name() => format!("a cap of HYBRIDQ_ISA={name}"),
                _ => format!("a cap of {}", active.name()),
            };
            advice.push(format!("running under {why}: this CPU and build have {}", best.name()));
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported_by_cpu() && !isa.is_built()) {
            advice.push(format!(
                "this CPU has {0}, this build lacks its kernels: build with a newer C compiler",
                isa.name()
            ));
        }
        for (architecture, isa, what) in WORTH_A_WORD {
            if std::env::consts::ARCH == architecture && !isa.is_supported_by_cpu() {
                advice.push(format!("this CPU lacks {what}"));
                break;
            }
        }
        advice.extend(self.cuda().filter(|_| self.cuda_has_failed()));
        let (named, built) = (self.dispatch_config().cuda.is_some(), cfg!(feature = "cuda"));
        if named && !built {
            advice.push(
                "the thresholds name a CUDA device, this build lacks feature cuda: no call leaves the CPU".into(),
            );
        } else if !named && Path::new("/proc/driver/nvidia/version").exists() {
            let how = if built { "" } else { "a build with feature cuda and " };
            advice.push(format!(
                "an NVIDIA GPU is here: {how}hybridq bench --calibrate lets large products go to it, module gpu has the rest"
            ));
        }
        if let Some(cores) = cores_beyond(self.threads()) {
            advice.push(format!(
                "{} threads of {cores} cores: a quota, an affinity or --threads holds back the rest",
                self.threads()
            ));
        }
        if huge_pages_are_off() {
            let file = "/sys/kernel/mm/transparent_hugepage/enabled";
            advice
                .push(format!("huge pages are off: weights that exceed the caches read faster with madvise in {file}"));
        }
        if *self.dispatch_source() == ConfigSource::Defaults && cache_path(None).is_some() {
            advice.push("thresholds are defaults: hybridq bench --calibrate learns this machine's".into());
        }
        advice
    }
}

/// The number of cores of the machine if `threads` is fewer (Linux).
fn cores_beyond(threads: usize) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    (cores > threads).then_some(cores)
}

fn huge_pages_are_off() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    setting.is_ok_and(|text| text.contains("[never]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::{ContextOptions, DispatchConfig};

    #[test]
    fn a_cap_is_named() {
        let context = Context::new(ContextOptions { threads: Some(1), isa: Some(Isa::Portable) }).unwrap();
        let capped = KernelTable::available().len() > 1;
        let named = |advice: &[String]| advice.iter().any(|line| line.contains("cap of") && line.contains("portable"));
        assert_eq!(named(&context.advice()), capped);
        let given = context.with_dispatch(DispatchConfig::default()).unwrap();
        assert!(given.advice().iter().all(|line| !line.contains('\n') && !line.contains("calibrate")));
    }
}
