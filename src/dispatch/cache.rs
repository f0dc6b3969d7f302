//! The file that keeps what calibration learned: `~/.cache/hybridq/dispatch.toml`, unless told otherwise.
//!
//! A file holds an entry for each machine, library version, instruction set cap and number of threads it was calibrated
//! with. Whatever is wrong with it costs a warning and the defaults, never an error.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;

use serde::{Deserialize, Serialize};

use super::config::DispatchConfig;
use crate::kernels::{Isa, KernelTable};
use crate::{Error, Result};

/// Names another cache file; `off`: none is read.
pub const CACHE_VARIABLE: &str = "HYBRIDQ_DISPATCH_CACHE";

/// Longer files are not ours.
const LONGEST: u64 = 1 << 20;

/// What thresholds were learned for. They are used where everything but the number of threads is the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheKey {
    /// Model, family and stepping of the CPU.
    pub cpu: String,
    /// Levels of the CPU and build.
    pub isas: Vec<Isa>,
    /// Version of this library.
    pub library: String,
    /// The level in use: the best one, or a cap.
    pub isa: Isa,
    /// Threads in use.
    pub threads: usize,
}

impl CacheKey {
    /// The key of this machine at a level and number of threads.
    pub fn of_this_machine(isa: Isa, threads: usize) -> Self {
        CacheKey {
            cpu: cpu_model(),
            isas: KernelTable::available().iter().map(|table| table.isa()).collect(),
            library: env!("CARGO_PKG_VERSION").into(),
            isa,
            threads,
        }
    }

    fn fits(&self, other: &CacheKey) -> bool {
        CacheKey { threads: other.threads, ..self.clone() } == *other
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    key: CacheKey,
    config: DispatchConfig,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct CacheFile {
    #[serde(default)]
    entry: Vec<Entry>,
}

/// Where a context's thresholds come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigSource {
    /// Nothing was learned or given.
    Defaults,
    /// The cache file.
    Cache(PathBuf),
    /// The caller.
    Given,
}

/// The cache file to use: `given`, else the one [`CACHE_VARIABLE`] names, else `hybridq/dispatch.toml` in
/// `XDG_CACHE_HOME` or `~/.cache`. None: no such folder is known, or the variable says `off`.
pub fn cache_path(given: Option<&Path>) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = given {
        return Some(path.to_path_buf());
    }
    match variable(CACHE_VARIABLE) {
        Some(off) if off == "off" => return None,
        Some(path) => return Some(path.into()),
        None => {}
    }
    // The XDG rules: a relative path there is to be ignored.
    let xdg = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = xdg.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
    Some(folder.join("hybridq/dispatch.toml"))
}

/// The thresholds stored for `key`; of several entries that fit, those of the same number of threads.
///
/// Errors: the system's; a file that is no cache; a cache in which no entry fits.
pub fn load_cached(path: &Path, key: &CacheKey) -> Result<DispatchConfig> {
    let text = read(path).map_err(|error| Error::io(path, error))?;
    let not_one = |error: toml::de::Error| {
        let message = format!("not a dispatcher's cache: {}", error.message().replace('\n', " "));
        Error::format(path, None, message)
    };
    let file: CacheFile = toml::from_str(&text).map_err(not_one)?;
    let fitting = || file.entry.iter().filter(|entry| entry.key.fits(key));
    let found = fitting().find(|entry| entry.key.threads == key.threads).or_else(|| fitting().next());
    let none = "nothing learned on this CPU with this version (hybridq bench --calibrate)";
    found.map(|entry| entry.config.clone()).ok_or_else(|| Error::format(path, None, none))
}

fn read(path: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(std::io::Error::other("not a dispatcher's cache"));
    }
    std::fs::read_to_string(path)
}

