//! Runs the CUDA kernels without a GPU: the sources of cuda/ are compiled as plain C++ against tests/cuda_emulator, with the
//! address and undefined-behaviour sanitizers, and compared with the portable C kernels bit for bit.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The C kernels to compare with.
const FAMILIES: [&str; 8] =
    ["activation_quant", "int8", "kmeans", "matvec", "norm", "pack5", "ternary", "ternary_pack"];

/// Parts of the harness, and what of them may run beside each other.
const SOURCES: [&str; 6] = ["main", "primitives", "products", "packing", "rows", "clusters"];
const TURNS: [&[&str]; 2] = [&["products"], &["primitives", "packing", "weight_gradients", "rows", "sums", "kmeans"]];

const SANITIZERS: [&str; 4] = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-ffp-contract=off"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether `HYBRIDQ_REQUIRE` lists `what`: then its absence is a failure instead of a skip.
fn required(what: &str) -> bool {
    std::env::var("HYBRIDQ_REQUIRE").unwrap_or_default().split(',').any(|name| name == what)
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command:?}\n{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// Runs every piece of work, one a processor at a time.
fn side_by_side<T: Sync>(work: &[T], act: impl Fn(&T) -> Result<String, String> + Sync) -> Result<Vec<String>, String> {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let parts: Vec<Result<Vec<String>, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..processors)
            .map(|first| {
                let act = &act;
                scope.spawn(move || work.iter().skip(first).step_by(processors).map(act).collect())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    Ok(parts.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// g++ with sanitizers for the processor this test runs on.
fn has_compiler(folder: &Path) -> bool {
    let machine = Command::new("g++").arg("-dumpmachine").output();
    if !machine.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with(std::env::consts::ARCH)) {
        return false;
    }
    let (source, probe) = (folder.join("probe.cpp"), folder.join("probe"));
    std::fs::write(&source, "int main() { return 0; }\n").unwrap();
    run(Command::new("g++").args(SANITIZERS).arg(&source).arg("-o").arg(&probe)).is_ok()
        && run(&mut Command::new(probe)).is_ok()
}

/// Compiles the harness with the kernels in `cuda`; gives the program.
fn build(folder: &Path, cuda: &Path, sources: &[&str]) -> Result<PathBuf, String> {
    // What a fault leaves unused is no error.
    let warnings = if cuda == root().join("cuda") { "-Werror" } else { "-w" };
    let mut work: Vec<(PathBuf, PathBuf)> = Vec::new();
    for source in sources {
        work.push((root().join(format!("tests/cuda_emulator/{source}.cpp")), folder.join(format!("{source}.o"))));
    }
    for family in FAMILIES {
        let object = folder.join(format!("portable_{family}.o"));
        if !object.exists() {
            work.push((root().join(format!("csrc/{family}/portable.c")), object));
        }
    }
    side_by_side(&work, |(source, object)| {
        let cpp = source.extension().is_some_and(|e| e == "cpp");
        let mut command = if cpp { Command::new("g++") } else { Command::new("gcc") };
        command.args(if cpp { ["-std=c++17", "-O1"] } else { ["-std=c11", "-O2"] }).args(SANITIZERS);
        command.args(["-Wall", "-Wextra", warnings, "-Wno-unknown-pragmas", "-I"]).arg(cuda);
        command.arg("-I").arg(root().join("tests/cuda_emulator")).arg("-I").arg(root().join("csrc"));
        run(command.arg("-c").arg(source).arg("-o").arg(object))
    })?;
    let program = folder.join("harness");
    let objects = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let objects = objects.filter(|path| path.extension().is_some_and(|e| e == "o"));
    run(Command::new("g++").args(SANITIZERS).args(objects).arg("-o").arg(&program))?;
    Ok(program)
}

/// Whether the test can run here; says so where it cannot.
fn can_run(folder: &Path) -> bool {
    if has_compiler(folder) {
        return true;
    }
    assert!(!required("g++"), "HYBRIDQ_REQUIRE names g++, and there is none with sanitizers for this processor");
    println!("SKIPPED: the CUDA kernels did not run under the emulator, there is no g++ with sanitizers");
    false
}

#[test]
fn every_cuda_kernel_agrees_with_the_portable_one() {
    let folder = tempfile::tempdir().unwrap();
    if !can_run(folder.path()) {
        return;
    }
    let program = build(folder.path(), &root().join("cuda"), &SOURCES).unwrap_or_else(|error| panic!("{error}"));
    let printed = side_by_side(&TURNS, |parts| run(Command::new(&program).args(*parts)));
    for text in printed.unwrap_or_else(|error| panic!("{error}")) {
        println!("{text}");
        assert!(text.contains("agrees with the portable kernels"), "{text}");
    }
    // Nothing was left out: every kernel is named by the harness.
    let mut text = String::new();
    for source in SOURCES {
        text += &std::fs::read_to_string(root().join(format!("tests/cuda_emulator/{source}.cpp"))).unwrap();
    }
    for kernel in kernels() {
        assert!(text.contains(&format!("{kernel}(")), "tests/cuda_emulator does not run {kernel}");
    }
}

/// Names of the kernels in cuda/*.cu, and that kernels.cu has every file.
fn kernels() -> Vec<String> {
    let all = std::fs::read_to_string(root().join("cuda/kernels.cu")).unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("cuda")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".cu") || name == "kernels.cu" {
            continue;
        }
        assert!(all.contains(&format!("#include \"{name}\"")), "cuda/kernels.cu lacks {name}");
        let text = std::fs::read_to_string(&path).unwrap();
        for part in text.split("extern \"C\" __global__").skip(1) {
            let start = part.find("hqk_").unwrap();
            names.push(part[start..].split('(').next().unwrap().to_string());
        }
    }
    assert!(names.len() > 15, "{names:?}");
    names
}

/// Kernels are launched with the blocks that their sources are written for.
#[test]
fn blocks_are_those_of_the_sources() {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("cuda")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "cu") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for kernel in text.split("__global__ void __launch_bounds__(").skip(1) {
            let bound = kernel.split([',', ')']).next().unwrap();
            // A number, or the name of one.
            let value = bound.parse().unwrap_or_else(|_| {
                let value = text.split(&format!("{bound} = ")).nth(1).unwrap();
                value.split([',', ';']).next().unwrap().parse::<u32>().unwrap()
            });
            let name = &kernel[kernel.find("hqk_").unwrap()..];
            found.push(format!("(\"{}\", {value})", name.split('(').next().unwrap()));
        }
    }
    let driver = std::fs::read_to_string(root().join("src/gpu/driver.rs")).unwrap();
    assert_eq!(found.len(), kernels().len());
    for kernel in found {
        assert!(driver.contains(&kernel), "src/gpu/driver.rs does not launch {kernel}");
    }
}

