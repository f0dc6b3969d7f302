//! safetensors files: round trips, hostile files, and agreement with the reference implementation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hybridq::formats::{
    Dtype, MappedFile, SafetensorsFile, TensorData, atomic_write, inspect, remove_unfinished, write_safetensors,
};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

fn file_of(folder: &Path, header: &str, data: &[u8]) -> PathBuf {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    let path = folder.join("hand.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn entry(name: &str, dtype: &str, shape: &str, start: usize, end: usize) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

/// Opens a file made by hand; the error must be one line that names the file.
fn error_of(header: &str, data: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = SafetensorsFile::open(file_of(folder.path(), header, data)).expect_err(header).to_string();
    assert!(error.contains("hand.safetensors") && error.lines().count() == 1, "{error}");
    error
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let weights = [1.5f32, -0.0, f32::NAN, f32::MIN_POSITIVE / 2.0, f32::INFINITY, 3.0];
    let metadata: BTreeMap<String, String> =
        [("format", "pt"), ("odd", "line\nbreak \"quoted\" \u{1F600}")].map(|(k, v)| (k.into(), v.into())).into();
    let tensors = [
        TensorData::new("bytes", &[3], &[7u8, 8, 9]),
        TensorData::new("scalar", &[], &[u64::MAX]),
        TensorData::new("weights", &[2, 3], &weights),
        TensorData::new("empty", &[0, 5], &[0f32; 0]),
        TensorData::new("signed", &[2], &[-128i8, 127]),
    ];
    let size = write_safetensors(&path, &metadata, &tensors).unwrap();
    assert_eq!(size, std::fs::metadata(&path).unwrap().len());
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.metadata(), &metadata);
    assert_eq!(file.tensors().len(), tensors.len());
    let read = file.elements::<f32>("weights", &[2, 3]).unwrap();
    assert!(read.iter().zip(weights).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(matches!(read, std::borrow::Cow::Borrowed(_)), "aligned tensors are read in place");
    let mut converted = [0f32; 6];
    file.read_f32("weights", &[2, 3], &mut converted).unwrap();
    assert!(converted.iter().zip(weights).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert_eq!(&*file.elements::<u8>("bytes", &[3]).unwrap(), [7, 8, 9]);
    assert_eq!(&*file.elements::<i8>("signed", &[2]).unwrap(), [-128, 127]);
    assert_eq!(&*file.elements::<u64>("scalar", &[]).unwrap(), [u64::MAX]);
    assert!(file.elements::<f32>("empty", &[0, 5]).unwrap().is_empty());

    let first = std::fs::read(&path).unwrap();
    write_safetensors(&path, &metadata, &tensors).unwrap();
    assert_eq!(first, std::fs::read(&path).unwrap(), "the same tensors give the same bytes");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn the_reference_implementation_reads_ours_and_we_read_its() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    let weights = [0.25f32, -3.0];
    let tensors = [TensorData::new("b", &[3], &[1u8, 2, 3]), TensorData::new("w", &[2, 1], &weights)];
    write_safetensors(&ours, &BTreeMap::from([("k".into(), "v".into())]), &tensors).unwrap();
    let bytes = std::fs::read(&ours).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.tensor("w").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&weights));
    assert_eq!(reference.tensor("w").unwrap().shape(), [2, 1]);
    assert_eq!(reference.tensor("b").unwrap().data(), [1, 2, 3]);

    let halves = [half::f16::from_f32(1.5), half::f16::from_f32(-2.0)];
    let brains = [half::bf16::from_f32(1.5)];
    let doubles = [1.0f64 + 1e-12];
    let view =
        |dtype, shape: &[usize], bytes| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let views = [
        ("h", view(Dtype::F16, &[2], bytemuck::cast_slice(&halves))),
        ("b", view(Dtype::BF16, &[1], bytemuck::cast_slice(&brains))),
        ("d", view(Dtype::F64, &[1], bytemuck::cast_slice(&doubles))),
    ];
    std::fs::write(&theirs, safetensors::serialize(views, None).unwrap()).unwrap();
    let file = SafetensorsFile::open(&theirs).unwrap();
    let read = |name, len: usize| {
        let mut out = vec![0f32; len];
        file.read_f32(name, &[len], &mut out).map(|()| out)
    };
    assert_eq!(read("h", 2).unwrap(), [1.5, -2.0]);
    assert_eq!(read("b", 1).unwrap(), [1.5]);
    assert_eq!(read("d", 1).unwrap(), [1.0]);
}

#[test]
fn misaligned_tensors_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let header = format!("{{{},{}}}", entry("a", "U8", "[1]", 0, 1), entry("w", "F32", "[1]", 1, 5));
    let mut data = vec![9];
    data.extend_from_slice(&2.5f32.to_le_bytes());
    let file = SafetensorsFile::open(file_of(folder.path(), &header, &data)).unwrap();
    assert_eq!(&*file.elements::<f32>("w", &[1]).unwrap(), [2.5]);
    let mut out = [0f32];
    file.read_f32("w", &[1], &mut out).unwrap();
    assert_eq!(out, [2.5]);
}

