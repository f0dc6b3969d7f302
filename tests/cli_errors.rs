//! Bad input to the program: exit code 1 or 2 and one line on stderr that names the flag, file or tensor; nothing lost.
#![cfg(feature = "cli")]

use std::path::Path;
use std::process::{Command, Output};

use hybridq::models::{ModelConfig, preset};

/// Runs the program in `folder`.
fn hybridq(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hybridq")).current_dir(folder).args(arguments).output().unwrap()
}

/// The program fails with `code` and one line that contains `expected`.
fn fails(folder: &Path, arguments: &[&str], code: i32, expected: &str) {
    let output = hybridq(folder, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().filter(|line| !line.contains("WARN")).count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
}

/// A folder with a text, a small model and what else the cases need.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    write("text.txt", &"The quick brown fox jumps over the lazy dog.\n".repeat(200));
    write("other.txt", &"Some other text, about as long as the first.\n".repeat(200));
    write("empty.txt", "");
    write("short.txt", "too short");
    write("unknown.toml", "learning_rate = 0.1\n");
    write("negative.toml", "batch_size = -4\n");
    write("zero.toml", "eval_interval = 0\n");
    write("nan.toml", "base_learning_rate = nan\n");
    write("variant.toml", "max_steps = 3\nnewton_schulz_precision = \"bf16\"\n");
    write("not.toml", "what is = = this");
    write("bad.json", "{\"model_type\": \"bitnet\"}");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    std::fs::write(folder.path().join("folder/image.bin"), [0u8, 1, 2, 0]).unwrap();
    let small = ModelConfig {
        hidden_size: 32,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        max_position_embeddings: 32,
        ..preset("tiny").unwrap()
    };
    write("small.json", &small.to_json());
    folder
}

const TRAIN: [&str; 13] = [
    "train",
    "--data",
    "text.txt",
    "--model",
    "small.json",
    "--seq",
    "16",
    "--batch",
    "2",
    "--steps",
    "4",
    "--eval-windows",
    "2",
];

/// `train` with the small model and more flags.
fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TRAIN[..], more].concat()
}

