//! Builds every kernel of this machine's architecture with the address and undefined-behaviour sanitizers, with the flags
//! build.rs uses, and runs them all on heap buffers of exactly the size their contracts state (tests/sanitized_kernels).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use hybridq::kernels::KernelTable;

/// `isa:flags`, one a line, of the ISAs build.rs compiled.
const BUILDS: &str = env!("HYBRIDQ_KERNEL_BUILDS");

const SANITIZERS: [&str; 5] =
    ["-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether `HYBRIDQ_REQUIRE` lists `what`: then its absence is a failure instead of a skip.
fn required(what: &str) -> bool {
    std::env::var("HYBRIDQ_REQUIRE").unwrap_or_default().split(',').any(|name| name == what)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Whether `cc` builds for the processor this test runs on (it does not where the test itself is emulated).
fn builds_for_this_processor() -> bool {
    let machine = Command::new("cc").arg("-dumpmachine").output();
    machine.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with(std::env::consts::ARCH))
}

fn has_sanitizers(folder: &Path) -> bool {
    if !builds_for_this_processor() {
        return false;
    }
    let source = folder.join("probe.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let probe = folder.join("probe");
    let built = Command::new("cc").args(SANITIZERS).arg(&source).arg("-o").arg(&probe).output();
    built.is_ok_and(|output| output.status.success())
        && Command::new(probe).output().is_ok_and(|output| output.status.success())
}

/// The C files of an ISA: csrc/<family>/<isa>.c.
fn sources(isa: &str) -> Vec<PathBuf> {
    let families = std::fs::read_dir(root().join("csrc")).unwrap();
    let mut files: Vec<PathBuf> = families.map(|family| family.unwrap().path().join(format!("{isa}.c"))).collect();
    files.retain(|file| file.exists());
    files.sort();
    files
}

fn object_of(folder: &Path, isa: &str, source: &Path) -> PathBuf {
    let family = source.parent().unwrap().file_name().unwrap().to_string_lossy();
    folder.join(format!("{family}_{isa}.o"))
}

/// Compiles everything, one process a processor; gives the object files.
fn compile(folder: &Path) -> Vec<PathBuf> {
    let mut work: Vec<(PathBuf, PathBuf, Vec<&str>)> = Vec::new();
    for build in BUILDS.split(';').filter(|build| !build.is_empty()) {
        let (isa, flags) = build.split_once(':').unwrap();
        for source in sources(isa) {
            let object = object_of(folder, isa, &source);
            // The harness finds the kernels by name.
            let flags = flags.split(' ').filter(|flag| !flag.is_empty() && !flag.starts_with("-fvisibility")).collect();
            work.push((source, object, flags));
        }
    }
    for part in ["main", "elements", "rows", "packing", "products"] {
        let source = root().join(format!("tests/sanitized_kernels/{part}.c"));
        work.push((source, folder.join(format!("{part}.o")), vec!["-std=gnu11", "-Wall", "-Wextra", "-Werror"]));
    }
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for part in 0..processors {
            let work = &work;
            scope.spawn(move || {
                for (source, object, flags) in work.iter().skip(part).step_by(processors) {
                    run(Command::new("cc")
                        .args(flags)
                        .args(SANITIZERS)
                        .arg("-I")
                        .arg(root().join("csrc"))
                        .arg("-c")
                        .arg(source)
                        .arg("-o")
                        .arg(object));
                }
            });
        }
    });
    work.into_iter().map(|(_, object, _)| object).collect()
}

/// The symbol suffixes of the ISAs this machine runs.
fn suffixes() -> Vec<String> {
    KernelTable::available().iter().map(|table| table.isa().name().replace('-', "")).collect()
}

/// Names of the kernels the header declares, without an ISA.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(root().join("csrc/hqk.h")).unwrap();
    let names = header.match_indices("_##isa(").map(|(end, _)| {
        let start = header[..end].rfind(' ').unwrap() + 1;
        header[start..end].to_string()
    });
    names.collect()
}

#[test]
fn every_kernel_stays_inside_exact_buffers() {
    let folder = tempfile::tempdir().unwrap();
    if !has_sanitizers(folder.path()) {
        assert!(!required("sanitizers"), "HYBRIDQ_REQUIRE names sanitizers, and cc has none for this processor");
        return println!("SKIPPED: kernels did not run under sanitizers, cc has none for this processor");
    }
    let objects = compile(folder.path());
    let program = folder.path().join("harness");
    run(Command::new("cc")
        .args(SANITIZERS)
        .arg("-rdynamic")
        .args(&objects)
        .arg("-o")
        .arg(&program)
        .args(["-lm", "-ldl"]));
    let printed = run(Command::new(&program).args(suffixes()).env("ASAN_OPTIONS", "detect_leaks=1"));
    assert!(printed.contains("all kernels stayed inside their buffers"), "{printed}");

    // Nothing was left out: every kernel of the header, in every version the objects define.
    let ran: BTreeSet<&str> = printed.lines().filter_map(|line| line.strip_prefix("ran ")).collect();
    let symbols = run(Command::new("nm").arg("--defined-only").arg(&program));
    let defined: BTreeSet<&str> = symbols.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    let mut missing = Vec::new();
    for name in declared() {
        for isa in suffixes() {
            let symbol = format!("{name}_{isa}");
            if defined.contains(symbol.as_str()) && !ran.contains(symbol.as_str()) {
                missing.push(symbol);
            }
        }
    }
    assert!(missing.is_empty(), "tests/sanitized_kernels does not run {missing:?}");
    assert!(ran.len() >= declared().len(), "{} kernels ran of {}", ran.len(), declared().len());
}
