//! What a step of the trainer allocates once buffers have their sizes, counted by the allocator: nothing. Exceptions are crates
//! that allocate inside: rayon's queue takes a block for every 63 pieces of work that are handed to its threads (and gemm packs
//! the operands of spectral steps with f32 products, which are not counted here).

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{GradPrecision, HeadPrecision};
use hybridq::optim::TrustNorm;
use hybridq::train::{LanguageModelTrainer, RunPlace, TrainConfig};

/// Allocations from this size on would be new pages.
const LARGE: usize = 1 << 16;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGE_ONES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes, Relaxed);
    LARGE_ONES.fetch_add(usize::from(bytes >= LARGE), Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steps_after_the_second_allocate_their_metrics_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    let words: String = (0..4000).map(|i| format!("{} bottles of beer on the wall\n", i * 7919 % 100)).collect();
    std::fs::write(&text, words).unwrap();
    for (model, threads, trust_norm) in [
        ("small-plain", 1, TrustNorm::L2),
        ("small-plain", 2, TrustNorm::L2),
        ("tiny", 2, TrustNorm::L2),
        ("tiny", 1, TrustNorm::Spectral),
        ("tiny", 2, TrustNorm::Spectral),
    ] {
        let config = TrainConfig {
            data: Some(text.clone()),
            batch_size: 2,
            seq_length: 64,
            gradient_precision: GradPrecision::Int8,
            head_precision: Some(HeadPrecision::Int8),
            threads: Some(threads),
            trust_norm,
            ..TrainConfig::for_model(model)
        };
        let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
        let mut trainer = LanguageModelTrainer::open(&context, config, RunPlace::Nowhere).unwrap();
        for _ in 0..2 {
            trainer.step().unwrap();
        }
        // The clusters' losses, in the metrics of one of the ten steps and in the history's copy of them.
        let of_metrics = 1;
        let of_rayon = usize::from(threads > 1);
        let most = of_metrics + of_rayon;
        // A thread's scratch memory grows with the largest task it has met, and which task it meets is chance: of several
        // stretches of steps one must be within the bounds.
        let mut counts = [usize::MAX; 3];
        for _ in 0..if threads == 1 { 1 } else { 12 } {
            counts = count_of_steps(&mut trainer);
            let [allocations, bytes, large] = counts;
            println!(
                "{model}, {threads} threads: {allocations} allocations of {bytes} bytes a step, {large} large ones"
            );
            if allocations <= most && large == 0 {
                break;
            }
        }
        let [allocations, _, large] = counts;
        assert_eq!(large, 0, "allocations of {LARGE} bytes or more in a step");
        assert!(allocations <= most, "{allocations} allocations in a step, {most} allowed");
    }
}

/// Allocations, their bytes and the large ones of a step, over ten steps.
fn count_of_steps(trainer: &mut LanguageModelTrainer) -> [usize; 3] {
    const STEPS: usize = 10;
    let counters = [&ALLOCATIONS, &BYTES, &LARGE_ONES];
    let before = counters.map(|counter| counter.load(Relaxed));
    for _ in 0..STEPS {
        trainer.step().unwrap();
    }
    let after = counters.map(|counter| counter.load(Relaxed));
    std::array::from_fn(|i| (after[i] - before[i]).div_ceil(STEPS))
}
