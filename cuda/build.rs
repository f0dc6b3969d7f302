//! Feature `cuda`: kernels to one fatbin with nvcc, and the static libcuda through which a program finds the driver or its
//! absence when it starts (driver/driver.c).

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// GPUs with machine code, and (last) the version of PTX from which a driver makes code for later ones.
const TARGETS: &str = "75,80,86,89,90a,ptx90";

/// The path or folder of nvcc, and the list of targets.
const NVCC: &str = "HYBRIDQ_NVCC";
const TARGETS_VARIABLE: &str = "HYBRIDQ_CUDA_TARGETS";

/// Floats as on the CPU: no fused multiply-add but where it is written, exact division and roots, subnormals kept.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-prec-div=true",
    "-prec-sqrt=true",
    "-ftz=false",
    "--threads=0",
    "-Xptxas=-v",
    "-fatbin",
];

/// Builds both; a reason in one line where it cannot.
pub fn build() -> Result<(), String> {
    println!("cargo:rerun-if-changed=cuda/build.rs");
    println!("cargo:rerun-if-changed=cuda/driver");
    let files = std::fs::read_dir("cuda")
        .map_err(|error| format!("cuda: {error}"))?
        .filter_map(|entry| Some(entry.ok()?.path()));
    for source in files.filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh")) {
        println!("cargo:rerun-if-changed={}", source.display());
    }
    for variable in [NVCC, TARGETS_VARIABLE, "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Err("feature cuda: Linux only".into());
    }
    let folder = PathBuf::from(std::env::var("OUT_DIR").map_err(|error| error.to_string())?);
    compile_kernels(&folder)?;
    compile_driver(&folder)
}

fn compile_kernels(folder: &Path) -> Result<(), String> {
    let nvcc = find_nvcc()?;
    let targets = std::env::var(TARGETS_VARIABLE).unwrap_or(TARGETS.into());
    let mut command = Command::new(&nvcc);
    command.args(FLAGS);
    for target in targets.split(',').map(str::trim).filter(|target| !target.is_empty()) {
        let (virtual_target, code) = match target.strip_prefix("ptx") {
            Some(version) => (version, format!("compute_{version}")),
            None => (target, format!("sm_{target}")),
        };
        command.arg(format!("-gencode=arch=compute_{virtual_target},code={code}"));
    }
    let fatbin = folder.join("kernels.fatbin");
    let output = command.arg("cuda/kernels.cu").arg("-o").arg(&fatbin).output();
    let output = output.map_err(|error| format!("feature cuda: {}: {error}", nvcc.display()))?;
    let printed = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let reason = printed.lines().find(|line| line.contains("error")).unwrap_or("no reason given").to_string();
        return Err(format!("feature cuda: {}: {reason}", nvcc.display()));
    }
    // For tests/cuda_listing.rs: registers, spills and shared memory of every kernel.
    let report = folder.join("kernels.txt");
    std::fs::write(&report, printed.as_bytes()).map_err(|error| format!("{}: {error}", report.display()))?;
    println!("cargo:rustc-env=HYBRIDQ_FATBIN={}", fatbin.display());
    println!("cargo:rustc-env=HYBRIDQ_CUDA_REPORT={}", report.display());
    println!("cargo:rustc-env=HYBRIDQ_CUDA_BIN={}", nvcc.parent().unwrap_or(Path::new("")).display());
    Ok(())
}

/// `HYBRIDQ_NVCC` (the program, a toolkit, a Python environment), else `CUDA_HOME`, `CUDA_PATH`, the search path, the usual folder.
fn find_nvcc() -> Result<PathBuf, String> {
    if let Some(wanted) = std::env::var_os(NVCC).filter(|value| !value.is_empty()).map(PathBuf::from) {
        let found = if wanted.is_file() { Some(wanted.clone()) } else { nvcc_in(&wanted) };
        return found.ok_or_else(|| format!("{NVCC}: {} has no nvcc", wanted.display()));
    }
    let folders = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let on_path =
        on_path.unwrap_or_default().into_iter().map(|folder| folder.join("nvcc")).filter(|file| file.is_file());
    let usual = nvcc_in(Path::new("/usr/local/cuda"));
    let found = folders.filter_map(|folder| nvcc_in(&folder)).chain(on_path).chain(usual).next();
    found.ok_or_else(|| {
        format!(
            "feature cuda: no nvcc on the path; set {NVCC} to nvcc, to a CUDA toolkit, or to a Python environment with the \
             wheels that cuda/README.md names"
        )
    })
}

/// nvcc in a toolkit, or as NVIDIA's wheels leave it in a Python environment.
fn nvcc_in(folder: &Path) -> Option<PathBuf> {
    let toolkit = folder.join("bin/nvcc");
    if toolkit.is_file() {
        return Some(toolkit);
    }
    let pythons = std::fs::read_dir(folder.join("lib")).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut versions: Vec<PathBuf> = pythons
        .filter_map(|python| std::fs::read_dir(python.join("site-packages/nvidia")).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/nvcc")))
        .filter(|nvcc| nvcc.is_file())
        .collect();
    versions.sort();
    versions.pop()
}

fn compile_driver(folder: &Path) -> Result<(), String> {
    let path = "cuda/driver/symbols.txt";
    let symbols = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut entries = String::new();
    for (number, name) in symbols.lines().enumerate() {
        writeln!(entries, "ENTRY({number}, {name})").map_err(|error| error.to_string())?;
    }
    std::fs::write(folder.join("symbols.h"), entries).map_err(|error| format!("symbols.h: {error}"))?;
    // The bindings ask for -lcuda: this folder comes before the system's.
    cc::Build::new().file("cuda/driver/driver.c").include(folder).opt_level(2).cargo_metadata(false).compile("cuda");
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dl");
    Ok(())
}
