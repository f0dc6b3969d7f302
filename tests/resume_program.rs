//! The program killed at several moments, inside the writing of a checkpoint too: the resumed run's metrics equal those of
//! a run that never stopped, times excepted.
#![cfg(all(feature = "cli", unix))]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hybridq::models::{ModelConfig, preset};

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hybridq"));
    command.current_dir(folder).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

const FLAGS: [&str; 19] = [
    "train",
    "--data",
    "text.txt",
    "--model",
    "small.json",
    "--seq",
    "32",
    "--batch",
    "4",
    "--steps",
    "60",
    "--checkpoint-every",
    "5",
    "--eval-every",
    "20",
    "--eval-windows",
    "2",
    "--threads",
    "1",
];

fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..2000).map(|i| format!("{} bottles of beer on the wall\n", i * 7919 % 100)).collect();
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    let small = ModelConfig {
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        max_position_embeddings: 32,
        ..preset("tiny").unwrap()
    };
    std::fs::write(folder.path().join("small.json"), small.to_json()).unwrap();
    folder
}

fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "tokens_per_s");
        line
    };
    text.lines().map(line).collect()
}

/// Waits until `reached`, then kills the process at once. False if it ended before.
fn kill_when(mut child: Child, mut reached: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if reached() {
            child.kill().unwrap(); // SIGKILL
            child.wait().unwrap();
            return true;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "the moment to kill at never came");
        std::thread::yield_now();
    }
}

fn whole(folder: &Path) -> Vec<serde_json::Value> {
    let output = program(folder, &[&FLAGS[..], &["--out", "whole"]].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    metrics(&folder.join("whole"))
}

fn resume(folder: &Path, out: &str) {
    let resumed = program(folder, &[&FLAGS[..], &["--out", out, "--resume"]].concat()).output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
}

#[test]
fn killed_runs_go_on_exactly() {
    let folder = prepared();
    let whole = whole(folder.path());
    assert_eq!(whole.len(), 63);
    for lines in [0, 1, 4, 17, 33, 52] {
        let out = format!("killed-{lines}");
        let run = folder.path().join(&out);
        let child = program(folder.path(), &[&FLAGS[..], &["--out", &out]].concat()).spawn().unwrap();
        let log = run.join("metrics.jsonl");
        let written = || std::fs::read(&log).is_ok_and(|text| text.iter().filter(|&&b| b == b'\n').count() >= lines);
        kill_when(child, written);
        resume(folder.path(), &out);
        assert_eq!(metrics(&run), whole, "killed after {lines} lines");
        // As after a kill between the last checkpoint and the end.
        resume(folder.path(), &out);
        assert_eq!(metrics(&run), whole, "resumed once more after its end");
    }
}

#[test]
fn killed_inside_a_checkpoint_write() {
    let folder = prepared();
    let whole = whole(folder.path());
    let mut inside = 0;
    for attempt in 0..5 {
        let out = format!("killed-{attempt}");
        let run = folder.path().join(&out);
        let child = program(folder.path(), &[&FLAGS[..], &["--out", &out]].concat()).spawn().unwrap();
        // A temporary file is there only while a checkpoint is written. Each attempt waits for a later one.
        let checkpoints = run.join("checkpoints");
        let names = || -> Vec<String> {
            let entries = std::fs::read_dir(&checkpoints).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let writing = || {
            let names = names();
            let done = names.iter().filter(|name| name.ends_with(".safetensors")).count();
            names.iter().any(|name| name.ends_with(".tmp")) && done >= attempt.min(2)
        };
        kill_when(child, writing);
        inside += usize::from(names().iter().any(|name| name.ends_with(".tmp")));
        resume(folder.path(), &out);
        assert!(!names().iter().any(|name| name.ends_with(".tmp")), "what was left half-written is removed");
        assert_eq!(metrics(&run), whole, "attempt {attempt}");
    }
    println!("{inside} of 5 kills hit the writing itself");
}

#[test]
fn an_interrupt_leaves_a_checkpoint_and_code_130() {
    let folder = prepared();
    let long = [&FLAGS[..9], &["--steps", "100000", "--threads", "1", "--eval-windows", "2", "--out", "run"]].concat();
    let mut child = program(folder.path(), &long).spawn().unwrap();
    let log = folder.path().join("run/metrics.jsonl");
    let begin = Instant::now();
    while !std::fs::read(&log).is_ok_and(|text| text.len() > 1000) {
        assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(folder.path().join("run/checkpoints")).unwrap().count(), 1);
    assert!(folder.path().join("run/model/model.safetensors").is_file());
    assert!(folder.path().join("run/report.html").is_file());
}
