//! Where a fuzz target puts the bytes it was given: readers take paths.

use std::path::PathBuf;

/// A folder of this process, kept until it ends.
pub fn folder() -> &'static std::path::Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path()
}

/// A new file with these bytes (one that is mapped must not be cut short).
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("a temporary file");
    path
}
