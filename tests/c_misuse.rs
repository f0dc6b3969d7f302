//! Calls every function of the header wrongly, one argument at a time: NULL, sizes of zero and beyond memory, numbers that
//! are no constants, handles of another type, text that is not UTF-8, misaligned arrays, structs of impossible sizes. The
//! program is generated from the header, so a new function is tested as soon as it is declared. A wrong call gives a status
//! and a message; it never crashes, reads past the end, or counts as a defect of the library; nor do sequences of calls drawn
//! at random (`HYBRIDQ_FUZZ_CALLS=1000000` for a long run).

mod c_library;

use std::fmt::Write;

use c_library::header::{Function, Header};
use c_library::{Program, SANITIZERS, has, run};

/// Parameters that are one of some constants.
const ENUMERATED: [&str; 6] = ["precision", "granularity", "strategy", "kind", "format", "head"];

/// Sizes and texts of the calls that are right but for one argument, where the names' usual values do not fit.
fn value_of(function: &str, name: &str) -> Option<&'static str> {
    Some(match (function, name) {
        ("hq_parameter_clustering_quantize" | "hq_parameter_clustering_fit", "count") => "4",
        ("hq_codes_pack" | "hq_codes_unpack", "bytes_len") => "1",
        ("hq_optimizer_step_arrays" | "hq_parameters_new", "count") => "1",
        ("hq_dispatch_choose", "operation") => "\"norm\"",
        ("hq_dispatch_configure", "toml") => "\"direct_tokens = 3\"",
        ("hq_dispatch_calibrate", "progress") => "stop_at_once",
        ("hq_five_level_pack" | "hq_five_level_pack_levels" | "hq_five_level_unpack", "packed_len") => "384",
        (name, "format") if name.starts_with("hq_gguf_") => "HQ_GGUF_TQ2_0",
        (name, "count") if name.starts_with("hq_gguf_") => "256",
        (name, "bytes_len") if name.starts_with("hq_gguf_") => "66",
        ("hq_model_load", "path") | ("hq_export_model" | "hq_import_model", "from") => "\"model\"",
        ("hq_export_model", "to") | ("hq_import_model", "out_folder") => "new_folder()",
        ("hq_decoder_new", "capacity") => "8",
        ("hq_decoder_read", "length") => "1",
        ("hq_model_get_weights" | "hq_model_set_weights", "len") => "256 * 32",
        ("hq_optimizer_new", "config_json") => "\"{}\"",
        ("hq_trainer_new_with_batches", "config_json") => "batches_json",
        ("hq_auxiliary_from_json", "json") => "network_json",
        ("hq_model_attention" | "hq_model_with_head" | "hq_model_label", "model") => "live_encoder",
        ("hq_model_with_head", "head") => "HQ_HEAD_REGRESSION",
        ("hq_model_with_head", "labels") => "some_labels",
        ("hq_model_label", "label") => "0",
        ("hq_model_predict", "outputs_len") => "512",
        ("hq_model_step", "state") => "NULL",
        ("hq_model_translate" | "hq_decoder_set_source", "model") => "live_seq2seq",
        ("hq_decoder_set_source", "decoder") => "live_seq2seq_decoder",
        ("hq_decoder_set_source", "lengths") => "NULL",
        ("hq_inspect", "path") => "\"one.safetensors\"",
        ("hq_embed_windows", "token_count") => "64",
        _ => return None,
    })
}

fn default_size(name: &str) -> &'static str {
    match name {
        "packed_len" => "256",
        "scale_count" | "clusters" | "sequences" | "m" | "n" | "k" => "1",
        "logits_len" | "vocabulary" => "256",
        "capacity" => "4096",
        "len" => "4",
        "index" | "cluster" => "0",
        _ => "2",
    }
}

fn default_text(name: &str) -> &'static str {
    match name {
        "config_json" => "trainer_json",
        "description" => "model_json",
        "data" => "\"text.txt\"",
        "path" => "\"state.safetensors\"",
        "folder" => "\"out\"",
        "name" => "\"w\"",
        _ => "\"a\"",
    }
}

