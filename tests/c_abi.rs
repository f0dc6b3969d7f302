//! The binary interface is the recorded one: exported symbols, prototypes, sizes and offsets of structs, values of constants
//! (tests/c_api/abi.txt; `HYBRIDQ_BLESS=1` rewrites it), and the shared library holds no more than it should.

mod c_library;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;

use c_library::header::Header;
use c_library::{Program, has, library_folder, root, run};

/// The C program that prints what only a compiler knows.
fn layout_program(header: &Header) -> String {
    let mut text = String::from("#include <hybridq.h>\n#include <stdio.h>\n\nint main(void) {\n");
    for one in &header.structs {
        let name = &one.name;
        writeln!(text, "    printf(\"struct {name}: %zu bytes\\n\", sizeof({name}));").unwrap();
        for (kind, field) in &one.fields {
            writeln!(
                text,
                "    printf(\"  %zu %s {field}: %zu bytes\\n\", offsetof({name}, {field}), \"{kind}\", sizeof((({name} *)0)->{field}));"
            )
            .unwrap();
        }
    }
    for (name, _) in &header.constants {
        writeln!(text, "    printf(\"{name} = %lld\\n\", (long long){name});").unwrap();
    }
    text + "    return 0;\n}\n"
}

#[test]
fn abi_is_the_recorded_one() {
    if !has("cc", "cc", "abi_is_the_recorded_one") {
        return;
    }
    let header = Header::read();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout.c");
    std::fs::write(&source, layout_program(&header)).unwrap();
    let mut found = String::from("Sizes and offsets of 64-bit systems.\n\n");
    for function in &header.functions {
        let types: Vec<&str> = function.parameters.iter().map(|(kind, _)| kind.as_str()).collect();
        writeln!(found, "{} {}({})", function.result.trim(), function.name, types.join(", ")).unwrap();
    }
    found += "\n";
    found += &run(&mut Program::compile("cc", &["-std=c11"], &source).command());
    if cfg!(target_pointer_width = "64") {
        compare(&found);
    }
}

fn compare(found: &str) {
    let path = root().join("tests/c_api/abi.txt");
    if std::env::var_os("HYBRIDQ_BLESS").is_some() {
        return std::fs::write(path, found).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (recorded.lines().collect(), found.lines().collect());
    let gone: Vec<&&str> = old.difference(&new).collect();
    let added: Vec<&&str> = new.difference(&old).collect();
    assert!(
        recorded == found,
        "the C ABI changed. Gone: {gone:#?}\nNew: {added:#?}\nWhat is gone breaks programs: raise HYBRIDQ_ABI_VERSION. Note it \
         in CHANGELOG.md, then `HYBRIDQ_BLESS=1 cargo test --release --test c_abi`"
    );
}

#[test]
fn the_library_exports_the_header_and_nothing_else() {
    if !has("nm", "cc", "the_library_exports_the_header_and_nothing_else") {
        return;
    }
    let library = library_folder().join("libhybridq.so");
    let symbols = run(Command::new("nm").args(["--dynamic", "--defined-only", "--format=posix"]).arg(library));
    let exported: BTreeSet<&str> = symbols.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let header = Header::read();
    let declared: BTreeSet<&str> = header.functions.iter().map(|function| function.name.as_str()).collect();
    let surplus: Vec<&&str> = exported.difference(&declared).collect();
    let missing: Vec<&&str> = declared.difference(&exported).collect();
    assert!(surplus.is_empty() && missing.is_empty(), "not declared: {surplus:?}\nnot exported: {missing:?}");
    println!("{} functions exported", exported.len());
}

#[test]
fn the_library_is_small_and_free_of_the_program() {
    if !(has("strip", "cc", "size of the library") && has("nm", "cc", "contents of the library")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (library, stripped) = (library_folder().join("libhybridq.so"), folder.path().join("stripped.so"));
    run(Command::new("strip").arg("-o").arg(&stripped).arg(&library));
    let bytes = std::fs::metadata(&stripped).unwrap().len();
    println!("libhybridq.so, stripped: {bytes} bytes");
    assert!(bytes < 8_000_000, "{bytes} bytes");
    let symbols = run(Command::new("nm").arg(library));
    let mut programs = vec!["clap_builder", "clap_lex", "indicatif", "tracing_subscriber", "ctrlc"];
    if !cfg!(feature = "cli") {
        programs.push("plotters");
    }
    for name in programs {
        assert!(!symbols.contains(name), "{name} is part of the program, not of the library");
    }
}