/// Faults that the harness must find: file, text, what it becomes, source and part of the harness; by source.
const FAULTS: [(&str, &str, &str, &str, &str); 19] = [
    ("matvec.cu", "step < steps ? weights", "step <= steps ? weights", "products", "products"),
    ("matvec.cu", "        __syncthreads();\n        size_t row", "        size_t row", "products", "products"),
    ("matvec.cu", "odd & 0x03000300", "odd & 0x01000100", "products", "products"),
    ("ternary.cu", "a[2] = field(upper, 2 * part + 1)", "a[2] = field(lower, 2 * part + 1)", "products", "products"),
    ("ternary.cu", "copy_wait<MATMUL_STAGES - 2>();", "copy_wait<MATMUL_STAGES - 1>();", "products", "products"),
    (
        "ternary.cu",
        "token0 + token < tokens && k < cols ? cols - k : 0",
        "k < cols ? cols - k : 0",
        "products",
        "products",
    ),
    (
        "ternary.cu",
        "write(to, token0 + token, row0 + row, total);\n        __syncthreads();",
        "write(to, token0 + token, row0 + row, total);",
        "products",
        "products",
    ),
    (
        "ternary_transposed.cu",
        "part ? values[n].w : values[n].y",
        "part ? values[n].y : values[n].w",
        "products",
        "products",
    ),
    (
        "ternary_transposed.cu",
        "        copy_wait<0>();\n        __syncthreads();",
        "        copy_wait<0>();",
        "products",
        "products",
    ),
    ("ternary_pack.cu", "if (col + c < cols) to[c]", "if (col + c <= cols) to[c]", "packing", "packing"),
    ("ternary_pack.cu", "word |= __shfl_xor_sync(ALL_LANES, word, 2);", "", "packing", "packing"),
    ("pack5.cu", "256 * v + 242", "256 * v", "packing", "packing"),
    ("int8.cu", "accumulate ? *to + value : value", "value", "rows", "weight_gradients"),
    ("int8.cu", "i % 2 * 4 + n % 4", "i % 2 + n % 4 * 2", "rows", "weight_gradients"),
    (
        "norm.cu",
        "(lane[0] + lane[2]) + (lane[1] + lane[3])",
        "(lane[0] + lane[1]) + (lane[2] + lane[3])",
        "rows",
        "sums",
    ),
    ("norm.cu", "norm > max && norm <= 1.7976931348623157e308", "norm > max", "rows", "sums"),
    (
        "activation_quant.cu",
        "i = 4 * quads + threadIdx.x; i < width",
        "i = 4 * quads + threadIdx.x + 1; i < width",
        "rows",
        "rows",
    ),
    ("kmeans.cu", "leaders[i].best - error)", "leaders[i].best + error)", "clusters", "kmeans"),
    ("kmeans.cu", "        if (sums)\n            for (", "            for (", "clusters", "kmeans"),
];

