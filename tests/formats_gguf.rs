//! GGUF files: what is written is read, and what is damaged is refused with the place of the damage.

use std::path::{Path, PathBuf};

use hybridq::Error;
use hybridq::formats::{GgmlType, GgufArray, GgufFile, GgufTensorData, GgufValue, inspect, write_gguf};

fn place(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("m.gguf")
}

fn entries() -> Vec<(String, GgufValue)> {
    [
        ("general.architecture", GgufValue::String("llama".into())),
        ("a.u8", GgufValue::U8(200)),
        ("a.i8", GgufValue::I8(-3)),
        ("a.u16", GgufValue::U16(60_000)),
        ("a.i16", GgufValue::I16(-30_000)),
        ("a.u32", GgufValue::U32(4_000_000_000)),
        ("a.i32", GgufValue::I32(-5)),
        ("a.u64", GgufValue::U64(1 << 60)),
        ("a.i64", GgufValue::I64(-(1 << 60))),
        ("a.f32", GgufValue::F32(0.5)),
        ("a.f64", GgufValue::F64(0.1)),
        ("a.bool", GgufValue::Bool(true)),
        ("a.words", GgufValue::Array(GgufArray::String(vec!["".into(), "zwei ▁".into()]))),
        ("a.none", GgufValue::Array(GgufArray::String(Vec::new()))),
        ("a.scores", GgufValue::Array(GgufArray::F32(vec![1.0, -2.0]))),
        ("a.types", GgufValue::Array(GgufArray::I32(vec![1, -6]))),
        ("a.counts", GgufValue::Array(GgufArray::U32(vec![7]))),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .to_vec()
}

fn tensor<'a>(name: &str, kind: GgmlType, shape: &[usize], bytes: &[u8]) -> GgufTensorData<'a> {
    let bytes = bytes.to_vec();
    GgufTensorData::new(name, kind, shape, move || Ok(bytes.clone()))
}

fn write_small(path: &Path) -> Vec<u8> {
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensors = [
        tensor("rows", GgmlType::F32, &[2, 3], &floats),
        tensor("halves", GgmlType::F16, &[3], &[0, 0x3C, 0, 0xC0, 0, 0x38]),
        tensor("blocks", GgmlType::TQ2_0, &[1, 256], &[0x55; 66]),
    ];
    let size = write_gguf(path, &entries(), &tensors).unwrap();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes.len() as u64, size);
    bytes
}

#[test]
fn files_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    write_small(&path);
    let file = GgufFile::open(&path).unwrap();
    assert!(GgufFile::is_at(&path));
    assert_eq!(file.metadata().clone().into_iter().collect::<Vec<_>>(), {
        let mut expected = entries();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        expected
    });
    let names: Vec<&str> = file.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["rows", "halves", "blocks"]);
    let rows = file.tensor("rows", &[2, 3]).unwrap();
    assert_eq!(rows.range.start % 32, 0);
    let mut values = [0.0; 6];
    file.read_f32(rows, 0, &mut values).unwrap();
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let mut halves = [0.0; 3];
    file.read_f32(file.find("halves").unwrap(), 0, &mut halves).unwrap();
    assert_eq!(halves, [1.0, -2.0, 0.5]);
    file.release(rows);
    assert_eq!(file.bytes(rows).len(), 24);
    let message = |error: Error| error.to_string();
    assert!(
        message(file.tensor("rows", &[3, 2]).unwrap_err()).contains("\"rows\": expected shape [3, 2], found [2, 3]")
    );
    assert!(message(file.tensor("lines", &[1]).unwrap_err()).contains("\"lines\": missing"));
    let blocks = file.find("blocks").unwrap();
    assert!(message(file.read_f32(blocks, 0, &mut [0.0; 256]).unwrap_err()).contains("found TQ2_0"));
    let found = inspect(&path).unwrap();
    assert_eq!((found.elements, found.files[0].tensors[2].dtype.as_str()), (6 + 3 + 256, "TQ2_0"));
    assert_eq!(found.files[0].metadata["a.words"], "[2 values]");
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    let fail = |entries: &[(String, GgufValue)], tensors: &[GgufTensorData<'_>]| {
        let message = write_gguf(&path, entries, tensors).unwrap_err().to_string();
        assert!(!path.exists(), "{message}");
        message
    };
    let twice = [("k".to_string(), GgufValue::U8(1)), ("k".to_string(), GgufValue::U8(2))];
    assert!(fail(&twice, &[]).contains("\"k\" is reserved or occurs twice"));
    let same = || tensor("t", GgmlType::F32, &[1], &[0; 4]);
    assert!(fail(&[], &[same(), same()]).contains("\"t\""));
    assert!(fail(&[], &[tensor(&"n".repeat(64), GgmlType::F32, &[1], &[0; 4])]).contains("longer than 63"));
    assert!(fail(&[], &[tensor("t", GgmlType::TQ1_0, &[4, 64], &[0; 54])]).contains("whole blocks of 256"));
    assert!(fail(&[], &[tensor("t", GgmlType::F32, &[2], &[0; 4])]).contains("does not have 4 bytes"));
}