/// A right value for a parameter; `slot` is the number of a buffer of its own.
fn right(header: &Header, function: &str, kind: &str, name: &str, slot: usize) -> String {
    if let Some(value) = value_of(function, name) {
        return value.into();
    }
    let bare = kind.trim_start_matches("const ").trim_end_matches(['*', ' ']).trim();
    let pointers = kind.matches('*').count();
    match (bare, pointers) {
        ("char", 1) if kind.starts_with("const") => default_text(name).into(),
        ("void", 1) => "NULL".into(),
        ("size_t", 0) => default_size(name).into(),
        ("float" | "double", 0) => match name {
            "mean_bits" => "2.0".into(),
            "max_bits" => "8.0".into(),
            "rate" => "0.5f".into(),
            _ => "1.0f".into(),
        },
        ("bool", 0) => "false".into(),
        (_, 0) if bare.ends_with("_callback") => format!("a_{bare}"),
        (_, 0) => "0".into(),
        (_, 1) if header.is_opaque(bare) => format!("live_{bare}"),
        (_, 2) if header.is_opaque(bare) => format!("&fresh_{bare}"),
        (_, 1) if bare.starts_with("hq_") => format!("right_{bare}()"),
        (_, 2) if kind.contains("*const") => format!("({kind})arrays"),
        _ => format!("({kind})buffer({slot}, {})", i32::from(["float", "double"].contains(&bare))),
    }
}

/// Wrong values for a parameter, each with whether the call must fail.
fn wrong(header: &Header, function: &Function, kind: &str, name: &str, right: &str) -> Vec<(String, bool)> {
    let bare = kind.trim_start_matches("const ").trim_end_matches(['*', ' ']).trim();
    let optional = function
        .comment
        .split(['.', ';'])
        .any(|sentence| sentence.contains(&format!("`{name}`")) && sentence.contains("NULL"))
        || (function.comment.contains("may be NULL") && function.comment.contains("Either pointer"));
    let pointer = kind.contains('*');
    let mut values = Vec::new();
    if pointer && bare != "void" {
        values.push(("NULL".into(), !optional));
    }
    // Without a callback that stops it, calibration takes half a minute.
    if bare.ends_with("_callback") && function.name != "hq_dispatch_calibrate" {
        values.push(("NULL".into(), !optional && !function.comment.contains("NULL: no")));
    }
    if !pointer {
        let extremes: &[&str] = match bare {
            "size_t" => &["0", "SIZE_MAX", "SIZE_MAX / 2 + 1"],
            "uint32_t" => &["4294967295u", "1000"],
            "uint64_t" => &["UINT64_MAX"],
            "float" | "double" => &["NAN", "INFINITY", "-1.0f", "0.0f"],
            "int32_t" => &["-1"],
            _ => &[],
        };
        values.extend(extremes.iter().map(|text| (text.to_string(), ENUMERATED.contains(&name))));
        if name.ends_with("_len") || name == "scale_count" {
            values.push((format!("{right} + 5"), true));
        }
    } else if bare == "char" && kind.starts_with("const") {
        values.push(("\"\\xff\\xfe\"".into(), true));
        values.push(("\"\"".into(), false));
        values.push(("\"{\\\"a\\\": [[[[[[[[[1\"".into(), false));
    } else if header.is_opaque(bare) && !kind.contains("**") {
        let other = if bare == "hq_kmeans" { "live_hq_context" } else { "live_hq_kmeans" };
        values.push((format!("({kind})(void *)(uintptr_t){other}"), true));
    } else if right.starts_with("right_") {
        for size in ["0", "3", "5000", "4294967295u"] {
            values.push((format!("({kind})with_size({right}, {size})"), true));
        }
        if kind.starts_with("const") {
            values.push((format!("({kind})with_tail({right})"), true));
        }
        let fields = &header.structs.iter().find(|known| known.name == bare).unwrap().fields;
        for (kind_of_field, field) in fields.iter().filter(|(_, field)| field != "struct_size") {
            let all = if kind_of_field.contains('*') || kind_of_field.ends_with("_callback") { 0 } else { 255 };
            values.push((format!("({kind})with_field({right}, offsetof({bare}, {field}), {all})"), false));
        }
    } else if right.starts_with(&format!("({kind})buffer")) && !["int8_t", "uint8_t", "char", "bool"].contains(&bare) {
        values.push((format!("({kind})(void *)((uintptr_t){right} + 1)"), true));
    }
    values
}

