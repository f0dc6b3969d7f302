//! Compiles the programs of tests/c_api against include/ and the library, and runs them: as C11 and C++17, and once more
//! under the address and undefined-behaviour sanitizers; and the Python program.

mod c_library;

use std::path::PathBuf;
use std::process::Command;

use c_library::{Program, SANITIZERS, WARNINGS, has, library_folder, required, root, run};

/// Compiles a program of tests/c_api, runs it in an empty folder with `arguments`, and gives what it prints.
fn build_and_run(compiler: &str, flags: &[&str], source: &str, arguments: &[&str]) -> Option<String> {
    if !has(compiler, "cc", source) {
        return None;
    }
    let program = Program::compile(compiler, flags, &root().join("tests/c_api").join(source));
    let printed = run(program.command().args(arguments));
    println!("{source}:\n{printed}");
    Some(printed)
}

/// Plainly, then under the sanitizers.
fn check(source: &str, arguments: &[&str]) {
    let (compiler, standard) = if source.ends_with(".cpp") { ("c++", "-std=c++17") } else { ("cc", "-std=c11") };
    build_and_run(compiler, &[standard], source, arguments);
    build_and_run(compiler, &[standard, SANITIZERS[0], SANITIZERS[1]], source, arguments);
}

fn a_text() -> String {
    root().join("src/error.rs").display().to_string()
}

#[test]
fn headers_compile_as_c_and_cpp() {
    let standards = [
        ("hybridq.h", "c", ["c99", "c11", "c17"]),
        ("hybridq.h", "c++", ["c++11", "c++17", "c++20"]),
        ("hybridq.hpp", "c++", ["c++17", "c++20", "c++17"]),
        ("hybridq_models.hpp", "c++", ["c++17", "c++20", "c++17"]),
    ];
    for compiler in ["cc", "clang"] {
        if !has(compiler, if compiler == "cc" { "cc" } else { "clang" }, "headers_compile_as_c_and_cpp") {
            continue;
        }
        for (header, language, standards) in standards {
            for standard in standards {
                let source = format!("#include <{header}>\n");
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("source");
                std::fs::write(&file, source).unwrap();
                run(Command::new(compiler)
                    .arg(format!("-std={standard}"))
                    .args(WARNINGS)
                    .args(["-fsyntax-only", "-I"])
                    .arg(root().join("include"))
                    .args(["-x", language])
                    .arg(file));
            }
        }
    }
}

#[test]
fn kernels_grids_clusters_and_struct_sizes() {
    check("kernels.c", &[]);
}

#[test]
fn packed_forms_follow_their_layouts() {
    check("packing.c", &[]);
}

#[test]
fn dispatcher_chooses_counts_and_advises() {
    check("dispatch.c", &[]);
}

#[test]
fn own_batches_own_loss_progress_and_cancellation() {
    check("callbacks.c", &[]);
}

#[test]
fn encoders_encoder_decoders_and_recurrent_models_from_c() {
    check("tasks.c", &[]);
}

#[test]
fn many_threads_one_library() {
    check("threads.c", &[]);
}

#[test]
fn example_multiplies_packed_weights() {
    check("multiply_packed.c", &[]);
}

#[test]
fn example_quantizes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, packed) = (folder.path().join("weights.f32"), folder.path().join("packed.bin"));
    let values: Vec<u8> = (0..300 * 40).flat_map(|i| ((i * 7919 % 1000) as f32 / 500.0 - 1.0).to_ne_bytes()).collect();
    std::fs::write(&weights, values).unwrap();
    check("quantize_file.c", &[weights.to_str().unwrap(), "300", "40", packed.to_str().unwrap()]);
    if packed.exists() {
        assert_eq!(std::fs::metadata(packed).unwrap().len(), 300 * 4 + 300 * 40 / 5);
    }
}

#[test]
fn example_clusters_points() {
    check("cluster_points.c", &[]);
}

#[test]
fn example_drives_the_hybrid_optimizer_and_beats_sgd() {
    check("hybrid_optimizer.c", &[]);
}

#[test]
fn example_trains_and_generates() {
    check("train_generate.c", &[&a_text()]);
}

#[test]
fn cpp_does_all_of_it() {
    check("train.cpp", &[&a_text()]);
}

/// A Python with NumPy: `HYBRIDQ_PYTHON`, or one of the usual.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("HYBRIDQ_PYTHON").map(PathBuf::from);
    let usual = ["python3", "/usr/bin/python3"].map(PathBuf::from);
    let works = |python: &PathBuf| {
        Command::new(python).args(["-c", "import numpy"]).output().is_ok_and(|output| output.status.success())
    };
    named.into_iter().chain(usual).find(works)
}

#[test]
fn python_quantizes_clusters_steps_and_trains() {
    let Some(python) = python() else {
        assert!(!required("numpy"), "HYBRIDQ_REQUIRE names numpy, and no Python with NumPy was found");
        println!("SKIPPED: from_python.py, there is no Python with NumPy");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let program = root().join("tests/c_api/from_python.py");
    let library = library_folder().join("libhybridq.so");
    println!("{}", run(Command::new(python).arg(program).arg(library).arg(a_text()).current_dir(folder.path())));
}
