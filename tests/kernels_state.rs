//! Moments of optimizers in 16 and 8 bits: the same bits on every ISA, the formula in f64, no bias, between canaries.

use hybridq::kernels::{KernelTable, StochasticRounding};
use hybridq::tensor::RandomStream;

const SIZES: &[usize] = &[0, 1, 15, 127, 128, 129, 255, 256, 257, 511, 1021];

fn rounding(step: u32) -> StochasticRounding {
    StochasticRounding::new(5, 77, step, 3)
}

/// Values over many magnitudes, some of them zero.
fn moments(n: usize, is_signed: bool) -> Vec<f32> {
    let mut stream = RandomStream::new(n as u64, 911, 0, 0);
    let mut value = || (stream.normal() * 10f64.powf(-8.0 * stream.uniform())) as f32;
    (0..n).map(|i| if i % 11 == 3 { 0.0 } else { value() }).map(|x| if is_signed { x } else { x.abs() }).collect()
}

#[test]
fn codes_are_the_formulas_on_every_isa() {
    for &n in SIZES {
        for is_signed in [true, false] {
            let x = moments(n, is_signed);
            let mut first = None;
            for table in KernelTable::available() {
                // A canary at each end of everything written.
                let (mut halves, mut codes) = (vec![0xABCDu16; n + 2], vec![0xABu8; n + 2]);
                let mut maxima = vec![-7.5f32; n.div_ceil(256) + 2];
                let mut decoded = vec![-7.5f32; 2 * n + 2];
                let blocks = maxima.len() - 1;
                table.state_encode_bf16(&x, 9, rounding(1), &mut halves[1..=n]);
                table.state_decode_bf16(&halves[1..=n], &mut decoded[1..=n]);
                table.state_encode_int8(&x, 9, rounding(1), is_signed, &mut codes[1..=n], &mut maxima[1..blocks]);
                table.state_decode_int8(&codes[1..=n], &maxima[1..blocks], is_signed, &mut decoded[n + 1..=2 * n]);
                assert!([halves[0], halves[n + 1]] == [0xABCD; 2] && [codes[0], codes[n + 1]] == [0xAB; 2]);
                assert!([maxima[0], maxima[blocks], decoded[0], decoded[2 * n + 1]] == [-7.5; 4]);
                let found = (halves, codes, maxima, decoded);
                let expected = first.get_or_insert_with(|| found.clone());
                assert!(*expected == found, "{} differs from portable at n = {n}", table.isa().name());
            }
            let (halves, codes, maxima, decoded) = first.unwrap();
            for (i, &x) in x.iter().enumerate() {
                // bf16: one of the two neighbours, by at most 2^-7 of the value.
                let half = f32::from_bits(u32::from(halves[i + 1]) << 16);
                assert!(half == decoded[i + 1] && (half - x).abs() <= x.abs() / 128.0, "{half} {x}");
                let (max, code, eight) = (f64::from(maxima[1 + i / 256]), codes[i + 1], f64::from(decoded[n + 1 + i]));
                let share = f64::from(x.abs()) / max;
                let (place, found) = match is_signed {
                    true => (127.0 * share.sqrt() * f64::from(x).signum(), f64::from(code as i8)),
                    false => (255.0 * share.powf(0.25), f64::from(code)),
                };
                let least = if is_signed || x == 0.0 { 0.0 } else { 1.0 };
                assert!((found - place).abs() < 1.0 + 1e-4 || found == least, "code {found} for {place}");
                let value = match is_signed {
                    true => max * (found / 127.0).powi(2) * found.signum(),
                    false => max * (found / 255.0).powi(4),
                };
                assert!(
                    (eight - value).abs() <= 1e-6 * max && (x == 0.0 || is_signed || eight > 0.0),
                    "{eight} {value}"
                );
            }
        }
    }
}

/// Over many steps the mean of bf16 values is the value, and of codes the place between two.
#[test]
fn rounding_is_unbiased() {
    const STEPS: u32 = 4000;
    let table = &KernelTable::available()[0];
    let x: Vec<f32> = (0..128).map(|i| 1.0 + i as f32 * 0.00731).collect();
    let (mut halves, mut codes, mut maxima) = (vec![0u16; 128], vec![0u8; 128], [0f32]);
    let (mut of_halves, mut of_codes) = (vec![0f64; 128], vec![0f64; 128]);
    for step in 0..STEPS {
        table.state_encode_bf16(&x, 0, rounding(step), &mut halves);
        table.state_encode_int8(&x, 0, rounding(step), true, &mut codes, &mut maxima);
        for i in 0..128 {
            of_halves[i] += f64::from(f32::from_bits(u32::from(halves[i]) << 16));
            of_codes[i] += f64::from(codes[i] as i8);
        }
    }
    for (i, &x) in x.iter().enumerate() {
        let place = 127.0 * f64::from(x / maxima[0]).sqrt();
        // Five standard deviations of a coin's mean, times the distance of the two neighbours.
        let off = 2.5 / f64::from(STEPS).sqrt();
        assert!((of_halves[i] / f64::from(STEPS) - f64::from(x)).abs() < off / 128.0, "{x}");
        assert!((of_codes[i] / f64::from(STEPS) - place).abs() < off, "{place}");
    }
}

#[test]
fn what_is_not_finite_or_tiny() {
    for table in KernelTable::available() {
        let mut halves = [0u16; 4];
        table.state_encode_bf16(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0], 0, rounding(0), &mut halves);
        assert!(halves[..2] == [0x7F80, 0xFF80] && f32::from_bits(u32::from(halves[2]) << 16).is_nan());
        for bad in [f32::NAN, f32::INFINITY] {
            let (mut codes, mut maxima, mut x) = ([9u8; 300], [0f32; 2], [1f32; 300]);
            x[299] = bad;
            table.state_encode_int8(&x, 0, rounding(0), true, &mut codes, &mut maxima);
            assert!(maxima[0] == 1.0 && maxima[1].is_nan() && codes[299] == 0);
            table.state_decode_int8(&codes, &maxima, true, &mut x);
            assert!(x[255] == 1.0 && x[256].is_nan());
        }
        let (mut codes, mut maxima) = ([9u8; 2], [1f32]);
        table.state_encode_int8(&[1e-38, 0.0], 0, rounding(0), false, &mut codes, &mut maxima);
        assert!(codes == [0, 0] && maxima == [0.0]);
    }
}
