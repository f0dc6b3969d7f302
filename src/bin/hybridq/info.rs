//! `hybridq info`.
#![forbid(unsafe_code)]

use clap::Args;
use hybridq::Result;
use hybridq::dispatch::ConfigSource;
use hybridq::gpu::{Device, device_count};
use hybridq::kernels::{Isa, KernelTable};
use serde::Serialize;

#[derive(Args)]
pub struct Arguments {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    architecture: &'static str,
    isa_active: &'static str,
    isas_available: Vec<&'static str>,
    isas_not_built: Vec<&'static str>,
    isas_not_on_this_cpu: Vec<&'static str>,
    threads: usize,
    gpu: String,
    dispatch: String,
    dispatch_cuda: String,
    advice: Vec<String>,
}

/// The first CUDA device and how many there are, or why there is none.
fn gpu() -> String {
    match device_count().and_then(|count| Ok((Device::open(0)?, count))) {
        Ok((device, count)) => format!("{} ({count} in all)", device.name()),
        Err(error) => format!("none ({error})"),
    }
}

pub fn run(arguments: &Arguments) -> Result<u8> {
    let context = crate::context(None)?;
    let names = |keep: &dyn Fn(&Isa) -> bool| Isa::ALL.iter().filter(|isa| keep(isa)).map(|isa| isa.name()).collect();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        architecture: std::env::consts::ARCH,
        isa_active: context.kernels().isa().name(),
        isas_available: KernelTable::available().iter().map(|table| table.isa().name()).collect(),
        isas_not_built: names(&|isa| isa.is_supported_by_cpu() && !isa.is_built()),
        isas_not_on_this_cpu: names(&|isa| isa.is_built() && !isa.is_supported_by_cpu()),
        threads: context.threads(),
        gpu: gpu(),
        dispatch: match context.dispatch_source() {
            ConfigSource::Cache(path) => format!("thresholds learned on this machine, {}", path.display()),
            ConfigSource::Defaults | ConfigSource::Given => "default thresholds".into(),
        },
        dispatch_cuda: context.cuda().unwrap_or_else(|| "no call leaves the CPU".into()),
        advice: context.advice(),
    };
    if arguments.json {
        crate::write_stdout(&(serde_json::to_string_pretty(&report).expect("plain data") + "\n"))?;
        return Ok(crate::DONE);
    }
    let mut text = format!("hybridq {} ({})\n", report.version, report.architecture);
    text += &format!("instruction set  {} (HYBRIDQ_ISA caps it)\n", report.isa_active);
    text += &format!("available        {}\n", report.isas_available.join(", "));
    if !report.isas_not_built.is_empty() {
        text +=
            &format!("not built        {}: this CPU has them, this build does not\n", report.isas_not_built.join(", "));
    }
    if !report.isas_not_on_this_cpu.is_empty() {
        text += &format!("not on this CPU  {}\n", report.isas_not_on_this_cpu.join(", "));
    }
    text += &format!("threads          {}\n", report.threads);
    text += &format!("GPU              {}\n", report.gpu);
    text += &format!("dispatcher       {}; {}\n", report.dispatch, report.dispatch_cuda);
    for advice in &report.advice {
        text += &format!("advice           {advice}\n");
    }
    crate::write_stdout(&text)?;
    Ok(crate::DONE)
}