#[test]
fn truncated_files_are_refused_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    let bytes = write_small(&path);
    let data_end = bytes.len() - 30; // the last tensor's 66 bytes are padded to 96
    for len in 0..data_end {
        let short = folder.path().join("short.gguf");
        std::fs::write(&short, &bytes[..len]).unwrap();
        let error = GgufFile::open(&short).unwrap_err();
        assert!(matches!(error, Error::Format { offset: Some(_), .. } | Error::Io { .. }), "{len}: {error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn any_single_changed_byte_gives_a_file_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    let bytes = write_small(&path);
    let header = GgufFile::open(&path).unwrap().tensors()[0].range.start;
    let changed = folder.path().join("changed.gguf");
    for at in 0..header {
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            std::fs::write(&changed, &bytes).unwrap();
            if let Ok(file) = GgufFile::open(&changed) {
                assert!(file.tensors().iter().all(|tensor| tensor.range.end <= bytes.len()));
            }
        }
    }
}

/// A header under construction.
struct Header(Vec<u8>);

impl Header {
    fn new(tensors: u64, entries: u64) -> Self {
        Header([&b"GGUF"[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat())
    }

    fn string(mut self, text: &str) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn tensor(self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        let header = self.string(name).u32(shape.len() as u32);
        shape.iter().fold(header, |header, &size| header.u64(size)).u32(kind).u64(offset)
    }

    fn message(mut self, padding: usize) -> String {
        let folder = tempfile::tempdir().unwrap();
        self.0.resize(self.0.len() + padding, 0);
        std::fs::write(place(&folder), &self.0).unwrap();
        GgufFile::open(place(&folder)).unwrap_err().to_string()
    }
}

#[test]
fn hostile_headers_are_refused() {
    const HUGE: u64 = 1 << 60;
    let cases = [
        (Header::new(HUGE, 0).message(64), "number of tensors: 1152921504606846976"),
        (Header::new(0, HUGE).message(64), "number of metadata entries: 1152921504606846976"),
        (Header::new(0, 1).u64(HUGE).message(64), "metadata key: 1152921504606846976 bytes expected"),
        (Header::new(0, 1).string("k").u32(8).u64(u64::MAX).message(64), "metadata \"k\": 18446744073709551615 bytes"),
        (Header::new(0, 1).string("k").u32(9).u32(4).u64(HUGE).message(64), "metadata \"k\": 1152921504606846976"),
        (Header::new(0, 1).string("k").u32(9).u32(8).u64(HUGE).message(64), "metadata \"k\": 1152921504606846976"),
        (Header::new(0, 1).string("k").u32(9).u32(9).u64(1).message(64), "an array of type 9"),
        (Header::new(0, 1).string("k").u32(77).message(64), "metadata \"k\": unknown type 77"),
        (Header::new(0, 1).string("k").u32(7).u32(2).message(64), "a bool is 0 or 1, found 2"),
        (Header::new(0, 2).string("k").u32(4).u32(1).string("k").u32(4).u32(1).message(9), "\"k\" occurs twice"),
        (
            Header::new(0, 1).string("general.alignment").u32(4).u32(33).message(9),
            "a power of two up to 2^20, found 33",
        ),
        (Header::new(1, 0).tensor("t", &[HUGE, HUGE], 0, 0).message(64), "\"t\": F32 [1152921504606846976"),
        (Header::new(1, 0).tensor("t", &[HUGE], 0, 0).message(64), "is larger than the file"),
        (
            Header::new(1, 0).tensor("t", &[4], 0, 32).message(64),
            "\"t\": expected at offset 0 of the data, found at 32",
        ),
        (Header::new(1, 0).tensor("t", &[4], 99, 0).message(64), "\"t\": unknown type 99"),
        (Header::new(1, 0).tensor("t", &[4], 35, 0).message(64), "\"t\": rows of 4 elements, TQ2_0 has blocks of 256"),
        (Header::new(1, 0).tensor("t", &[], 0, 0).message(64), "\"t\": 0 dimensions"),
        (Header::new(1, 0).tensor("t", &[1; 5], 0, 0).message(64), "\"t\": 5 dimensions"),
        (Header::new(1, 0).tensor(&"t".repeat(64), &[4], 0, 0).message(64), "a name of 64 bytes"),
        (Header::new(2, 0).tensor("t", &[4], 0, 0).tensor("t", &[4], 0, 32).message(99), "\"t\": occurs twice"),
        (Header::new(1, 0).tensor("t", &[16], 0, 0).message(40), "\"t\": ends at byte"),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected) && found.contains(" at byte "), "{found}\nexpected {expected}");
    }
    let mut big = Header::new(0, 0).0;
    big[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(Header(big).message(0).contains("a big-endian file"));
    assert!(Header(b"GGUX".to_vec()).message(64).contains("not a GGUF file"));
    // The name alone says what a file is meant to be.
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder);
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(GgufFile::is_at(&path));
    assert!(inspect(&path).unwrap_err().to_string().contains("not a GGUF file"));
}