/// Puts `config` under `key` into the file, beside other entries if it is a cache already, in one step: a reader sees
/// the old file or the new. Makes the folder. Errors: the system's, naming the path.
pub fn store_cached(path: &Path, key: &CacheKey, config: &DispatchConfig) -> Result<()> {
    let mut file: CacheFile = read(path).ok().and_then(|text| toml::from_str(&text).ok()).unwrap_or_default();
    file.entry.retain(|entry| entry.key != *key);
    file.entry.push(Entry { key: key.clone(), config: config.clone() });
    let text = toml::to_string(&file).expect("thresholds are plain data");
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let fail = |error| Error::io(path, error);
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    temporary.write_all(text.as_bytes()).map_err(fail)?;
    temporary.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// The thresholds for a new context: the cache's, or the defaults and, once in a process, a warning. A file that does not
/// exist is worth one only if somebody named it.
pub(super) fn config_for(isa: Isa, threads: usize, given: Option<&Path>) -> (DispatchConfig, ConfigSource) {
    static WARNED: Once = Once::new();
    let none = (DispatchConfig::default(), ConfigSource::Defaults);
    let Some(path) = cache_path(given) else { return none };
    let named = given.is_some() || std::env::var_os(CACHE_VARIABLE).is_some_and(|value| !value.is_empty());
    match load_cached(&path, &CacheKey::of_this_machine(isa, threads)) {
        Ok(config) => (config, ConfigSource::Cache(path)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !named => none,
        Err(error) => {
            WARNED.call_once(|| tracing::warn!("{error}; the dispatcher uses its defaults"));
            none
        }
    }
}

/// What tells one CPU model from another: on Linux the identifying lines of /proc/cpuinfo, elsewhere the architecture.
fn cpu_model() -> String {
    const FIELDS: [&str; 8] =
        ["model name", "cpu family", "model", "stepping", "CPU implementer", "CPU variant", "CPU part", "CPU revision"];
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let mut found = Vec::new();
    for (name, value) in &mut lines {
        if FIELDS.contains(&name.trim()) {
            found.push(format!("{} {}", name.trim(), value.trim()));
        }
    }
    if found.is_empty() { std::env::consts::ARCH.into() } else { found.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Operation;

    fn key() -> CacheKey {
        CacheKey::of_this_machine(Isa::Portable, 2)
    }

    fn learned(tokens: u32) -> DispatchConfig {
        let mut config = DispatchConfig { direct_tokens: Some(tokens), ..Default::default() };
        config.of_mut(Operation::Norm).serial_below = Some(12345);
        config
    }

    #[test]
    fn round_trip_keeps_other_entries() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/cache.toml");
        let (one, four) = (CacheKey { threads: 1, ..key() }, CacheKey { threads: 4, ..key() });
        store_cached(&path, &one, &learned(1)).unwrap();
        store_cached(&path, &key(), &learned(9)).unwrap();
        store_cached(&path, &key(), &learned(2)).unwrap();
        assert_eq!(load_cached(&path, &key()).unwrap(), learned(2));
        assert_eq!(load_cached(&path, &one).unwrap(), learned(1));
        assert_eq!(load_cached(&path, &four).unwrap(), learned(1), "another number of threads serves too");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_is_wrong_costs_one_line_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.toml");
        let warned = |path: &Path| {
            let message = load_cached(path, &key()).unwrap_err().to_string();
            assert!(!message.contains('\n') && message.starts_with(&path.display().to_string()), "{message}");
        };
        warned(&path);
        warned(folder.path());
        for content in [&b"what is = = this"[..], b"\xff\xfe\x00", b"entry = 3", b"[[entry]]\nkey = 1", b""] {
            std::fs::write(&path, content).unwrap();
            warned(&path);
            store_cached(&path, &key(), &learned(5)).unwrap();
            assert_eq!(load_cached(&path, &key()).unwrap(), learned(5), "calibrating again mends the file");
        }
        for stale in [
            CacheKey { cpu: "another".into(), ..key() },
            CacheKey { library: "0.0.0".into(), ..key() },
            CacheKey { isas: vec![], ..key() },
            CacheKey { isa: Isa::Avx2, ..key() },
        ] {
            std::fs::remove_file(&path).unwrap();
            store_cached(&path, &stale, &learned(5)).unwrap();
            warned(&path);
        }
    }
}
