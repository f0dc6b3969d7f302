//! Text from a file or a folder.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Tokenizer;
use crate::{Error, Result};

/// Folders that hold no text to learn from: our runs, cargo's output.
const SKIPPED_FOLDERS: [&str; 2] = ["runs", "target"];

/// Bytes looked at before a file is read as a whole.
const FIRST_LOOK_BYTES: u64 = 8192;

/// A file that was read, for the record of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TextFile {
    /// Path below the source's folder, with `/` between names; the bare name if the source is this file.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// The text of one file, or of all text files below a folder in the order of their paths.
///
/// A folder is read without: hidden files and folders, what its `.gitignore` files name, folders called `runs` or
/// `target`, folders that hold a run (`metrics.jsonl` beside `checkpoints`), symbolic links, empty files, and binary files
/// (a NUL byte or invalid UTF-8). A file given by name is read whatever it holds.
#[derive(Debug)]
pub struct TextSource {
    root: PathBuf,
    files: Vec<TextFile>,
    contents: Vec<Vec<u8>>,
}

impl TextSource {
    /// Reads all text at `path` into memory. Errors: what cannot be read, an empty file, a folder without text.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let root = path.as_ref().to_path_buf();
        let metadata = std::fs::metadata(&root).map_err(|error| Error::io(&root, error))?;
        let mut source = TextSource { root, files: Vec::new(), contents: Vec::new() };
        if metadata.is_dir() {
            for (path, name) in walk(&source.root)? {
                if let Some(content) = read_text(&path)? {
                    source.push(name, content);
                }
            }
            if source.files.is_empty() {
                let message = "folder without text (hidden, ignored and binary files do not count)";
                return Err(Error::format(&source.root, None, message));
            }
        } else {
            let content = read(&source.root)?;
            if content.is_empty() {
                return Err(Error::format(&source.root, None, "empty file, expected text"));
            }
            let name = source.root.file_name().unwrap_or(source.root.as_os_str()).to_string_lossy().into_owned();
            source.push(name, content);
        }
        Ok(source)
    }

    fn push(&mut self, path: String, content: Vec<u8>) {
        let sha256 = hexadecimal(&Sha256::digest(&content));
        self.files.push(TextFile { path, bytes: content.len() as u64, sha256 });
        self.contents.push(content);
    }

    /// The file or folder given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files read, sorted by path.
    pub fn files(&self) -> &[TextFile] {
        &self.files
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// SHA-256 over paths, sizes and hashes of all files: two sources are equal if and only if this is.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash.update(format!("{} {} {:?}\n", file.sha256, file.bytes, file.path));
        }
        hexadecimal(&hash.finalize())
    }

    /// The content of each file.
    pub fn documents(&self) -> Vec<&[u8]> {
        self.contents.iter().map(Vec::as_slice).collect()
    }
}

/// The documents to train on and those to validate on.
#[derive(Clone, Debug)]
pub struct TextSplit<'a> {
    /// Training text, one slice for each file.
    pub training: Vec<&'a [u8]>,
    /// Validation text.
    pub validation: Vec<&'a [u8]>,
}

impl<'a> TextSplit<'a> {
    /// All of `source` for training and all of `validation` for validation; without the latter, the last tenth of each
    /// file is validation: it begins at byte `len * 9 / 10` (rounded down), or, for a tokenizer that reads characters,
    /// at the start of the character there.
    pub fn new(source: &'a TextSource, validation: Option<&'a TextSource>, tokenizer: &Tokenizer) -> Self {
        if let Some(validation) = validation {
            return TextSplit { training: source.documents(), validation: validation.documents() };
        }
        let cut = |document: &'a [u8]| {
            let mut at = (document.len() as u128 * 9 / 10) as usize;
            // Continuation bytes of UTF-8 are 10xxxxxx; a character has at most three.
            let lowest = at.saturating_sub(3);
            while !tokenizer.is_byte_level() && at > lowest && document[at] & 0xC0 == 0x80 {
                at -= 1;
            }
            document.split_at(at)
        };
        let (training, validation) = source.contents.iter().map(|document| cut(document)).unzip();
        TextSplit { training, validation }
    }
}

/// Paths of the files below `root` that may hold text, with their names below it, sorted by name.
fn walk(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut builder = ignore::WalkBuilder::new(root);
    // What is read must depend on the folder alone, not on its surroundings or the user's settings.
    builder.parents(false).git_global(false).git_exclude(false).ignore(false).require_git(false);
    builder.filter_entry(|entry| {
        let folder = entry.file_type().is_some_and(|kind| kind.is_dir());
        entry.depth() == 0 || !folder || !is_skipped_folder(entry.path())
    });
    let mut files = Vec::new();
    for entry in builder.build() {
        let entry = entry.map_err(|error| {
            let message = error.to_string();
            error.into_io_error().map_or(Error::format(root, None, message), |error| Error::io(root, error))
        })?;
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
            let names: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            files.push((entry.path().to_path_buf(), names.join("/")));
        }
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}

fn is_skipped_folder(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    SKIPPED_FOLDERS.iter().any(|skipped| name == *skipped)
        || (path.join("metrics.jsonl").is_file() && path.join("checkpoints").is_dir())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::io(path, error))
}

/// The content of a file that is not empty or binary. Most binary files are known by their beginning alone.
fn read_text(path: &Path) -> Result<Option<Vec<u8>>> {
    let fail = |error| Error::io(path, error);
    let mut file = File::open(path).map_err(fail)?;
    let mut content = Vec::new();
    (&mut file).take(FIRST_LOOK_BYTES).read_to_end(&mut content).map_err(fail)?;
    if content.is_empty() || content.contains(&0) {
        return Ok(None);
    }
    file.read_to_end(&mut content).map_err(fail)?;
    Ok((!content.contains(&0) && std::str::from_utf8(&content).is_ok()).then_some(content))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
