//! Q8_0 products against plain f64 sums, the same bits on every instruction set.

use half::f16;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::formats::q8_0_bytes;
use hybridq::kernels::{KernelTable, Q8_0_BLOCK, Q8_0_BYTES};
use hybridq::quant::Q8Matrix;
use hybridq::tensor::{AlignedBuffer, RandomStream};

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn random_blocks(stream: &mut RandomStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        bytes.extend(f16::from_f32((stream.normal() * 0.01) as f32).to_le_bytes());
        // All 256 values, -128 too.
        bytes.extend((0..Q8_0_BLOCK).map(|_| stream.below(256) as u8));
    }
    bytes
}

fn matrix(bytes: &[u8], rows: usize, cols: usize) -> hybridq::Result<Q8Matrix> {
    Q8Matrix::from_bytes("m", AlignedBuffer::from_slice(bytes).into(), rows, cols)
}

#[test]
fn products_are_the_same_on_every_level_and_near_f64() {
    for (case, (rows, blocks)) in [(0, 3), (1, 1), (5, 0), (7, 2), (13, 3), (31, 8), (3, 65)].into_iter().enumerate() {
        let mut stream = RandomStream::new(case as u64, 0, 0, 0);
        let cols = blocks * Q8_0_BLOCK;
        // At an odd address, as in a file.
        let padded: Vec<u8> = [vec![0], random_blocks(&mut stream, rows * blocks)].concat();
        let weights = &padded[1..];
        let x: Vec<i8> =
            (0..cols).map(|i| if i % 7 == 0 { [127, -127][i % 2] } else { stream.below(255) as i8 }).collect();
        let x: Vec<i8> = x.into_iter().map(|x| x.max(-127)).collect();
        let scales: Vec<f32> = (0..blocks).map(|_| stream.uniform() as f32 + 0.1).collect();
        let mut first: Option<Vec<f32>> = None;
        for table in KernelTable::available() {
            let mut y = vec![7.0; rows + 2];
            table.q8_0_matvec(weights, cols, &x, &scales, &mut y[1..rows + 1]);
            assert_eq!((y[0], y[rows + 1]), (7.0, 7.0), "{}: canaries", table.isa().name());
            let y = y[1..rows + 1].to_vec();
            for (row, found) in y.iter().enumerate() {
                let (mut sum, mut size) = (0f64, 0f64);
                for (block, bytes) in
                    weights[row * blocks * Q8_0_BYTES..].chunks_exact(Q8_0_BYTES).take(blocks).enumerate()
                {
                    let scale = f64::from(f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()) * f64::from(scales[block]);
                    for (w, x) in bytes[2..].iter().zip(&x[block * Q8_0_BLOCK..]) {
                        sum += f64::from(*w as i8) * f64::from(*x) * scale;
                        size += (f64::from(*w as i8) * f64::from(*x) * scale).abs();
                    }
                }
                assert!((f64::from(*found) - sum).abs() <= 1e-6 * size, "{}: {found} {sum}", table.isa().name());
            }
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(first.get_or_insert_with(|| y.clone())), bits(&y), "{}", table.isa().name());
        }
    }
}

#[test]
fn matrices_are_read_and_multiplied() {
    let mut stream = RandomStream::new(5, 0, 0, 0);
    let (rows, cols) = (600, 64);
    let weights: Vec<f32> = (0..rows * cols).map(|_| stream.normal() as f32).collect();
    let matrix = matrix(&q8_0_bytes(&weights), rows, cols).unwrap();
    let mut values = vec![0.0; rows * cols];
    matrix.dequantize(&context(2), &mut values);
    for (block, (found, expected)) in values.chunks(32).zip(weights.chunks(32)).enumerate() {
        let most = expected.iter().fold(0f32, |most, w| most.max(w.abs()));
        let off = found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(off <= most * (0.5 / 127.0 + 1e-3), "block {block}");
    }
    let x: Vec<f32> = (0..cols).map(|_| stream.normal() as f32).collect();
    let (mut one, mut two) = (vec![0.0; rows], vec![0.0; rows]);
    matrix.matvec(&context(1), &x, &mut one);
    matrix.matvec(&context(2), &x, &mut two);
    assert_eq!(one, two);
    for (row, found) in one.iter().enumerate() {
        let exact: f32 = values[row * cols..][..cols].iter().zip(&x).map(|(w, x)| w * x).sum();
        assert!((found - exact).abs() < 0.05 * 8.0, "{found} {exact}");
    }
    // A token of zeros has no scale to divide by.
    matrix.matvec(&context(1), &vec![0.0; cols], &mut one);
    assert!(one.iter().all(|&y| y == 0.0));
}

#[test]
fn bad_matrices_are_refused() {
    let message = |bytes: &[u8], rows, cols| matrix(bytes, rows, cols).unwrap_err().to_string();
    assert!(message(&[0; 34], 1, 33).contains("a multiple of 32"));
    assert!(message(&[0; 33], 1, 32).contains("m: Q8_0 1 x 32: expected 34 bytes, found 33"));
    assert!(message(&[0; 34], 1 << 60, 1 << 60).contains("fits in memory"));
    let mut bytes = [0; 68];
    bytes[35] = 0x7C;
    assert!(message(&bytes, 2, 32).contains("m: byte 34: expected a finite half-precision scale"));
}