/// The harness can fail: each fault, put into a copy of the kernels, is found. Minutes long, so not part of every run.
#[test]
#[ignore = "compiles the kernels once for each fault"]
fn faults_are_found() {
    let folder = tempfile::tempdir().unwrap();
    if !can_run(folder.path()) {
        return;
    }
    build(folder.path(), &root().join("cuda"), &SOURCES).unwrap_or_else(|error| panic!("{error}"));
    let cuda = folder.path().join("cuda");
    std::fs::create_dir(&cuda).unwrap();
    let (mut missed, mut faulty) = (Vec::new(), None);
    for (file, text, fault, source, part) in FAULTS {
        if let Some(before) = faulty.filter(|before| *before != source) {
            // The fault before was in another source: that one is whole again first.
            build(folder.path(), &root().join("cuda"), &[before]).unwrap_or_else(|error| panic!("{error}"));
        }
        faulty = Some(source);
        for entry in std::fs::read_dir(root().join("cuda")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "cu" || e == "cuh") {
                std::fs::copy(&path, cuda.join(path.file_name().unwrap())).unwrap();
            }
        }
        let kernel = std::fs::read_to_string(cuda.join(file)).unwrap();
        assert!(kernel.contains(text), "{file} has no {text:?} any more");
        std::fs::write(cuda.join(file), kernel.replace(text, fault)).unwrap();
        let program = build(folder.path(), &cuda, &[source]).unwrap_or_else(|error| panic!("{error}"));
        match run(Command::new(&program).arg(part)) {
            Ok(_) => missed.push((file, fault)),
            Err(message) => {
                // The sanitizer's first line says that it does not know the emulator's way of switching threads.
                let mut lines = message.lines().skip(1);
                let reason = lines.find(|line| !line.contains("makecontext") && line.chars().any(char::is_alphabetic));
                println!("{file}: {fault:?} found: {}", reason.unwrap_or_default());
            }
        }
    }
    println!("{} of {} faults found", FAULTS.len() - missed.len(), FAULTS.len());
    assert!(missed.is_empty(), "not found: {missed:?}");
}
