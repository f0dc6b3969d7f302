//! Compiles the programs of tests/c_api against include/hybridq.h and the library, and runs them: as C11 and C++17,
//! and the C ones once more under the address and undefined-behaviour sanitizers.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether `HYBRIDQ_REQUIRE` lists `what`: then its absence is a failure instead of a skip.
fn required(what: &str) -> bool {
    std::env::var("HYBRIDQ_REQUIRE").unwrap_or_default().split(',').any(|name| name == what)
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The folder with the library this test was built with: `target/<profile>/deps`.
fn library_folder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Compiles `source`, runs it in an empty folder with `arguments`, and gives what it prints.
fn build_and_run(compiler: &str, flags: &[&str], source: &str, arguments: &[&Path]) -> Option<String> {
    if !has(compiler) {
        assert!(!required("cc"), "HYBRIDQ_REQUIRE names cc, and {compiler} was not found");
        println!("SKIPPED: {source} was not built, {compiler} is not installed");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let library = library_folder();
    run(Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g"])
        .args(flags)
        .arg("-I")
        .arg(root.join("include"))
        .arg(root.join("tests/c_api").join(source))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&library)
        .args(["-lhybridq", "-lm"])
        .arg(format!("-Wl,-rpath,{}", library.display())));
    // The library asks for its SONAME; the build folder holds the plain name.
    let soname = folder.path().join("libhybridq.so.0");
    std::os::unix::fs::symlink(library.join("libhybridq.so"), soname).unwrap();
    let mut program = Command::new(program);
    program.args(arguments).current_dir(folder.path()).env("LD_LIBRARY_PATH", folder.path());
    Some(run(program.env("ASAN_OPTIONS", "detect_leaks=1")))
}

fn sanitizer_flags(std: &str) -> Vec<&str> {
    vec![std, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
}

#[test]
fn header_compiles_as_c_and_cpp() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/hybridq.h");
    for (compiler, language, standards) in
        [("cc", "c", ["c99", "c11", "c17"]), ("c++", "c++", ["c++11", "c++17", "c++20"])]
    {
        if !has(compiler) {
            assert!(!required("cc"), "HYBRIDQ_REQUIRE names cc, and {compiler} was not found");
            println!("SKIPPED: the header was not checked, {compiler} is not installed");
            continue;
        }
        for standard in standards {
            run(Command::new(compiler)
                .arg(format!("-std={standard}"))
                .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x", language])
                .arg(&header));
        }
    }
}

/// The first fenced block of the README in `language` that contains `what`.
fn readme_block(language: &str, what: &str) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let block = readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).find(|b| b.contains(what));
    block.unwrap_or_else(|| panic!("README.md has no {language} block with {what}")).to_owned()
}

#[test]
fn readme_program_builds_and_runs_as_printed() {
    if !has("cc") {
        assert!(!required("cc"), "HYBRIDQ_REQUIRE names cc, and it was not found");
        println!("SKIPPED: the README's program was not built, cc is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, folder.path().join(to)).unwrap();
    std::fs::create_dir(folder.path().join("target")).unwrap();
    link(&library_folder(), "target/release");
    link(&Path::new(env!("CARGO_MANIFEST_DIR")).join("include"), "include");
    std::fs::write(folder.path().join("program.c"), readme_block("c", "hybridq.h")).unwrap();
    let commands = readme_block("sh", "program.c");
    let compile = commands.lines().find(|line| line.starts_with("cc ")).expect("a line that calls cc");
    run(Command::new("sh").args(["-c", compile]).current_dir(folder.path()));
    let printed = run(&mut Command::new(folder.path().join("program")));
    assert_eq!(printed, format!("hybridq {}: norm 5, clipped to (0.6, 0.8)\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn c11_program_uses_kernels_and_clusters() {
    if let Some(printed) = build_and_run("cc", &["-std=c11"], "kernels.c", &[]) {
        assert!(printed.contains("all checks passed"), "{printed}");
    }
}

#[test]
fn c11_program_is_clean_under_sanitizers() {
    if let Some(printed) = build_and_run("cc", &sanitizer_flags("-std=c11"), "kernels.c", &[]) {
        assert!(printed.contains("all checks passed"), "{printed}");
    }
}

#[test]
fn cpp17_program_trains_and_generates() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/error.rs");
    if let Some(printed) = build_and_run("c++", &["-std=c++17"], "train.cpp", &[&text]) {
        assert!(printed.contains("all checks passed"), "{printed}");
    }
}
