//! Read-only files in memory, paged in as they are read.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use crate::{Error, Result};

/// A whole file as a byte slice. Opening costs no reading and no memory; pages come from the disk at first use.
///
/// The file must not be cut short while it is mapped (the system would end the process with SIGBUS). Files of this
/// crate never are: [`super::atomic_write`] replaces a file, it does not change it.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl MappedFile {
    /// Maps the regular file at `path`. Errors name the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let metadata = file.metadata().map_err(|error| Error::io(path, error))?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a folder" } else { "something else" };
            return Err(Error::format(path, None, format!("expected a file, found {found}")));
        }
        // SAFETY: the map is read-only and private to this struct, and it is handed out only as `&[u8]`, for which
        // every bit pattern is valid. That no other process writes to or cuts the file meanwhile is this type's
        // documented demand; nothing in this process does, because files are replaced by rename.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| Error::io(path, error))?;
        Ok(MappedFile { path: path.to_path_buf(), map })
    }

    /// Where the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the system that these bytes need not stay in memory; they are read from the file again when asked for.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.map.len() {
            // SAFETY: the pages of a read-only map of a file hold nothing of their own: dropped ones come back with the
            // same content. A failed hint changes nothing.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
