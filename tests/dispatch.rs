//! The dispatcher: no choice changes a bit, thresholds decide as written, metrics count, and a choice costs next to nothing.

use std::time::Instant;

use hybridq::dispatch::{Context, ContextOptions, DispatchConfig, NEVER, Operation, Size, Thresholds, Workload};
use hybridq::kernels::{Isa, KernelTable};

fn context(threads: usize) -> Context {
    let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
    context.with_dispatch(DispatchConfig::default()).unwrap()
}

#[test]
fn every_backend_gives_the_same_bits() {
    let contexts = [context(1), context(2), context(3)];
    for operation in Operation::ALL {
        for step in [0, 3, 9, 13, 20, 24] {
            let size = Size::along(operation, step, 40);
            let digest = |context: &Context| {
                let mut workload = Workload::new(operation, size);
                workload.run(context);
                workload.digest()
            };
            let expected = digest(&contexts[0]);
            for context in &contexts {
                for candidate in context.candidates(operation).unwrap() {
                    let found = digest(&candidate.context);
                    assert_eq!(found, expected, "{operation:?} {size} {} {}", candidate.backend, context.threads());
                }
            }
        }
    }
}

#[test]
fn candidates_take_the_backend_they_name() {
    for threads in [1, 2] {
        for operation in Operation::ALL {
            let candidates = context(threads).candidates(operation).unwrap();
            assert!(candidates.iter().all(|candidate| threads > 1 || !candidate.backend.parallel));
            for candidate in candidates {
                for work in [1, 1 << 40] {
                    assert_eq!(candidate.context.backend(operation, work, 2), candidate.backend, "{operation:?}");
                }
            }
        }
    }
}

#[test]
fn thresholds_decide() {
    let two = context(2);
    let mut config = DispatchConfig { direct_tokens: Some(5), ..Default::default() };
    let small = Isa::Portable;
    *config.of_mut(Operation::Norm) =
        Thresholds { serial_below: Some(100), small_below: Some(10), small_isa: Some(small), ..Default::default() };
    let tuned = two.with_dispatch(config.clone()).unwrap();
    let at = |work| tuned.backend(Operation::Norm, work, 1);
    assert_eq!((at(9).isa, at(9).parallel), (small, false));
    assert_eq!((at(10).isa, at(99).parallel, at(100).parallel), (two.kernels().isa(), false, true));
    for (tokens, direct) in [(1, true), (5, true), (6, false)] {
        assert_eq!(tuned.backend(Operation::TernaryMatmul, 1 << 30, tokens).direct, direct);
        assert!(!tuned.backend(Operation::TernaryMatmulTransposed, 1 << 30, tokens).direct);
    }
    let alone = context(1).with_dispatch(config.clone()).unwrap();
    assert!(!alone.backend(Operation::Norm, usize::MAX, 1).parallel, "one thread shares with nobody");
    config.of_mut(Operation::Norm).serial_below = Some(NEVER);
    assert!(!two.with_dispatch(config).unwrap().backend(Operation::Norm, 1 << 50, 1).parallel);
}

#[test]
fn a_level_beyond_the_cap_is_refused() {
    let capped = Context::new(ContextOptions { threads: Some(1), isa: Some(Isa::Portable) }).unwrap();
    for isa in Isa::ALL {
        let mut config = DispatchConfig::default();
        config.of_mut(Operation::Scale).isa = Some(isa);
        let refused = capped.with_dispatch(config.clone()).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(refused.is_ok(), isa == Isa::Portable, "{isa:?}");
        assert!(refused.err().is_none_or(|message| message.contains("operations.scale.isa")));
    }
    let best = KernelTable::best().unwrap().isa();
    assert!(Isa::ALL.contains(&best));
}

#[test]
fn metrics_count_what_is_called() {
    let context = context(2);
    let mut x = vec![1.0f32; 1 << 18];
    context.scale(&mut x, 1.0);
    assert!(context.metrics().is_empty(), "off at first");
    context.set_metrics(true);
    context.backend(Operation::Norm, 1, 1); // a question is no call
    for _ in 0..7 {
        context.scale(&mut x[..100], 1.0);
    }
    context.clone().scale(&mut x, 1.0);
    let metrics = context.metrics();
    let of = |parallel: bool| metrics.iter().find(|m| m.backend.parallel == parallel).unwrap();
    assert_eq!((metrics.len(), of(false).count, of(true).count), (2, 7, 1), "{metrics:?}");
    for m in &metrics {
        assert_eq!((m.operation, m.backend.isa), (Operation::Scale, context.kernels().isa()));
        assert!(m.min_ns as f64 <= m.mean_ns && m.mean_ns <= m.max_ns as f64 && m.total_ns >= m.max_ns, "{m:?}");
    }
    assert!(context.with_dispatch(DispatchConfig::default()).unwrap().metrics().is_empty(), "its own counters");
    context.set_metrics(false);
    context.scale(&mut x, 1.0);
    assert_eq!(context.metrics(), metrics);
    context.clear_metrics();
    assert!(context.metrics().is_empty());
}

/// One token's product on weights in the caches takes less than a hand-over between threads up to millions of weights.
#[test]
fn small_products_of_one_token_are_not_handed_over() {
    let two = context(2);
    for (rows, cols, parallel) in [(1024, 2048, false), (3072, 768, false), (4096, 4096, true)] {
        assert_eq!(two.backend(Operation::TernaryMatvec, rows * cols, 1).parallel, parallel, "{rows} x {cols}");
    }
}

#[test]
fn a_choice_is_cheap() {
    let context = context(2);
    const CALLS: usize = 200_000;
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for work in 0..CALLS {
            std::hint::black_box(context.backend(Operation::ALL[work % 15], std::hint::black_box(work), 1));
        }
        least = least.min(start.elapsed().as_secs_f64() * 1e9 / CALLS as f64);
    }
    assert!(least < 100.0, "{least} ns");
}

#[test]
fn dense_products_round_alike_on_every_context_of_a_machine() {
    let expected = context(1).dense_rounding();
    assert_eq!(expected.len(), 8);
    for threads in [1, 2, 3] {
        for table in KernelTable::available() {
            let options = ContextOptions { threads: Some(threads), isa: Some(table.isa()) };
            assert_eq!(Context::new(options).unwrap().dense_rounding(), expected);
        }
    }
}
