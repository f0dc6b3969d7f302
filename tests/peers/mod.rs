//! What the scripts beside this file leave for the tests.

use std::path::PathBuf;

/// The folders with a file `mark` in the folder that `variable` names, which `script` fills; none, with a message, where it
/// names no folder. `HYBRIDQ_REQUIRE` may ask for `package`.
pub fn cases(variable: &str, script: &str, package: &str, mark: &str) -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os(variable).map(PathBuf::from) else {
        eprintln!("SKIPPED: parity: {variable} names no folder (see tests/peers/{script})");
        let required = std::env::var("HYBRIDQ_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == package));
        assert!(!required, "HYBRIDQ_REQUIRE asks for {package}");
        return Vec::new();
    };
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.join(mark).is_file());
    cases.sort();
    assert!(!cases.is_empty(), "{} holds no cases", folder.display());
    cases
}
