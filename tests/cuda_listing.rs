//! What the compiler made of the CUDA kernels: no spills, registers within what the launch needs, and the instructions meant.
//! The evidence where no GPU is at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// What nvcc printed (`-Xptxas -v`), and the folder it lies in.
const REPORT: &str = env!("HYBRIDQ_CUDA_REPORT");
const BIN: &str = env!("HYBRIDQ_CUDA_BIN");

/// Most registers of a thread: beyond, fewer blocks than the kernel is made for share a multiprocessor. (sm_75 has shared memory for
/// one block of the large products anyway.)
const REGISTERS: [(&str, u32); 4] = [
    ("hqk_ternary_matmul_cuda", 128),
    ("hqk_int8_matmul_tn_cuda", 255),
    ("hqk_ternary_transposed_cuda", 255),
    ("", 64),
];

/// Instructions that must be in a kernel's machine code for sm_80 and later.
const INSTRUCTIONS: [(&str, &str); 8] = [
    ("hqk_ternary_matmul_cuda", "IMMA.16832.S8.S8"),
    ("hqk_ternary_matmul_cuda", "LDGSTS"),
    ("hqk_ternary_few_cuda", "IMMA.16832.S8.S8"),
    ("hqk_ternary_transposed_cuda", "IMMA.16832.S8.S8"),
    ("hqk_int8_matmul_tn_cuda", "IMMA.16832.S8.S8"),
    ("hqk_ternary_matvec_cuda", "IDP.4A.S8.S8"),
    ("hqk_ternary_matvec_cuda", "LDG.E.128"),
    ("hqk_block_square_sums_cuda", "LDG.E.128"),
];

#[test]
fn nothing_spills_and_registers_fit() {
    let report = std::fs::read_to_string(REPORT).unwrap();
    let (mut kernel, mut target, mut seen) = (String::new(), String::new(), BTreeMap::new());
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut names = rest.split('\'');
            kernel = names.next().unwrap().to_string();
            target = names.nth(1).unwrap().to_string();
        } else if line.contains("bytes stack frame") {
            let none = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
            assert_eq!(line.trim(), none, "{kernel} for {target}");
        } else if let Some(rest) = line.split("Used ").nth(1) {
            let registers: u32 = rest.split(' ').next().unwrap().parse().unwrap();
            let own = REGISTERS.iter().find(|(name, _)| name.is_empty() || *name == kernel).unwrap().1;
            let most = if target == "sm_75" && own > 64 { 255 } else { own };
            assert!(registers <= most, "{kernel} for {target}: {registers} registers, at most {most}");
            println!("{kernel} {target}: {}", rest.trim_start_matches("Used "));
            *seen.entry(target.clone()).or_insert(0) += 1;
        }
    }
    assert!(!seen.is_empty() && seen.values().all(|&kernels| kernels == 23), "kernels by target: {seen:?}");
}

/// cuobjdump beside nvcc, on the path, or as `HYBRIDQ_CUOBJDUMP` says.
fn listing() -> Option<String> {
    let places =
        [std::env::var("HYBRIDQ_CUOBJDUMP").unwrap_or_default(), format!("{BIN}/cuobjdump"), "cuobjdump".into()];
    let fatbin = Path::new(REPORT).with_file_name("kernels.fatbin");
    let output = places.into_iter().filter(|place| !place.is_empty()).find_map(|place| {
        let output = Command::new(place).arg("--dump-sass").arg(&fatbin).output().ok()?;
        output.status.success().then_some(output.stdout)
    })?;
    Some(String::from_utf8_lossy(&output).into_owned())
}

#[test]
fn the_instructions_meant_are_there() {
    let Some(listing) = listing() else {
        let required = std::env::var("HYBRIDQ_REQUIRE").unwrap_or_default().split(',').any(|name| name == "cuobjdump");
        assert!(!required, "HYBRIDQ_REQUIRE names cuobjdump, and there is none");
        return println!("SKIPPED: machine code was not looked at, there is no cuobjdump");
    };
    let (mut target, mut kernel, mut found) = (0u32, String::new(), BTreeMap::new());
    for line in listing.lines() {
        if let Some(name) = line.trim().strip_prefix("Function : ") {
            kernel = name.to_string();
        } else if let Some(rest) = line.split("arch = sm_").nth(1) {
            target = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        } else {
            assert!(
                !line.contains(" LDL") && !line.contains(" STL"),
                "{kernel} for sm_{target} uses local memory: {line}"
            );
            for (at, (name, instruction)) in INSTRUCTIONS.iter().enumerate() {
                if kernel == *name && line.contains(instruction) {
                    *found.entry((target, at)).or_insert(0usize) += 1;
                }
            }
        }
    }
    let targets: BTreeSet<u32> = found.keys().map(|(target, _)| *target).filter(|target| *target >= 80).collect();
    assert!(!targets.is_empty(), "no machine code for sm_80 or later");
    for target in targets {
        for (at, (name, instruction)) in INSTRUCTIONS.iter().enumerate() {
            let count = found.get(&(target, at)).copied().unwrap_or(0);
            assert!(count > 0, "{name} for sm_{target} has no {instruction}");
            println!("{name} sm_{target}: {count} {instruction}");
        }
    }
}
