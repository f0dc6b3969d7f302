//! `cargo bench`: every operation of the dispatcher at a small and a large size, on one thread and on all. For following
//! a change; `hybridq bench` holds the kernels against the machine.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hybridq::dispatch::{Context, ContextOptions, Operation, Size, Workload};

/// Steps of 40 from small to large.
const STEPS: [usize; 2] = [14, 35];

fn operations(criterion: &mut Criterion) {
    let context = |threads| Context::new(ContextOptions { threads, isa: None }).expect("threads and kernels");
    let contexts = [context(Some(1)), context(None)];
    for operation in Operation::ALL {
        let mut group = criterion.benchmark_group(operation.name());
        for step in STEPS {
            let size = Size::along(operation, step, 40);
            group.throughput(Throughput::Elements(size.work(operation) as u64));
            for context in &contexts {
                let id = BenchmarkId::new(size.to_string().replace(' ', ""), format!("{}t", context.threads()));
                let mut workload = Workload::new(operation, size);
                group.bench_function(id, |bencher| bencher.iter(|| black_box(&mut workload).run(context)));
            }
        }
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500)).without_plots();
    targets = operations
}
criterion_main!(kernels);
