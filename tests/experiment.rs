//! `hybridq experiment`: the grid, resuming, failures as rows, the table's arithmetic, bad files.
#![cfg(all(feature = "cli", unix))]

use std::path::Path;
use std::process::{Command, Output};

use hybridq::models::{ModelConfig, preset};

fn hybridq(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hybridq")).current_dir(folder).args(arguments).output().unwrap()
}

const EXPERIMENT: &str = r#"
question = "Which rate"
baseline = "plain"
seeds = [0, 1]

[settings]
model = "small.json"
batch_size = 2
seq_length = 16
max_steps = 12
eval_interval = 4
eval_windows = 2
use_clustering = false
optimizer = "adamw"

[[arms]]
name = "plain"
grid = { base_learning_rate = [1e-3, 4e-3] }

[[arms]]
name = "spectral"
settings = { optimizer = "hybrid", trust_norm = "spectral" }
"#;

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    write("text.txt", &"The quick brown fox jumps over the lazy dog.\n".repeat(200));
    write("rates.toml", EXPERIMENT);
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

fn records(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("rates/results.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Without times, and in one order.
fn results(folder: &Path) -> Vec<String> {
    let line = |mut record: serde_json::Value| {
        record.as_object_mut().unwrap().remove("step_ms");
        record.to_string()
    };
    let mut lines: Vec<String> = records(folder).into_iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn a_grid_is_run_once_and_goes_on_where_it_stopped() {
    let folder = prepared();
    let arguments = ["experiment", "rates.toml", "--data", "text.txt", "--jobs", "2"];
    let output = hybridq(folder.path(), &arguments);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout} {}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("6 of 6 runs done"), "{stdout}");
    let whole = results(folder.path());
    assert_eq!(whole.len(), 6);
    for record in records(folder.path()) {
        assert_eq!(record["steps"], 12);
        assert_eq!(record["curve"].as_array().unwrap().len(), 3);
        assert_eq!(record["curve"][2][1], record["final_loss"]);
    }
    let table = std::fs::read_to_string(folder.path().join("rates/table.md")).unwrap();
    assert!(table.contains("| plain base_learning_rate=0.001 | 2 |") && table.contains("| spectral | 2 |"), "{table}");
    assert!(std::fs::read_to_string(folder.path().join("rates/curves.svg")).unwrap().contains("<svg"));
    assert!(!folder.path().join("rates/runs").exists());

    // Nothing is run twice.
    let output = hybridq(folder.path(), &arguments);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("begin"));

    // Two results and a line cut off in the middle: the others are run again and come to the same.
    let text = std::fs::read_to_string(folder.path().join("rates/results.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let cut = format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..20]);
    std::fs::write(folder.path().join("rates/results.jsonl"), cut).unwrap();
    let output = hybridq(folder.path(), &arguments);
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("begin").count(), 4);
    assert_eq!(results(folder.path()), whole);

    // Results of other settings are not mixed in.
    std::fs::write(folder.path().join("rates.toml"), EXPERIMENT.replace("max_steps = 12", "max_steps = 8")).unwrap();
    let output = hybridq(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("results of these settings"));
}

/// The steps to the target are interpolated between evaluations; the shares are of the baseline's best variant.
#[test]
fn the_table_says_what_the_results_say() {
    let folder = prepared();
    std::fs::create_dir(folder.path().join("rates")).unwrap();
    assert!(hybridq(folder.path(), &["experiment", "rates.toml", "--data", "text.txt"]).status.success());
    let edited: Vec<String> = records(folder.path())
        .into_iter()
        .map(|mut record| {
            let seed = record["seed"].as_f64().unwrap();
            let (curve, milliseconds) = match (record["arm"].as_str().unwrap(), record["variant"].as_str().unwrap()) {
                ("plain", "base_learning_rate=0.001") => ([4.0, 3.0 + seed, 1.9 + 0.2 * seed], 10.0),
                ("plain", _) => ([4.0, 4.0, 4.0], 10.0),
                _ => ([4.0, 1.0, 0.5 + 0.1 * seed], 15.0),
            };
            record["curve"] = serde_json::json!([[4, curve[0]], [8, curve[1]], [12, curve[2]]]);
            record["final_loss"] = curve[2].into();
            record["step_ms"] = milliseconds.into();
            if record["variant"] == "base_learning_rate=0.004" && seed == 1.0 {
                record["final_loss"] = serde_json::Value::Null;
                record["error"] = "loss NaN".into();
            }
            record.to_string() + "\n"
        })
        .collect();
    std::fs::write(folder.path().join("rates/results.jsonl"), edited.concat()).unwrap();
    assert!(hybridq(folder.path(), &["experiment", "rates.toml", "--data", "text.txt"]).status.success());
    let table = std::fs::read_to_string(folder.path().join("rates/table.md")).unwrap();
    assert!(table.contains("Target: 2.0000, the final loss of `plain base_learning_rate=0.001`"), "{table}");
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
        line.split('|').map(|cell| cell.trim().to_string()).collect()
    };
    // From 4 to 1 between steps 4 and 8: 2 is passed at 4 + 4 * 2/3 = 6.67.
    let spectral = row("spectral");
    assert_eq!(&spectral[3..5], ["0.5500", "0.0707"]);
    assert_eq!(&spectral[6..10], ["7", "0.56", "0.1", "0.83"]);
    let baseline = row("plain base_learning_rate=0.001");
    assert_eq!(&baseline[3..7], ["2.0000", "0.1414", "-", "-"], "one of two seeds reaches the mean");
    let failed = row("plain base_learning_rate=0.004");
    assert_eq!(&failed[2..4], ["2, 1 failed", "4.0000"]);
    assert!(table.lines().last().is_some());
}

