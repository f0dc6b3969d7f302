//! What the tests of the C library share: compilers, the built library, parsed prototypes of the header.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

pub mod header;

/// Whether `HYBRIDQ_REQUIRE` lists `what`: then its absence is a failure instead of a skip.
pub fn required(what: &str) -> bool {
    std::env::var("HYBRIDQ_REQUIRE").unwrap_or_default().split(',').any(|name| name == what)
}

/// Whether `program` runs; if not, says loudly that `test` is skipped.
pub fn has(program: &str, requirement: &str, test: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        assert!(!required(requirement), "HYBRIDQ_REQUIRE names {requirement}, and {program} was not found");
        println!("SKIPPED: {test}, {program} is not installed");
    }
    there
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder with the library this test was built with: `target/<profile>/deps`.
pub fn library_folder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

/// Runs a command and gives what it prints; panics with all output if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// The compiler's warnings that every C and C++ file of ours is free of.
pub const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Flags of a build under the address and undefined-behaviour sanitizers.
pub const SANITIZERS: [&str; 2] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

/// A folder with a compiled program in it and the library under the name that the program asks for.
pub struct Program {
    pub folder: tempfile::TempDir,
}

impl Program {
    /// Compiles `source` against include/ and the library of this build.
    pub fn compile(compiler: &str, flags: &[&str], source: &Path) -> Program {
        let folder = tempfile::tempdir().unwrap();
        let library = library_folder();
        run(Command::new(compiler)
            .args(WARNINGS)
            .args(["-O1", "-g"])
            .args(flags)
            .arg("-I")
            .arg(root().join("include"))
            .arg("-I")
            .arg(root().join("tests/c_api"))
            .arg(source)
            .arg("-o")
            .arg(folder.path().join("program"))
            .arg("-L")
            .arg(&library)
            .args(["-lhybridq", "-lm", "-lpthread"]));
        std::os::unix::fs::symlink(library.join("libhybridq.so"), folder.path().join("libhybridq.so.0")).unwrap();
        Program { folder }
    }

    /// The program with the library in its path, in its folder.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.folder.path().join("program"));
        command.current_dir(self.folder.path()).env("LD_LIBRARY_PATH", self.folder.path());
        command.env("ASAN_OPTIONS", "detect_leaks=1:allocator_may_return_null=1");
        command
    }
}
