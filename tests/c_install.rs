//! `hybridq install` into an empty prefix that is then moved; the examples built from there with pkg-config and with CMake,
//! dynamically and statically.
#![cfg(feature = "cli")]

mod c_library;

use std::path::{Path, PathBuf};
use std::process::Command;

use c_library::{WARNINGS, has, library_folder, root, run};

/// Installs into a folder and moves it; gives the place where it is now.
fn installed(folder: &Path, libdir: &str) -> PathBuf {
    let (first, moved) = (folder.join("first"), folder.join("moved to here"));
    let printed = run(Command::new(env!("CARGO_BIN_EXE_hybridq"))
        .args(["install", "--libdir", libdir, "--prefix"])
        .arg(&first)
        .arg("--from")
        .arg(library_folder()));
    assert!(printed.contains("pkg-config"), "{printed}");
    std::fs::rename(&first, &moved).unwrap();
    moved
}

fn link_target(path: &Path) -> String {
    std::fs::read_link(path).unwrap().display().to_string()
}

#[test]
fn installs_headers_libraries_and_package_files() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = installed(folder.path(), "lib/here");
    let lib = prefix.join("lib/here");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(link_target(&lib.join("libhybridq.so")), "libhybridq.so.0");
    assert_eq!(link_target(&lib.join("libhybridq.so.0")), format!("libhybridq.so.{version}"));
    for file in ["libhybridq.a", "pkgconfig/hybridq.pc", "cmake/hybridq/hybridqConfig.cmake"] {
        assert!(lib.join(file).is_file(), "{file}");
    }
    for header in ["hybridq.h", "hybridq.hpp", "hybridq_models.hpp"] {
        let of_tree = std::fs::read(root().join("include").join(header)).unwrap();
        assert_eq!(std::fs::read(prefix.join("include").join(header)).unwrap(), of_tree);
    }
    if has("readelf", "cc", "the SONAME") {
        let dynamic = run(Command::new("readelf").arg("-d").arg(lib.join("libhybridq.so")));
        assert!(dynamic.contains("Library soname: [libhybridq.so.0]"), "{dynamic}");
    }
    // Again over itself, as an update does.
    run(Command::new(env!("CARGO_BIN_EXE_hybridq"))
        .args(["install", "--prefix"])
        .arg(&prefix)
        .arg("--from")
        .arg(library_folder()));
}

#[test]
fn refuses_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], code: i32, text: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_hybridq"))
            .arg("install")
            .args(arguments)
            .current_dir(&folder)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && message.contains(text), "{output:?}");
    };
    refused(&["--prefix", "p", "--from", "."], 1, "libhybridq.a");
    refused(&["--prefix", "p", "--libdir", "/lib"], 2, "--libdir");
    refused(&["--prefix", "p", "--libdir", "../lib"], 2, "--libdir");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let from = library_folder();
    refused(&["--prefix", "file", "--from", from.to_str().unwrap()], 1, "file");
    assert!(!folder.path().join("p").exists());
}