/// Whatever a rate of 100 leads to, it is a row of the table.
#[test]
fn a_run_far_off_is_a_result() {
    let folder = prepared();
    let text = EXPERIMENT.replace("[1e-3, 4e-3]", "[1e-3, 100.0]").replace("seeds = [0, 1]", "seeds = [0]");
    let text = text.replace(
        "optimizer = \"adamw\"\n",
        "optimizer = \"adamw\"\nwarmup_steps = 0\nprecision = \"f32\"\ngradient_clip_norm = 0.0\n",
    );
    std::fs::write(folder.path().join("rates.toml"), text).unwrap();
    let output = hybridq(folder.path(), &["experiment", "rates.toml", "--data", "text.txt"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(results(folder.path()).len(), 3);
}

#[test]
fn bad_experiments_are_named() {
    let folder = prepared();
    let fails = |text: &str, expected: &str| {
        std::fs::write(folder.path().join("bad.toml"), text).unwrap();
        let output = hybridq(folder.path(), &["experiment", "bad.toml", "--data", "text.txt"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert!(!folder.path().join("bad/results.jsonl").exists());
    };
    fails("question = 3", "bad.toml: question: expected a string");
    fails("quest = \"x\"\narms = []", "bad.toml");
    fails(&EXPERIMENT.replace("baseline = \"plain\"", "baseline = \"none\""), "one of plain, spectral");
    fails(&EXPERIMENT.replace("seeds = [0, 1]", "seeds = []"), "seeds");
    fails(&EXPERIMENT.replace("name = \"spectral\"", "name = \"plain\""), "plain twice");
    fails(&EXPERIMENT.replace("[1e-3, 4e-3]", "[]"), "base_learning_rate: expected a list of values");
    fails(&EXPERIMENT.replace("[1e-3, 4e-3]", "[1e-3, -1.0]"), "plain base_learning_rate=-1");
    fails(&EXPERIMENT.replace("trust_norm = \"spectral\"", "trust_norm = \"cubic\""), "spectral");
    fails(&EXPERIMENT.replace("small.json", "missing.json"), "missing.json");
    let missing = hybridq(folder.path(), &["experiment", "none.toml"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none.toml"));
    let without_data = hybridq(folder.path(), &["experiment", "rates.toml"]);
    assert_eq!(without_data.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&without_data.stderr).contains("--data"));
}
