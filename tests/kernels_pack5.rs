//! Five trits a byte: the documented bytes, round trips on every ISA, conversion to and from two bits.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::{Activations, KernelTable, TERNARY_MAX_K, reference};
use hybridq::quant::{PackedFiveTrits, PackedTernary, QuantizedRows};
use hybridq::tensor::RandomStream;

fn trits(n: usize) -> Vec<i8> {
    let mut stream = RandomStream::new(8, 94, 0, 0);
    (0..n).map(|_| stream.below(3) as i8 - 1).collect()
}

#[test]
fn bytes_are_as_documented() {
    for table in KernelTable::available() {
        // Row 17, column 9 = tile 1, byte 4 * 1 + 1, digit 2 (weight 9): 121 + 9 = 130.
        let mut values = vec![0i8; 18 * 10];
        values[17 * 10 + 9] = 1;
        let mut packed = vec![0u8; KernelTable::pack5_bytes(18, 10)];
        table.pack5(&values, 18, 10, &mut packed);
        for (index, &byte) in packed.iter().enumerate() {
            let v: u32 = if index == 64 + 5 { 130 } else { 121 };
            assert_eq!(u32::from(byte), (256 * v).div_ceil(243), "{:?} {index}", table.isa());
        }
    }
}

#[test]
fn round_trips_at_every_tail() {
    for table in KernelTable::available() {
        for rows in [0, 1, 15, 16, 17, 63, 64, 65, 131] {
            for cols in [0, 1, 4, 19, 20, 21, 31, 40, 97] {
                let values = trits(rows * cols);
                let mut packed = vec![0u8; KernelTable::pack5_bytes(rows, cols)];
                table.pack5(&values, rows, cols, &mut packed);
                let far: Vec<i8> = values.iter().enumerate().map(|(i, v)| v * [1, 2, 127][i % 3]).collect();
                let mut same = vec![77u8; packed.len()];
                table.pack5(&far, rows, cols, &mut same);
                assert!(packed == same, "signs count, {:?} {rows} {cols}", table.isa());
                let mut back = vec![77i8; rows * cols + 2];
                table.unpack5(&packed, rows, cols, &mut back[1..=rows * cols]);
                assert!(back[1..=rows * cols] == values[..], "{:?} {rows} {cols}", table.isa());
                assert_eq!((back[0], back[rows * cols + 1]), (77, 77), "canary");
            }
        }
    }
}

#[test]
fn every_byte_decodes_to_trits_the_same_everywhere() {
    let packed: Vec<u8> = (0..=255).collect();
    let tables = KernelTable::available();
    let mut expected = vec![0; 64 * 20];
    tables[0].unpack5(&packed, 64, 20, &mut expected);
    for table in tables {
        let mut found = vec![9; 64 * 20];
        table.unpack5(&packed, 64, 20, &mut found);
        assert!(found == expected && found.iter().all(|trit| (-1..=1).contains(trit)));
    }
}

#[test]
fn converts_to_two_bits_and_back() {
    let context = Context::new(ContextOptions::default()).unwrap();
    let values = trits(70 * 50);
    let two_bits = PackedTernary::from_trits(&context, &values, 70, 50, vec![0.5]).unwrap();
    let compact = PackedFiveTrits::from_packed_ternary(&context, &two_bits);
    assert_eq!(compact.data.len(), 2 * 3 * 256);
    assert_eq!(compact.unpack(&context), values);
    let back = compact.to_packed_ternary(&context).unwrap();
    assert!(back.data[..] == two_bits.data[..] && back.scales == two_bits.scales);
}

fn activations(n: usize) -> Vec<i8> {
    let mut stream = RandomStream::new(8, 95, 0, 0);
    (0..n).map(|_| stream.next_u32() as u8 as i8).collect()
}

/// One token on every ISA, off any boundary and between canaries, against the reference.
fn check_matvec(w: &[i8], rows: usize, cols: usize, x: &[i8]) {
    let expected = reference::ternary_matmul(w, x, rows, cols, 1);
    let sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
    let row_scales: Vec<f32> = (0..rows).map(|r| 0.011 * (r + 1) as f32).collect();
    let shifted = [&[99], x].concat();
    let x = Activations { values: &shifted[1..], scales: &[0.37], sums: &[sum] };
    for table in KernelTable::available() {
        let at = format!("{} {rows} x {cols}", table.isa().name());
        let mut packed = vec![0xEE; KernelTable::pack5_bytes(rows, cols) + 1];
        table.pack5(w, rows, cols, &mut packed[1..]);
        let mut y = vec![77i32; rows + 2];
        table.pack5_matvec_i32(&packed[1..], cols, x, &mut y[1..=rows]);
        assert!(y[1..=rows].iter().map(|&y| i64::from(y)).eq(expected.iter().copied()), "{at}");
        assert_eq!((y[0], y[rows + 1]), (77, 77), "{at}: wrote outside");
        for scales in [&row_scales[..], &[0.3]] {
            if scales.len() != 1 && scales.len() != rows {
                continue;
            }
            let mut y = vec![77f32; rows + 2];
            table.pack5_matvec(&packed[1..], cols, x, scales, &mut y[1..=rows]);
            for (r, &sum) in expected.iter().enumerate() {
                let scaled = sum as f32 * (0.37 * scales[if scales.len() == 1 { 0 } else { r }]);
                assert_eq!(y[r + 1].to_bits(), scaled.to_bits(), "{at}");
            }
            assert_eq!((y[0], y[rows + 1]), (77.0, 77.0), "{at}: wrote outside");
        }
    }
}

#[test]
fn one_token_equals_the_reference_at_every_tail() {
    for rows in [0, 1, 7, 15, 16, 17, 31, 33, 64, 65, 131] {
        for cols in [0, 1, 3, 4, 19, 20, 21, 39, 41, 239, 241, 321, 777] {
            check_matvec(&trits(rows * cols), rows, cols, &activations(cols));
        }
    }
}

#[test]
fn extremes_do_not_overflow() {
    // 1638 steps is the longest run of the products of fractions.
    for cols in [1638 * 20, 1638 * 20 + 1, TERNARY_MAX_K - 1, TERNARY_MAX_K] {
        for (w, x) in [(1, 127), (1, -128), (-1, 127), (-1, -128), (0, -128)] {
            check_matvec(&vec![w; 2 * cols], 2, cols, &vec![x; cols]);
        }
        check_matvec(&trits(3 * cols), 3, cols, &activations(cols));
    }
}

#[test]
fn one_token_is_the_same_at_1_6_and_2_bits_and_every_thread_count() {
    let (rows, cols) = (1100, 1030);
    let values = trits(rows * cols);
    let mut x = QuantizedRows::zeroed(1, cols);
    x.values.copy_from_slice(&activations(cols));
    x.scales[0] = 0.013;
    x.sums[0] = x.values.iter().map(|&x| i32::from(x)).sum();
    let scales: Vec<f32> = (0..rows).map(|r| 0.5 + r as f32).collect();
    let results = [1, 2, 3].map(|threads| {
        let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
        let two_bits = PackedTernary::from_trits(&context, &values, rows, cols, scales.clone()).unwrap();
        let compact = PackedFiveTrits::from_packed_ternary(&context, &two_bits);
        assert_eq!(compact.unpack(&context), values);
        let (mut y2, mut y5) = (vec![0.0; rows], vec![0.0; rows]);
        two_bits.matmul(&context, &x, 1, &mut y2);
        compact.matvec(&context, &x, &mut y5);
        assert_eq!(y2, y5);
        y5
    });
    assert!(results[0] == results[1] && results[0] == results[2]);
}
