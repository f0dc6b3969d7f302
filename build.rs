//! Compiles `csrc/<family>/<isa>.c`: one static library per ISA, each with its own flags.
//!
//! An ISA whose flags the compiler does not know is left out with a warning; the crate then runs without it and
//! `hybridq info` says so. Nothing but a C compiler is needed; feature `cuda` needs nvcc as well (cuda/build.rs).

#[path = "cuda/build.rs"]
mod cuda;

use std::path::{Path, PathBuf};
use std::process::Command;

/// File stem = ISA = symbol suffix, the architectures that have it, and its gcc/clang flags.
const ISAS: &[(&str, &[&str], &[&str])] = &[
    ("portable", &[], &[]),
    ("avx2", &["x86_64"], &["-mavx2", "-mfma", "-mpopcnt"]),
    ("avxvnni", &["x86_64"], &["-mavx2", "-mfma", "-mpopcnt", "-mavxvnni"]),
    ("avx512", &["x86_64"], &AVX512),
    (
        "avx512vnni",
        &["x86_64"],
        &["-mavx2", "-mfma", "-mpopcnt", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"],
    ),
    (
        "avx512bf16",
        &["x86_64"],
        &["-mavx2", "-mfma", "-mpopcnt", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"],
    ),
    ("neon", &["aarch64"], &[]),
    ("neondotprod", &["aarch64"], &["-march=armv8.2-a+dotprod"]),
    ("neoni8mm", &["aarch64"], &["-march=armv8.2-a+dotprod+i8mm"]),
];

const AVX512: [&str; 7] = ["-mavx2", "-mfma", "-mpopcnt", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"];

/// `-ffp-contract=off` keeps every ISA's float arithmetic the same to the bit; a fused multiply-add is written as an
/// intrinsic where it is wanted. `-fno-math-errno` lets sqrt and rint be single instructions; `-fno-trapping-math` (the
/// exception flags are never read) lets loops with float comparisons be vectorized. Neither changes a result.
/// A kernel calls nothing that could throw: tables for unwinding through it would be a twentieth of its size for nothing.
const FLAGS: [&str; 9] = [
    "-std=c11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-Wall",
    "-Wextra",
];

/// Where linker and loader know them: one copy of functions that are the same instructions (nothing here compares functions'
/// addresses; GNU ld does not know it), and relocations in an eighth of the bytes (glibc does from 2.36 on). Together they
/// are a tenth of the library.
const SMALLER: [&str; 2] = ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=csrc");
    for (isa, _, _) in ISAS {
        println!("cargo:rustc-check-cfg=cfg(hqk_{isa})");
    }
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).expect("cargo describes the target");
    if (target("ENDIAN"), target("POINTER_WIDTH")) != ("little".into(), "64".into()) {
        // Floats are written to files as they lie in memory; kernels take four bytes as one little-endian word.
        println!("cargo::error=hybridq needs a 64-bit little-endian target");
        return;
    }
    let architecture = target("ARCH");
    if target("OS") == "linux" {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libhybridq.so.0");
        for flag in SMALLER.into_iter().filter(|flag| program_starts(flag)) {
            println!("cargo:rustc-cdylib-link-arg={flag}");
        }
    }
    let mut builds = Vec::new();
    for (isa, architectures, flags) in ISAS {
        if architectures.is_empty() || architectures.contains(&architecture.as_str()) {
            builds.extend(compile_isa(isa, flags).map(|flags| format!("{isa}:{flags}")));
        }
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(reason) = cuda::build()
    {
        println!("cargo::error={reason}");
    }
    // For tests/sanitized_kernels.rs, which builds the kernels once more.
    println!("cargo:rustc-env=HYBRIDQ_KERNEL_BUILDS={}", builds.join(";"));
}

/// Whether a program linked with `flag` starts on this machine. Across machines: no.
fn program_starts(flag: &str) -> bool {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(rustc), Some(target), Some(folder)) = (variable("RUSTC"), variable("TARGET"), variable("OUT_DIR")) else {
        return false;
    };
    let (source, program) = (Path::new(&folder).join("nothing.rs"), Path::new(&folder).join("nothing"));
    if variable("HOST").as_ref() != Some(&target) || std::fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut command = Command::new(rustc);
    command.args(["--target", &target, "-C", &format!("link-arg={flag}"), "-o"]).arg(&program).arg(source);
    if let Some(linker) = variable("RUSTC_LINKER") {
        command.args(["-C", &format!("linker={linker}")]);
    }
    command.args(variable("CARGO_ENCODED_RUSTFLAGS").iter().flat_map(|flags| flags.split('\x1f')));
    let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    succeeds(&mut command) && succeeds(&mut Command::new(program))
}

/// Compiles the kernels of an ISA; gives the flags, or nothing where there are none or the compiler cannot.
fn compile_isa(isa: &str, flags: &[&str]) -> Option<String> {
    let sources = sources_of(isa);
    if sources.is_empty() {
        return None;
    }
    let mut used = Vec::new();
    let mut build = cc::Build::new();
    build.files(&sources).include("csrc").opt_level(3).warnings(false);
    if build.get_compiler().is_like_msvc() {
        build.flag("/std:c11").flag("/fp:precise");
        match isa {
            "portable" | "neon" => {}
            "avx2" => drop(build.flag("/arch:AVX2")),
            "avx512" | "avx512vnni" | "avx512bf16" => drop(build.flag("/arch:AVX512")),
            _ => {
                println!("cargo:warning={isa} kernels are not built: not supported with this compiler");
                return None;
            }
        }
    } else {
        for flag in FLAGS.iter().chain(flags) {
            if !build.is_flag_supported(flag).unwrap_or(false) {
                assert!(isa != "portable", "the C compiler does not accept {flag}, which every kernel needs");
                println!("cargo:warning={isa} kernels are not built: the C compiler does not accept {flag}");
                return None;
            }
            build.flag(flag);
            used.push(*flag);
        }
        if isa == "portable" && build.get_compiler().is_like_gnu() {
            // What gcc unrolls whole beyond this is a tenth of the level and, summed over kernels, saves no instruction;
            // where it does, loops are marked.
            build.flag("--param=max-completely-peeled-insns=100");
        }
        if isa.starts_with("neon") {
            // gcc's first scheduling pass moves loads up until accumulators no longer fit the registers.
            build.flag_if_supported("-fno-schedule-insns");
        }
    }
    build.compile(&format!("hqk_{isa}"));
    println!("cargo:rustc-cfg=hqk_{isa}");
    Some(used.join(" "))
}

fn sources_of(isa: &str) -> Vec<PathBuf> {
    let mut sources: Vec<PathBuf> = std::fs::read_dir("csrc")
        .expect("csrc is part of the source tree")
        .filter_map(|family| Some(family.ok()?.path().join(format!("{isa}.c"))))
        .filter(|path: &PathBuf| Path::exists(path))
        .collect();
    sources.sort();
    sources
}
