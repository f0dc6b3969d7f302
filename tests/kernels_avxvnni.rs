//! The AVX-VNNI sources in both encodings: VEX as the library builds them, and EVEX, which CPUs with AVX-512 VNNI but
//! without AVX-VNNI run.
#![cfg(target_arch = "x86_64")]

use std::path::Path;
use std::process::Command;

/// Builds the check program with `flags` and runs it; says so when it cannot.
fn check(what: &str, flags: &[&str], supported: bool) {
    let required = std::env::var("HYBRIDQ_REQUIRE").unwrap_or_default();
    if !supported {
        assert!(!required.split(',').any(|name| name == what), "HYBRIDQ_REQUIRE names {what}, this CPU lacks it");
        return println!("SKIPPED: this CPU cannot run the {what} build");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let sources =
        ["ternary/portable.c", "ternary_pack/portable.c", "matvec/portable.c", "ternary/avxvnni.c", "int8/avxvnni.c"];
    let sources = sources.map(|path| root.join("csrc").join(path));
    let compiled = Command::new("cc")
        .args(["-std=c11", "-O3", "-ffp-contract=off", "-mavx2", "-mfma"])
        .args(flags)
        .arg("-I")
        .arg(root.join("csrc"))
        .arg(root.join("tests/c_kernels/avxvnni.c"))
        .args(sources)
        .arg("-o")
        .arg(&program)
        .output();
    let Ok(compiled) = compiled else {
        assert!(!required.split(',').any(|name| name == "cc"), "HYBRIDQ_REQUIRE names cc, and it was not found");
        return println!("SKIPPED: the {what} build was not checked, cc is not installed");
    };
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn vex_build() {
    check("avxvnni", &["-mavxvnni"], is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"));
}

#[test]
fn evex_build() {
    let supported = is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni");
    check("avxvnni-evex", &["-mavx512f", "-mavx512vl", "-mavx512vnni"], supported);
}
