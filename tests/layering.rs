//! The house rules that a compiler does not check: floors, where `unsafe` may stand, lengths of files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Floor of each top-level module of `src`; a file imports from lower floors only.
const FLOORS: &[(&str, u32)] = &[
    ("kernels", 1),
    ("gpu", 1),
    ("tensor", 2),
    ("dispatch", 2),
    ("quant", 3),
    ("cluster", 3),
    ("comm", 3),
    ("formats", 3),
    ("nn", 4),
    ("models", 5),
    ("optim", 5),
    ("data", 5),
    ("generate", 5),
    ("eval", 6),
    ("train", 7),
    ("capi", 8),
    ("bin", 8),
];

/// Imports within a floor that are meant: (who, whom). Models and optimizers never see each other.
const SAME_FLOOR: &[(&str, &str)] = &[
    ("gpu", "kernels"),
    ("dispatch", "tensor"),
    ("cluster", "quant"),
    ("generate", "models"),
    ("generate", "data"),
    ("bin", "capi"),
];

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &[
    "src/kernels/",
    "src/gpu/",
    "src/capi/",
    "src/comm/",
    "src/tensor/aligned_buffer.rs",
    "src/formats/mapped_file.rs",
];

const MAX_LINES: usize = 500;

fn files(root: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(root)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_string_lossy().replace('\\', "/")
}

/// Names after `crate::` (or `hybridq::` in the program) in the code of a file, comments left out.
fn imports(text: &str, root: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut names = Vec::new();
    for (start, _) in code.match_indices(root) {
        let before = code[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[start + root.len()..];
        let list = match rest.strip_prefix('{') {
            Some(inner) => top_level_items(inner),
            None => vec![rest],
        };
        for item in list {
            names.push(item.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

/// The items of `a::{..}, b, c::d}` up to the closing brace, split at commas outside inner braces.
fn top_level_items(inner: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0i32, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&inner[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn files_import_lower_floors_only() {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let mut faults = Vec::new();
    for path in files("src", &["rs"]) {
        let name = relative(&path);
        let Some((module, _)) = name["src/".len()..].split_once('/') else { continue };
        let floor = *floors.get(module).unwrap_or_else(|| panic!("{name}: module {module} has no floor"));
        let text = std::fs::read_to_string(&path).unwrap();
        for import in imports(&text, if module == "bin" { "hybridq::" } else { "crate::" }) {
            let Some(&other) = floors.get(import.as_str()) else { continue };
            let meant = SAME_FLOOR.contains(&(module, import.as_str()));
            if import != module && other >= floor && !meant {
                faults.push(format!("{name} (floor {floor}) imports {import} (floor {other})"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    let mut faults = Vec::new();
    for path in files("src", &["rs"]) {
        let name = relative(&path);
        let text = std::fs::read_to_string(&path).unwrap();
        if name == "src/kernels/bindings.rs" {
            continue;
        }
        let allowed = UNSAFE.iter().any(|place| name.starts_with(place));
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let has_block = code.contains("unsafe {") || code.contains("unsafe impl");
            if !allowed && (has_block || code.contains("unsafe fn")) {
                faults.push(format!("{name}:{}: unsafe has no place here", at + 1));
            }
            let reason = lines[at.saturating_sub(8)..at].iter().any(|line| line.contains("SAFETY"));
            if has_block && !reason {
                faults.push(format!("{name}:{}: unsafe block without a SAFETY reason above it", at + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_short_and_well_named() {
    let mut faults = Vec::new();
    for root in ["src", "csrc", "cuda", "tests", "bench"] {
        for path in files(root, &["rs", "c", "h", "cu", "cuh", "hpp", "cpp", "py", "sh"]) {
            let name = relative(&path);
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            if lines > MAX_LINES && name != "src/kernels/bindings.rs" {
                faults.push(format!("{name}: {lines} lines, {MAX_LINES} at most"));
            }
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            if ["util", "utils", "common", "misc", "helper", "helpers"].contains(&stem.as_str()) {
                faults.push(format!("{name}: the name does not tell what is in it"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
