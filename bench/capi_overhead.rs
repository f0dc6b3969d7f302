//! What a call through the C interface costs over the same call from Rust: medians of many short calls in turn.
//!
//! `cargo bench --bench capi_overhead`; prints JSON Lines and fails above 50 ns.

use std::hint::black_box;
use std::time::Instant;

use hybridq::capi::*;
use hybridq::dispatch::{Context, ContextOptions};

const CALLS: usize = 2000;
const ROUNDS: usize = 301;

/// Median nanoseconds of one call.
fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Both functions in turn, so that what disturbs the machine disturbs both.
fn compare(name: &str, mut of_rust: impl FnMut(), mut of_c: impl FnMut()) -> f64 {
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..CALLS {
            work();
        }
        start.elapsed().as_secs_f64() * 1e9 / CALLS as f64
    };
    let (mut rust, mut c, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (one, other) = (time(&mut of_rust), time(&mut of_c));
        rust.push(one);
        c.push(other);
        differences.push(other - one);
    }
    let (rust, c, overhead) = (median(rust), median(c), median(differences));
    println!(
        "{{\"family\":\"capi\",\"call\":\"{name}\",\"rust_ns\":{rust:.1},\"c_ns\":{c:.1},\"overhead_ns\":{overhead:.1}}}"
    );
    overhead
}

fn main() {
    let rust = Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap();
    let mut c = std::ptr::null_mut();
    let options = hq_context_options {
        struct_size: size_of::<hq_context_options>() as u32,
        threads: 1,
        isa: std::ptr::null(),
        device: std::ptr::null(),
        log: None,
        log_user_data: std::ptr::null_mut(),
        log_level: 0,
    };
    // SAFETY: a right struct and a place for the handle.
    assert_eq!(unsafe { hq_context_new(&options, &mut c) }, hq_status::HQ_OK);
    let (x, mut total) = ([0.5f32; 16], 0.0f64);
    let (rows, cols) = (64, 64);
    let weights = vec![0.3f32; rows * cols];
    let packed =
        hybridq::quant::PackedTernary::pack(&rust, &weights, rows, cols, hybridq::quant::Granularity::Tensor).unwrap();
    let (values, scale, sum) = (vec![3i8; cols], [0.1f32], [3 * cols as i32]);
    let (mut y, mut other) = (vec![0.0f32; rows], vec![0.0f32; rows]);
    let mut worst = compare(
        "norm of 16",
        || {
            black_box(rust.norm(black_box(&x)));
        },
        || {
            // SAFETY: arrays of these sizes.
            black_box(unsafe { hq_norm(c, black_box(x.as_ptr()), x.len(), &mut total) });
        },
    );
    let product = compare(
        "ternary product 64 x 64, one token",
        || rust.ternary_matmul(&packed.data, rows, cols, &packed.scales, black_box(&values), &scale, &sum, &mut y),
        || {
            let (data, len) = (packed.data.as_ptr(), packed.data.len());
            let (scales, input) = (packed.scales.as_ptr(), black_box(values.as_ptr()));
            // SAFETY: arrays of these sizes.
            black_box(unsafe {
                hq_ternary_matmul(
                    c,
                    data,
                    len,
                    rows,
                    cols,
                    scales,
                    1,
                    input,
                    scale.as_ptr(),
                    sum.as_ptr(),
                    1,
                    other.as_mut_ptr(),
                )
            });
        },
    );
    worst = worst.max(product);
    // SAFETY: a live handle.
    unsafe { hq_context_free(c) };
    assert!(worst <= 50.0, "a call through C costs {worst:.0} ns more, at most 50 are allowed");
}