#[test]
fn more_clusters_than_windows_are_cut_with_a_warning_and_one_will_do() {
    let folder = prepared();
    for features in ["data", "random"] {
        let toml = format!("use_clustering = true\ndata_clusters = 60000\ncluster_features = \"{features}\"\n");
        std::fs::write(folder.path().join("many.toml"), toml).unwrap();
        let output = hybridq(folder.path(), &with(&["--config", "many.toml"]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let warnings: Vec<&str> =
            stderr.lines().filter(|line| line.contains("data_clusters: 60000 clusters for")).collect();
        assert_eq!(warnings.len(), 1, "{stderr}");
    }
    std::fs::write(folder.path().join("one.toml"), "use_clustering = true\ndata_clusters = 1\n").unwrap();
    let output = hybridq(folder.path(), &with(&["--config", "one.toml"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn wrong_data() {
    let folder = prepared();
    let data = |name: &'static str| ["train", "--data", name, "--model", "small.json", "--seq", "16"];
    fails(folder.path(), &data("missing.txt"), 1, "missing.txt");
    fails(folder.path(), &data("empty.txt"), 1, "empty.txt: empty file");
    fails(folder.path(), &data("short.txt"), 1, "short.txt: too short");
    fails(folder.path(), &data("folder"), 1, "folder: folder without text");
    fails(folder.path(), &["train"], 2, "--data");
    fails(folder.path(), &with(&["--val", "missing.txt"]), 1, "missing.txt");
    assert!(!folder.path().join("runs").exists(), "a run that cannot begin leaves no folder");
}

#[test]
fn wrong_numbers_in_flags_and_toml() {
    let folder = prepared();
    for (flag, value) in [
        ("--lr", "nan"),
        ("--lr", "inf"),
        ("--lr", "0"),
        ("--lr", "-1"),
        ("--lr", "1e30"),
        ("--lr", "fast"),
        ("--steps", "0"),
        ("--steps", "-1"),
        ("--steps", "99999999999999999999999"),
        ("--steps", "18446744073709551615"),
        ("--steps", "1.5"),
        ("--epochs", "nan"),
        ("--epochs", "0"),
        ("--batch", "0"),
        ("--batch", "1000000000000"),
        ("--seq", "0"),
        ("--seq", "-16"),
        ("--seq", "33"),
        ("--grad-accum", "0"),
        ("--seed", "-1"),
        ("--threads", "0"),
        ("--threads", "99999"),
        ("--device", "cuda:0"),
        ("--precision", "3bit"),
        ("--optimizer", "lion"),
        ("--checkpoint-every", "0"),
        ("--eval-every", "0"),
        ("--eval-windows", "0"),
        ("--time-limit", "0"),
        ("--time-limit", "nan"),
        ("--model", "huge"),
    ] {
        // A flag given twice is an error of its own, so each case builds its command line.
        let mut arguments: Vec<&str> = vec!["train", "--data", "text.txt"];
        for pair in TRAIN[3..].chunks(2).filter(|pair| pair[0] != flag && !(flag == "--epochs" && pair[0] == "--steps"))
        {
            arguments.extend(pair);
        }
        arguments.extend([flag, value]);
        fails(folder.path(), &arguments, 2, flag);
    }
    fails(folder.path(), &with(&["--config", "missing.toml"]), 1, "missing.toml");
    fails(folder.path(), &with(&["--config", "unknown.toml"]), 2, "unknown.toml: learning_rate: expected one of");
    fails(folder.path(), &with(&["--config", "negative.toml"]), 2, "negative.toml: batch_size: expected");
    let variant = "variant.toml: newton_schulz_precision: expected `f32` or `int8`, found unknown variant `bf16`";
    fails(folder.path(), &with(&["--config", "variant.toml"]), 2, variant);
    fails(folder.path(), &with(&["--config", "not.toml"]), 1, "not.toml at byte");
    fails(folder.path(), &with(&["--config", "zero.toml"]), 2, "eval_interval (--eval-every)");
    fails(folder.path(), &["train", "--data", "text.txt", "--config", "nan.toml"], 2, "base_learning_rate (--lr)");
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn wrong_models_and_tokenizers() {
    let folder = prepared();
    fails(folder.path(), &["train", "--data", "text.txt", "--model", "bad.json"], 1, "bad.json");
    fails(folder.path(), &with(&["--init", "nowhere"]), 1, "nowhere");
    fails(folder.path(), &with(&["--init", "folder"]), 1, "folder: neither a run nor a model folder");
    fails(folder.path(), &with(&["--tokenizer", "missing.json"]), 1, "missing.json");
    fails(folder.path(), &with(&["--tokenizer", "small.json"]), 1, "small.json");
    fails(folder.path(), &["eval", "--model", "folder", "--data", "text.txt"], 1, "folder");
    fails(
        folder.path(),
        &["eval", "--model", "text.txt", "--data", "text.txt", "--eval-windows", "0"],
        2,
        "--eval-windows",
    );
    fails(folder.path(), &["generate", "--model", "nowhere", "--prompt", "x"], 1, "nowhere");
    fails(folder.path(), &["generate", "--model", "folder", "--prompt", "x", "--top-p", "0"], 2, "--top-p");
    fails(
        folder.path(),
        &["generate", "--model", "folder", "--prompt", "x", "--temperature", "nan"],
        2,
        "--temperature",
    );
    fails(folder.path(), &["inspect", "text.txt"], 1, "text.txt");
    fails(folder.path(), &["inspect", "missing"], 1, "missing");
}

#[test]
fn wrong_commands() {
    let folder = prepared();
    fails(folder.path(), &["dance"], 2, "dance");
    fails(folder.path(), &["train", "--dance"], 2, "--dance");
    fails(folder.path(), &["bench", "--suite", "all"], 2, "--suite");
    fails(folder.path(), &with(&["--resume"]), 2, "--resume");
}

#[test]
fn wrong_benchmarks() {
    let folder = prepared();
    fails(folder.path(), &["bench", "--suite", "all"], 2, "--suite");
    fails(folder.path(), &["bench", "--threads", "0"], 2, "--threads");
    fails(folder.path(), &["bench", "--threads", "1000000"], 2, "--threads");
    fails(folder.path(), &["bench", "--compare", "missing.jsonl"], 1, "missing.jsonl");
    for file in ["text.txt", "bad.json", "empty.txt", "folder/image.bin"] {
        fails(folder.path(), &["bench", "--compare", file], 1, "not a record");
        fails(folder.path(), &["bench", "--compare", file, file], 1, file);
    }
    fails(folder.path(), &["bench", "--compare", "folder"], 1, "folder");
    fails(folder.path(), &["bench", "--compare"], 2, "--compare");
}

#[test]
fn records_are_compared_without_measuring() {
    let folder = prepared();
    let line = |value: f64| {
        format!(
            "{{\"family\":\"pack\",\"shape\":\"1 M\",\"isa\":\"avx2\",\"threads\":2,\"median_ns\":5.0,\"value\":{value},\
             \"unit\":\"GB/s\",\"ceiling\":40.0,\"error\":0.0}}\n"
        )
    };
    std::fs::write(folder.path().join("a.jsonl"), format!("# a remark\n{}", line(10.0))).unwrap();
    std::fs::write(folder.path().join("b.jsonl"), line(15.0)).unwrap();
    let output = hybridq(folder.path(), &["bench", "--compare", "a.jsonl", "b.jsonl"]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && printed.contains(" 1.50 ") && printed.contains("25 %"), "{printed}");
}

#[test]
fn a_damaged_cache_of_the_dispatcher_costs_one_line() {
    let folder = prepared();
    for file in ["text.txt", "missing.toml", "folder", "folder/image.bin"] {
        let output = hybridq(folder.path(), &["info", "--dispatch-cache", file]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(0), 1), "{file}: {stderr}");
        assert!(stderr.contains("WARN") && stderr.contains(file) && stderr.contains("defaults"), "{stderr}");
    }
}

#[test]
fn folders_that_hold_a_run_or_cannot_be_written() {
    let folder = prepared();
    let begun = hybridq(folder.path(), &with(&["--out", "run"]));
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    let metrics = std::fs::read(folder.path().join("run/metrics.jsonl")).unwrap();
    fails(folder.path(), &with(&["--out", "run"]), 2, "--out");
    fails(folder.path(), &with(&["--out", "text.txt"]), 1, "text.txt");
    fails(folder.path(), &with(&["--out", "/proc/run"]), 1, "/proc/run");
    let resumed = |more: &[&'static str]| [&["train", "--out", "run", "--resume"], more].concat();
    fails(folder.path(), &resumed(&["--lr", "0.5"]), 2, "base_learning_rate");
    fails(folder.path(), &resumed(&["--model", "tiny"]), 2, "model");
    fails(folder.path(), &resumed(&["--data", "other.txt"]), 2, "data");
    fails(folder.path(), &resumed(&["--config", "unknown.toml"]), 2, "unknown.toml: learning_rate");
    std::fs::copy(folder.path().join("other.txt"), folder.path().join("text.txt")).unwrap();
    fails(folder.path(), &resumed(&[]), 2, "text.txt");
    assert_eq!(std::fs::read(folder.path().join("run/metrics.jsonl")).unwrap(), metrics, "nothing was lost");
}

#[test]
fn help_and_version_go_to_stdout() {
    let folder = prepared();
    for arguments in [&["--help"][..], &["train", "--help"], &["--version"]] {
        let output = hybridq(folder.path(), arguments);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
        assert!(!output.stdout.is_empty());
    }
    for arguments in [&["--help"][..], &["bench", "--help"], &["--version"], &["info"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader); // as `| head` does
        let output = Command::new(env!("CARGO_BIN_EXE_hybridq")).args(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
    let info: serde_json::Value = serde_json::from_slice(&hybridq(folder.path(), &["info", "--json"]).stdout).unwrap();
    assert!(info["isas_available"].as_array().unwrap().iter().any(|isa| isa == "portable"));
}
