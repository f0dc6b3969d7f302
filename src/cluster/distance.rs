//! Exact distances.
#![forbid(unsafe_code)]

/// Lanes of [`squared_distance`]: independent sums, so that the compiler can use vector registers.
const LANES: usize = 8;

/// `sum (a - b)^2` in f64, in fixed lanes.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            lanes[lane] += difference * difference;
        }
    }
    for (lane, (&a, &b)) in rest_a.iter().zip(rest_b).enumerate() {
        let difference = f64::from(a) - f64::from(b);
        lanes[lane] += difference * difference;
    }
    lanes.iter().sum()
}
