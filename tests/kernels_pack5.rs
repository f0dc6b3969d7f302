//! Five trits a byte: the documented bytes, round trips on every ISA, conversion to and from two bits.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::KernelTable;
use hybridq::quant::{PackedFiveTrits, PackedTernary};
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
