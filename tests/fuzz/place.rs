//! What fuzz targets share: where they put the bytes they were given (readers take paths), and how panics end.

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

/// Lets a panic that the crate catches go on: libFuzzer's hook ends the process at every one. Others still end it, because
/// none may leave a target.
pub fn allow_caught_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| drop(std::panic::take_hook()));
}
