//! Replacing a file in one step: a reader, or a machine that loses power, sees the old content or the new.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Temporary files are named `.hybridq-XXXXXX.tmp`.
const PREFIX: &str = ".hybridq-";
const SUFFIX: &str = ".tmp";

/// Bytes collected before they are handed to the system.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes the file `path` through `write`: into a temporary file in the same folder, which is synced to the disk and then
/// renamed to `path`; then the folder is synced. Gives what `write` gave.
///
/// On any error (a full disk, say) the old file, if there was one, is untouched and no temporary file is left. A process
/// killed inside leaves a temporary file behind: [`remove_unfinished`] clears it away.
///
/// Errors: the system's, naming `path`; whatever `write` returns as [`Error`].
pub fn atomic_write<T>(path: impl AsRef<Path>, write: impl FnOnce(&mut AtomicWriter<'_>) -> Result<T>) -> Result<T> {
    let path = path.as_ref();
    let fail = |error| Error::io(path, error);
    let folder = folder_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as for any new file
    // tempfile removes the file when the handle goes: every early return below leaves nothing behind.
    let temporary = builder.tempfile_in(folder).map_err(fail)?;
    let value = {
        let mut writer = AtomicWriter { path, inner: BufWriter::with_capacity(BUFFER_BYTES, temporary.as_file()) };
        let value = write(&mut writer)?;
        writer.inner.flush().map_err(fail)?;
        value
    };
    temporary.as_file().sync_all().map_err(fail)?;
    temporary.persist(path).map_err(|error| fail(error.error))?;
    sync_folder(folder).map_err(|error| Error::io(folder, error))?;
    Ok(value)
}

/// What [`atomic_write`] hands out. Its errors already name the file.
#[derive(Debug)]
pub struct AtomicWriter<'a> {
    path: &'a Path,
    inner: BufWriter<&'a File>,
}

impl AtomicWriter<'_> {
    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(|error| Error::io(self.path, error))
    }
}

/// Removes the temporary files that killed processes left in `folder`, and gives their number. Only for a folder that no
/// other process writes to.
pub fn remove_unfinished(folder: impl AsRef<Path>) -> Result<usize> {
    let folder = folder.as_ref();
    let mut removed = 0;
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
        let entry = entry.map_err(|error| Error::io(folder, error))?;
        let name = entry.file_name();
        let unfinished = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if unfinished {
            std::fs::remove_file(entry.path()).map_err(|error| Error::io(entry.path(), error))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The folder a path lies in: `.` for a bare file name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != PathBuf::new() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Windows offers no sync of a folder; its rename is written through with the file's metadata.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}