/// One line of C: the call, and what must hold after it.
fn call(header: &Header, function: &Function, arguments: &[String], must_fail: bool, what: &str) -> String {
    let name = &function.name;
    let list = arguments.join(", ");
    let mut line = String::new();
    if function.result.trim() == "hq_status" {
        let what = what.replace('\\', "\\\\").replace('"', "\\\"");
        write!(line, "    after(\"{name}\", {name}({list}), {}, \"{what}\");", i32::from(must_fail)).unwrap();
    } else {
        let void = if function.result.trim() == "void" { "" } else { "(void)" };
        write!(line, "    {void}{name}({list});").unwrap();
    }
    for (kind, _) in &function.parameters {
        let bare = kind.trim_end_matches(['*', ' ']);
        if kind.matches('*').count() == 2 && header.is_opaque(bare) {
            let free =
                header.functions.iter().find(|f| f.name.ends_with("_free") && f.parameters[0].0.starts_with(bare));
            write!(line, " {}(fresh_{bare}), fresh_{bare} = NULL;", free.unwrap().name).unwrap();
        }
    }
    line + "\n"
}

fn program(header: &Header) -> String {
    let mut text = String::from("#include \"misuse.h\"\n\n");
    let mut calls = 0;
    let mut add = |line: String| {
        write!(text, "static void call_{calls}(void) {{\n{line}}}\n").unwrap();
        calls += 1;
    };
    for function in &header.functions {
        let usual: Vec<String> = function
            .parameters
            .iter()
            .enumerate()
            .map(|(slot, (kind, name))| right(header, &function.name, kind, name, slot))
            .collect();
        let frees = function.name.ends_with("_free");
        if !frees {
            add(call(header, function, &usual, false, "as it should be"));
        }
        for (at, (kind, name)) in function.parameters.iter().enumerate() {
            for (value, must_fail) in wrong(header, function, kind, name, &usual[at]) {
                let mut arguments = usual.clone();
                let what = format!("{name} = {value}");
                arguments[at] = value;
                add(call(header, function, &arguments, must_fail && !frees, &what));
            }
        }
    }
    text += "\nstatic void (*const all[])(void) = {";
    for number in 0..calls {
        write!(text, "{}call_{number},", if number % 8 == 0 { "\n    " } else { " " }).unwrap();
    }
    text + "\n};\n\nint main(int argc, char **argv) {\n    return misuse(all, sizeof all / sizeof all[0], argc, argv);\n}\n"
}

#[test]
fn every_wrong_argument_is_an_error_and_nothing_else() {
    if !has("cc", "cc", "every_wrong_argument_is_an_error_and_nothing_else") {
        return;
    }
    let header = Header::read();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("misuse.c");
    std::fs::write(&source, program(&header)).unwrap();
    for flags in [&["-std=c11", "-O0"][..], &["-std=c11", "-O0", SANITIZERS[0], SANITIZERS[1]]] {
        let program = Program::compile("cc", flags, &source);
        let text = "the quick brown fox jumps over the lazy dog\n".repeat(30);
        std::fs::write(program.folder.path().join("text.txt"), text).unwrap();
        // First every call in order, then so many at random: whatever came before, no call may crash.
        let sequence = std::env::var("HYBRIDQ_FUZZ_CALLS").unwrap_or("5000".into());
        let printed = run(program.command().arg(sequence).arg("1"));
        println!("{printed}");
        assert!(printed.contains("wrong calls"), "{printed}");
    }
}