#[test]
fn pkg_config_builds_the_examples() {
    if !(has("pkg-config", "pkg-config", "pkg_config_builds_the_examples") && has("cc", "cc", "pkg-config")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let prefix = installed(folder.path(), "lib");
    for package in ["hybridq", "hybridq-static"] {
        let flags = run(Command::new("pkg-config")
            .args(["--cflags", "--libs", package])
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
        let program = folder.path().join(package);
        // The shell takes pkg-config's quoting of the blanks in the path apart.
        let command = format!(
            "cc -std=c11 {} '{}' {flags} -lm -o '{}'",
            WARNINGS.join(" "),
            root().join("tests/c_api/multiply_packed.c").display(),
            program.display()
        );
        run(Command::new("sh").arg("-c").arg(command.replace('\n', " ")));
        let mut command = Command::new(&program);
        if package == "hybridq" {
            command.env("LD_LIBRARY_PATH", prefix.join("lib"));
        }
        assert!(run(&mut command).contains("weights in"), "{package}");
    }
}

/// The first fenced block of the README in `language` that contains `what`.
fn readme_block(language: &str, what: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let block = readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).find(|b| b.contains(what));
    block.unwrap_or_else(|| panic!("README.md has no {language} block with {what}")).to_owned()
}

#[test]
fn readme_program_builds_and_runs_as_printed() {
    if !(has("pkg-config", "pkg-config", "readme_program_builds_and_runs_as_printed") && has("cc", "cc", "README")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let prefix = installed(folder.path(), "lib");
    std::fs::write(folder.path().join("program.c"), readme_block("c", "hybridq.h")).unwrap();
    let commands = readme_block("sh", "program.c");
    let compile = commands.lines().find(|line| line.starts_with("cc ")).expect("a line that calls cc");
    // A prefix without blanks in it, as the README has.
    std::os::unix::fs::symlink(prefix, folder.path().join("prefix")).unwrap();
    let lib = folder.path().join("prefix/lib");
    let mut command = Command::new("sh");
    command.args(["-c", compile]).env("PKG_CONFIG_PATH", lib.join("pkgconfig")).env("LD_LIBRARY_PATH", &lib);
    let printed = run(command.current_dir(folder.path()));
    assert_eq!(printed, format!("hybridq {}: norm 5, clipped to (0.6, 0.8)\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn cmake_builds_the_examples() {
    if !(has("cmake", "cmake", "cmake_builds_the_examples") && has("cc", "cc", "cmake")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let prefix = installed(folder.path(), "lib");
    let source = root().join("tests/c_api");
    let project = format!(
        "cmake_minimum_required(VERSION 3.13)\nproject(examples C CXX)\n\
         find_package(hybridq 0.1 REQUIRED CONFIG)\n\
         if(NOT hybridq_VERSION VERSION_EQUAL \"{version}\")\n  message(FATAL_ERROR \"${{hybridq_VERSION}}\")\nendif()\n\
         set(CMAKE_CXX_STANDARD 17)\n\
         foreach(name multiply_packed cluster_points hybrid_optimizer)\n\
         \x20 foreach(kind hybridq hybridq_static)\n\
         \x20   add_executable(${{name}}_${{kind}} {source}/${{name}}.c)\n\
         \x20   target_link_libraries(${{name}}_${{kind}} hybridq::${{kind}} m)\n\
         \x20 endforeach()\nendforeach()\n\
         add_executable(train {source}/train.cpp)\ntarget_link_libraries(train hybridq::hybridq)\n",
        version = env!("CARGO_PKG_VERSION"),
        source = source.display(),
    );
    std::fs::write(folder.path().join("CMakeLists.txt"), project).unwrap();
    let build = folder.path().join("build");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
    run(Command::new("cmake").arg("-S").arg(folder.path()).arg("-B").arg(&build).arg(prefix_path));
    run(Command::new("cmake").arg("--build").arg(&build));
    for name in ["multiply_packed", "cluster_points", "hybrid_optimizer"] {
        for kind in ["hybridq", "hybridq_static"] {
            println!("{}", run(&mut Command::new(build.join(format!("{name}_{kind}")))));
        }
    }
    // A version that this is not.
    let text = std::fs::read_to_string(folder.path().join("CMakeLists.txt")).unwrap();
    for (wanted, found) in [("0.2", false), ("1.0", false), ("0.1.0", true), ("", true)] {
        std::fs::write(
            folder.path().join("CMakeLists.txt"),
            text.replace("hybridq 0.1 ", &format!("hybridq {wanted} ")),
        )
        .unwrap();
        let other = folder.path().join(format!("build-{wanted}"));
        let output = Command::new("cmake")
            .arg("-S")
            .arg(folder.path())
            .arg("-B")
            .arg(other)
            .arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display()))
            .output()
            .unwrap();
        assert_eq!(output.status.success(), found, "{wanted}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