#[test]
fn errors_name_tensor_and_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    write_safetensors(&path, &BTreeMap::new(), &[TensorData::new("w", &[2, 2], &[0f32; 4])]).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    let shape = file.read_f32("w", &[4], &mut [0.0; 4]).unwrap_err().to_string();
    assert!(shape.contains("m.safetensors") && shape.contains(r#""w": expected shape [4], found [2, 2]"#), "{shape}");
    let missing = file.bytes("v").unwrap_err().to_string();
    assert!(missing.contains(r#"tensor "v": missing"#), "{missing}");
    let kind = file.elements::<u8>("w", &[2, 2]).unwrap_err().to_string();
    assert!(kind.contains("expected U8, found F32"), "{kind}");

    let twice = [TensorData::new("w", &[1], &[0f32]), TensorData::new("w", &[1], &[0f32])];
    assert!(write_safetensors(&path, &BTreeMap::new(), &twice).unwrap_err().to_string().contains("twice"));
    let reserved = [TensorData::new("__metadata__", &[1], &[0f32])];
    assert!(write_safetensors(&path, &BTreeMap::new(), &reserved).is_err());
    let wrong = [TensorData::new("w", &[3], &[0f32])];
    let error = write_safetensors(&path, &BTreeMap::new(), &wrong).unwrap_err().to_string();
    assert!(error.contains(r#""w": F32 [3] does not have 4 bytes"#), "{error}");
    assert!(SafetensorsFile::open(&path).is_ok(), "the old file is untouched");
}

#[test]
fn hostile_headers_are_errors() {
    let w = |start, end| entry("w", "F32", "[2]", start, end);
    assert!(error_of(&format!("{{{}}}", w(0, 8)), &[0; 7]).contains("1 bytes after the end"));
    assert!(error_of(&format!("{{{}}}", w(0, 8)), &[0; 9]).contains("belong to none"));
    assert!(error_of(&format!("{{{}}}", w(4, 12)), &[0; 12]).contains(r#"tensor "w""#));
    assert!(error_of(&format!("{{{}}}", w(8, 0)), &[0; 8]).contains(r#"tensor "w""#));
    assert!(error_of(&format!("{{{},{}}}", w(0, 8), w(0, 8)), &[0; 8]).contains("twice"));
    assert!(error_of(&format!("{{{},{}}}", w(0, 8), w(8, 16)), &[0; 16]).contains("twice"));
    let overlap = format!("{{{},{}}}", w(0, 8), entry("v", "F32", "[2]", 4, 12));
    assert!(error_of(&overlap, &[0; 12]).contains(r#"tensor "v""#));
    let product = entry("w", "F32", "[4294967296,4294967296,4]", 0, 8);
    assert!(error_of(&format!("{{{product}}}"), &[0; 8]).contains("no size"));
    let bits = entry("w", "F64", &format!("[{}]", usize::MAX / 32), 0, 8);
    assert!(error_of(&format!("{{{bits}}}"), &[0; 8]).contains("no size"));
    let end = entry("w", "U8", &format!("[{}]", usize::MAX / 8), 0, usize::MAX / 8);
    assert!(error_of(&format!("{{{end}}}"), &[0; 8]).contains("after the end"));
    assert!(error_of(&format!("{{{}}}", entry("w", "F4", "[3]", 0, 1)), &[0; 2]).contains("no size"));
    assert!(error_of(&format!("{{{}}}", entry("w", "F31", "[2]", 0, 8)), &[0; 8]).contains(r#"tensor \"w\""#));
    assert!(error_of(&format!("{{{}}}", entry("w", "F32", "[-2]", 0, 8)), &[0; 8]).contains(r#"tensor \"w\""#));
    assert!(error_of(r#"{"__metadata__":{"a":1}}"#, &[]).contains("header"));
    assert!(error_of("", &[]).contains("header"));
    assert!(error_of("[]", &[]).contains("map of tensors"));
    assert!(error_of(&"[".repeat(100_000), &[]).contains("header"));
    assert!(error_of("{\"a\nb\":1}", &[]).contains("header"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("short");
    for length in [u64::MAX, 1 << 40, 99_999_999, 1] {
        std::fs::write(&path, length.to_le_bytes()).unwrap();
        assert!(SafetensorsFile::open(&path).unwrap_err().to_string().contains("cut short"));
    }
    for size in 0..8 {
        std::fs::write(&path, vec![0; size]).unwrap();
        assert!(SafetensorsFile::open(&path).is_err());
    }
    assert!(SafetensorsFile::open(folder.path()).unwrap_err().to_string().contains("folder"));
    assert!(SafetensorsFile::open(folder.path().join("none")).unwrap_err().to_string().contains("none"));
}

#[test]
fn no_metadata_and_null_metadata_are_fine() {
    let folder = tempfile::tempdir().unwrap();
    for header in [r#"{"__metadata__":null}"#, "{}", r#"{"__metadata__":{}}   "#] {
        let file = SafetensorsFile::open(file_of(folder.path(), header, &[])).unwrap();
        assert!(file.metadata().is_empty() && file.tensors().is_empty());
    }
}

/// Thousands of damaged files: each opens or is refused; what opens can be read to the last byte.
#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("good");
    let tensors = [
        TensorData::new("layers.0.weight", &[3, 5], &[0.5f32; 15]),
        TensorData::new("layers.0.scale", &[1], &[1u8]),
        TensorData::new("step", &[], &[1u64]),
    ];
    write_safetensors(&path, &BTreeMap::from([("version".into(), "1".into())]), &tensors).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut stream = RandomStream::new(11, 0, 0, 0);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..6000 {
        let mut bytes = good.clone();
        for _ in 0..=stream.below(3) {
            let at = stream.below(bytes.len() as u64) as usize;
            match stream.below(5) {
                0 => bytes[at] ^= 1 << stream.below(8),
                1 => bytes[at] = b"0123456789[]{},:\""[stream.below(17) as usize],
                2 => bytes.truncate(at.max(1)),
                3 => drop(bytes.remove(at)),
                _ => bytes.insert(at, stream.next_u32() as u8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        // A new file each time: some file systems wait for the disk when a file is overwritten.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        match SafetensorsFile::open(&path) {
            Ok(file) => {
                opened += 1;
                for tensor in file.tensors() {
                    assert_eq!(file.bytes(&tensor.name).unwrap().len(), tensor.bytes());
                    let _ = file.elements::<f32>(&tensor.name, &tensor.shape);
                    let _ = file.read_f32(&tensor.name, &tensor.shape, &mut vec![0.0; tensor.elements()]);
                }
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
            }
        }
    }
    assert!(
        opened > 300 && refused > 3000,
        "{opened} opened, {refused} refused: the mutations are too mild or too wild"
    );
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "old").unwrap();
    let result: hybridq::Result<()> = atomic_write(&path, |file| {
        file.write(&[1; 5000])?;
        Err(hybridq::Error::Unsupported("stop".into()))
    });
    assert_eq!(result.unwrap_err().to_string(), "stop");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    atomic_write(&path, |file| file.write(b"new")).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");

    let missing = folder.path().join("no/such/file");
    let error = atomic_write(&missing, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("no/such/file"), "{error}");

    std::fs::write(folder.path().join(".hybridq-abc.tmp"), "half").unwrap();
    assert_eq!(remove_unfinished(folder.path()).unwrap(), 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn written_files_have_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (ours, usual) = (folder.path().join("ours"), folder.path().join("usual"));
    atomic_write(&ours, |file| file.write(b"x")).unwrap();
    std::fs::write(&usual, "x").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&usual));
}

#[test]
fn inspection_lists_files_and_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    let none = inspect(folder.path()).unwrap_err().to_string();
    assert!(none.contains("folder without .safetensors"), "{none}");
    let tensors = [TensorData::new("w", &[2, 3], &[0f32; 6]), TensorData::new("q", &[100], &[0i8; 100])];
    write_safetensors(&b, &BTreeMap::from([("step".into(), "7".into())]), &tensors).unwrap();
    write_safetensors(&a, &BTreeMap::new(), &[TensorData::new("v", &[], &[1u16])]).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let found = inspect(folder.path()).unwrap();
    assert_eq!((found.files.len(), found.elements), (2, 107));
    assert_eq!(found.bytes, [&a, &b].iter().map(|path| std::fs::metadata(path).unwrap().len()).sum::<u64>());
    assert_eq!(found.ratio_to_f32, 428.0 / found.bytes as f64);
    assert_eq!((found.files[0].path.as_path(), found.files[0].tensors[0].elements), (a.as_path(), 1));
    assert_eq!(found.files[1].metadata["step"], "7");
    let q = &found.files[1].tensors[1];
    assert_eq!((q.name.as_str(), q.dtype.as_str(), &q.shape[..], q.bytes), ("q", "I8", &[100][..], 100));
    assert_eq!(inspect(&b).unwrap().files, found.files[1..]);
    std::fs::write(&a, "nonsense").unwrap();
    assert!(inspect(folder.path()).unwrap_err().to_string().contains("a.safetensors"));
}

#[test]
fn an_empty_file_can_be_mapped() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(MappedFile::open(file.path()).unwrap().bytes().is_empty());
}

proptest! {
    // Each case syncs a file to the disk.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_names_and_sizes_round_trip(names in prop::collection::btree_set(".{0,12}", 0..6), seed: u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any");
        let mut stream = RandomStream::new(seed, 0, 0, 0);
        let contents: Vec<(String, Vec<u16>)> = names
            .into_iter()
            .filter(|name| name != "__metadata__")
            .map(|name| (name, (0..stream.below(9)).map(|_| stream.next_u32() as u16).collect()))
            .collect();
        let tensors: Vec<TensorData<'_>> =
            contents.iter().map(|(name, data)| TensorData::new(name, &[data.len()], data)).collect();
        write_safetensors(&path, &BTreeMap::new(), &tensors).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        for (name, data) in &contents {
            prop_assert_eq!(&*file.elements::<u16>(name, &[data.len()]).unwrap(), &data[..]);
        }
    }
}
