//! The tensors of a model folder: one `model.safetensors`, or shards that `model.safetensors.index.json` lists.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::reader::{SafetensorsFile, TensorEntry};
use crate::{Error, Result};

/// The file of a model in one piece.
const SINGLE: &str = "model.safetensors";
/// The list of a model's shards.
const INDEX: &str = "model.safetensors.index.json";
/// Longest index read.
const MAX_INDEX_BYTES: u64 = 100_000_000;
/// Most shards of a model.
const MAX_SHARDS: usize = 10_000;

/// All tensors of a model folder, mapped. Every name occurs once; index and shards agree.
#[derive(Debug)]
pub struct SafetensorsFolder {
    /// What to name in messages: the file, or the index.
    path: PathBuf,
    files: Vec<SafetensorsFile>,
    /// The file each tensor lies in.
    places: BTreeMap<String, usize>,
}

impl SafetensorsFolder {
    /// Whether `folder` holds a model's tensors.
    pub fn is_present(folder: &Path) -> bool {
        folder.join(SINGLE).is_file() || folder.join(INDEX).is_file()
    }

    /// Opens the model in `folder`: `model.safetensors` if it is there, else the shards of the index. Errors: neither is
    /// there, a damaged file, an index and shards that disagree; each names the file and the tensor.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        if single.is_file() || !index.is_file() {
            let file = SafetensorsFile::open(&single)?;
            let places = file.tensors().iter().map(|tensor| (tensor.name.clone(), 0)).collect();
            return Ok(SafetensorsFolder { path: single, files: vec![file], places });
        }
        let Index { weight_map } = read_index(&index)?;
        let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        if names.len() > MAX_SHARDS {
            return Err(Error::format(&index, None, format!("{} shards, at most {MAX_SHARDS}", names.len())));
        }
        let mut files = Vec::with_capacity(names.len());
        for name in &names {
            check_shard_name(&index, name)?;
            files.push(SafetensorsFile::open(folder.join(name))?);
        }
        let places = check_shards(&index, &weight_map, &files, &names)?;
        Ok(SafetensorsFolder { path: index, files, places })
    }

    /// The file, or the index of the files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&TensorEntry> {
        self.files[*self.places.get(name)?].find(name)
    }

    /// The file that holds the tensor called `name`. Error: there is none.
    pub fn file_of(&self, name: &str) -> Result<&SafetensorsFile> {
        let missing = || Error::format(&self.path, None, format!("tensor {name:?}: missing"));
        self.places.get(name).map(|&file| &self.files[file]).ok_or_else(missing)
    }
}

/// What an index says: the file of each tensor.
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read_index(path: &Path) -> Result<Index> {
    let fail = |error| Error::io(path, error);
    let mut text = String::new();
    File::open(path).map_err(fail)?.take(MAX_INDEX_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_INDEX_BYTES {
        return Err(Error::format(path, None, format!("an index of more than {MAX_INDEX_BYTES} bytes")));
    }
    serde_json::from_str(&text).map_err(|error| Error::format(path, None, error.to_string().escape_debug().to_string()))
}

/// A shard is a file of the same folder: an index must not lead to other places, nor to itself.
fn check_shard_name(index: &Path, name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    let bare = matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == name);
    if bare && name.ends_with(".safetensors") {
        return Ok(());
    }
    Err(Error::format(
        index,
        None,
        format!("shard {name:?}: expected the name of a .safetensors file beside the index"),
    ))
}

/// Every tensor of the index lies in its shard, and every tensor of a shard is in the index.
fn check_shards(
    index: &Path,
    weight_map: &BTreeMap<String, String>,
    files: &[SafetensorsFile],
    names: &BTreeSet<&str>,
) -> Result<BTreeMap<String, usize>> {
    let mut places = BTreeMap::new();
    for (number, (file, shard)) in files.iter().zip(names).enumerate() {
        for tensor in file.tensors() {
            let name = &tensor.name;
            if weight_map.get(name).map(String::as_str) != Some(shard) {
                let found = weight_map.get(name).map_or("nothing".into(), |other| format!("{other:?}"));
                let message = format!("tensor {name:?}: lies in {shard:?}, the index says {found}");
                return Err(Error::format(index, None, message));
            }
            places.insert(name.clone(), number);
        }
    }
    match weight_map.iter().find(|(name, _)| !places.contains_key(*name)) {
        Some((name, shard)) => Err(Error::format(index, None, format!("tensor {name:?}: not in its shard {shard:?}"))),
        None => Ok(places),
    }
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(IndexVisitor)
    }
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Index;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Index, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "weight_map" if found.is_none() => found = Some(map.next_value::<WeightMap>()?.0),
                "weight_map" => return Err(A::Error::custom("weight_map occurs twice")),
                _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
            }
        }
        found.map(|weight_map| Index { weight_map }).ok_or_else(|| A::Error::custom("no weight_map"))
    }
}

/// Tensor to file; a tensor that is given twice is an error.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a map from tensors to files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
        let mut files = BTreeMap::new();
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            if files.contains_key(&tensor) {
                return Err(A::Error::custom(format!("tensor {tensor:?} occurs twice")));
            }
            files.insert(tensor, file);
        }
        Ok(WeightMap(files))
    }
}
