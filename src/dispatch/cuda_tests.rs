//! The CUDA row without a device: the decision on made-up figures, devices that only seem to be some, and devices that fail.
#![forbid(unsafe_code)]

use std::cell::Cell;

use super::config::{DispatchConfig, NEVER};
use super::cuda::{Cuda, CudaDevice, Open, OpenDevice, Traffic};
use super::{Backend, Context, ContextOptions, Int8Matrix, Operation, Size, Workload};
use crate::gpu::HostCall;
use crate::{Error, Result};

const OPERATIONS: [Operation; 4] =
    [Operation::Int8Matmul, Operation::KmeansAssign, Operation::TernaryMatmul, Operation::TernaryMatmulTransposed];

thread_local! {
    /// Devices that this thread opened, calls it made on them, and devices closed again.
    static OPENED: Cell<usize> = const { Cell::new(0) };
    static CALLED: Cell<usize> = const { Cell::new(0) };
    static CLOSED: Cell<usize> = const { Cell::new(0) };
}

/// Held by a device.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        plus_one(&CLOSED);
    }
}

fn plus_one(count: &'static std::thread::LocalKey<Cell<usize>>) {
    count.set(count.get() + 1);
}

fn context(threads: usize) -> Context {
    let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
    context.with_dispatch(DispatchConfig::default()).unwrap()
}

/// The name of every device here.
const NAME: &str = "Pretended";

fn opened(calls: impl Fn(HostCall<'_>) -> Result<()> + Send + 'static) -> Result<OpenDevice> {
    Ok(OpenDevice { name: NAME.into(), calls: Box::new(calls) })
}

/// A device that does the calls on one thread of the CPU.
fn pretender(_device: u32) -> Result<OpenDevice> {
    plus_one(&OPENED);
    let here = context(1);
    opened(move |call| {
        plus_one(&CALLED);
        match call {
            HostCall::TernaryMatmul { packed, shape: (rows, cols), weight_scales, x, y } => {
                here.ternary_matmul(packed, rows, cols, weight_scales, x.values, x.scales, x.sums, y);
            }
            HostCall::TernaryMatmulTransposed { packed, shape: (rows, cols), dy, dx } => {
                here.ternary_matmul_transposed(packed, rows, cols, dy.values, dy.scales, dy.sums, dx);
            }
            HostCall::Int8MatmulTn { a, b, shape: (tokens, m, n), scales, accumulate, c } => {
                let (a, b) = (Int8Matrix::transposed(a, m), Int8Matrix::new(b, n));
                here.int8_matmul((m, n, tokens), a, b, scales, accumulate, c, n);
            }
            HostCall::KmeansAssign { points, dim, centroids, labels, distances } => {
                let k = centroids.len() / dim;
                here.kmeans_assign(points, labels.len(), dim, centroids, k, labels, distances);
            }
            HostCall::Upload(_) => {}
            HostCall::Download(bytes) => bytes.fill(1),
        }
        Ok(())
    })
}

/// Spoils what a failed call may spoil, and fails as `error` says.
fn failing(error: fn() -> Error) -> Result<OpenDevice> {
    plus_one(&OPENED);
    let held = Held;
    opened(move |call| {
        let _ = &held;
        plus_one(&CALLED);
        match call {
            HostCall::TernaryMatmul { y, .. } => y.fill(f32::NAN),
            HostCall::TernaryMatmulTransposed { dx, .. } => dx.fill(f32::NAN),
            HostCall::Int8MatmulTn { c, accumulate: false, .. } => c.fill(f32::NAN),
            HostCall::KmeansAssign { labels, distances, .. } => {
                labels.fill(u32::MAX);
                distances.fill(f32::NAN);
            }
            _ => {}
        }
        Err(error())
    })
}

fn lost(_device: u32) -> Result<OpenDevice> {
    failing(|| Error::Device("unspecified launch failure".into()))
}

fn full(_device: u32) -> Result<OpenDevice> {
    failing(|| Error::DeviceMemory("cuda:0: 64 bytes wanted, 0 free".into()))
}

fn choosy(_device: u32) -> Result<OpenDevice> {
    failing(|| Error::invalid("points", "finite coordinates", "one that is not"))
}

fn absent(_device: u32) -> Result<OpenDevice> {
    plus_one(&OPENED);
    Err(Error::NoDevice("no CUDA device".into()))
}

/// Every call that may goes to the device.
fn forced() -> DispatchConfig {
    let mut config = DispatchConfig { cuda: Some(CudaDevice::default()), ..Default::default() };
    OPERATIONS.into_iter().for_each(|operation| config.of_mut(operation).cuda_from = Some(0));
    config
}

fn digest(operation: Operation, context: &Context) -> u64 {
    let mut workload = Workload::new(operation, Size { rows: 67, cols: 33, depth: 5 });
    workload.run(context);
    workload.digest()
}

/// An H200's figures, about, beside two threads of a CPU with AVX-512.
fn learned() -> DispatchConfig {
    let (upload_per_s, download_per_s) = (12_000_000_000, 10_000_000_000);
    let costs = CudaDevice { latency_ns: 60_000, upload_per_s, download_per_s, ..Default::default() };
    let mut config = DispatchConfig { cuda: Some(costs), ..Default::default() };
    for operation in OPERATIONS {
        let thresholds = config.of_mut(operation);
        (thresholds.cuda_work_per_s, thresholds.cpu_work_per_s) = (Some(300_000_000_000_000), Some(400_000_000_000));
    }
    config
}

#[test]
fn a_call_pays_where_its_work_outweighs_its_copies() {
    let cuda = Cuda::of(&learned(), Some(lost)).unwrap().unwrap();
    let product = |rows: usize, cols: usize, tokens: usize| {
        let traffic = Traffic::ternary(rows * cols / 4, cols, rows, tokens);
        cuda.pays(Operation::TernaryMatmul, rows * cols * tokens, traffic)
    };
    // 2 tokens of 4096 x 4096: 4 MB there, 0.35 ms, for 84 us of the CPU's. 512 tokens: 6.3 MB there, 8.4 MB back, 1.4 ms
    // for 21 ms. 64 x 64: the latency alone is more.
    assert!(!product(4096, 4096, 2) && product(4096, 4096, 512) && !product(64, 64, 512));
    // The same work, other copies: a long sum pays, a short one with a large result does not.
    let sum =
        |m: usize, tokens: usize| cuda.pays(Operation::Int8Matmul, m * m * tokens, Traffic::int8(m, m, tokens, false));
    assert!(sum(1024, 4096) && !sum(16384, 16));
    // One more read of the result tips it.
    let (m, tokens) = (4096, 210);
    let pays = |add| cuda.pays(Operation::Int8Matmul, m * m * tokens, Traffic::int8(m, m, tokens, add));
    assert!(pays(false) && !pays(true));
    let nearest = |n: usize, k: usize| cuda.pays(Operation::KmeansAssign, n * 64 * k, Traffic::kmeans(n, 64, k));
    assert!(nearest(1 << 20, 256) && !nearest(1 << 20, 4) && !nearest(100, 256));
}

#[test]
fn the_model_is_what_it_says() {
    let mut config = DispatchConfig {
        cuda: Some(CudaDevice {
            device: 3,
            latency_ns: 1_000_000_000,
            upload_per_s: 10,
            download_per_s: 5,
            ..Default::default()
        }),
        ..Default::default()
    };
    let thresholds = config.of_mut(Operation::TernaryMatmul);
    (thresholds.cuda_work_per_s, thresholds.cpu_work_per_s) = (Some(100), Some(10));
    // 1 + 20 / 10 + 10 / 5 + work / 100 seconds there, 0.8 x work / 10 here: even at 71.4.
    let pays = |config: &DispatchConfig, work| {
        let cuda = Cuda::of(config, Some(lost)).unwrap().unwrap();
        cuda.pays(Operation::TernaryMatmul, work, Traffic { up: 20, down: 10 })
    };
    assert!(!pays(&config, 71) && pays(&config, 72));
    // Nothing goes where something is not known.
    for missing in 0..4 {
        let mut config = config.clone();
        let (costs, thresholds) = (config.cuda.as_mut().unwrap(), config.operations.values_mut().next().unwrap());
        match missing {
            0 => costs.upload_per_s = 0,
            1 => costs.download_per_s = 0,
            2 => thresholds.cuda_work_per_s = None,
            _ => thresholds.cpu_work_per_s = Some(0),
        }
        assert!(!pays(&config, usize::MAX), "{missing}");
    }
    // A threshold of the user's beats the rates, both ways.
    config.of_mut(Operation::TernaryMatmul).cuda_from = Some(5);
    assert!(!pays(&config, 4) && pays(&config, 5));
    config.of_mut(Operation::TernaryMatmul).cuda_from = Some(NEVER);
    assert!(!pays(&config, 1 << 60));
}

/// What reads each byte once stays: not even a device that needs no time at all beats the CPU when copying takes longer.
#[test]
fn element_wise_work_stays() {
    let cuda = Cuda::of(&learned(), Some(lost)).unwrap().unwrap();
    for operation in Operation::ALL {
        assert_eq!(operation.may_leave_the_cpu(), OPERATIONS.contains(&operation));
        let huge = Traffic { up: 0, down: 0 };
        assert_eq!(cuda.pays(operation, 1 << 50, huge), OPERATIONS.contains(&operation), "{operation:?}");
        if !operation.may_leave_the_cpu() {
            let mut config = forced();
            config.of_mut(operation).cuda_from = Some(0);
            let refused = Cuda::of(&config, Some(lost)).unwrap_err().to_string();
            assert!(refused.contains(operation.name()) && refused.contains("kmeans_assign"), "{refused}");
        }
    }
}

#[test]
fn calls_go_to_the_device_and_are_counted() {
    let two = context(2);
    let there = two.with_devices(forced(), Some(pretender)).unwrap();
    there.set_metrics(true);
    assert_eq!(OPENED.get(), 0, "not before the first call");
    for operation in OPERATIONS {
        assert_eq!(there.backend(operation, 1, 2), Backend::CUDA);
        assert_eq!(digest(operation, &there), digest(operation, &two), "{operation:?}");
    }
    assert_eq!((OPENED.get(), CALLED.get()), (1, 4));
    let metrics = there.metrics();
    assert_eq!(metrics.len(), 4, "{metrics:?}");
    for found in &metrics {
        assert!(found.backend.cuda && found.count == 1 && found.total_ns > 0, "{found:?}");
        assert_eq!((found.backend.name(), found.backend.to_string()), ("cuda", "cuda".into()));
        assert!(serde_json::to_string(found).unwrap().contains("\"cuda\":true"));
    }
    // One token's product and everything else stay.
    digest(Operation::Norm, &there);
    let one = Size { rows: 67, cols: 33, depth: 1 };
    Workload::new(Operation::TernaryMatvec, one).run(&there);
    assert_eq!((CALLED.get(), there.metrics().len()), (4, 6));
    assert!(there.metrics().iter().filter(|found| !found.backend.cuda).count() == 2);
    let status = there.cuda().unwrap();
    assert!(status.contains("cuda:0") && status.contains("kmeans_assign, ternary_matmul,"), "{status}");
}

#[test]
fn a_device_that_fails_is_not_asked_again() {
    for (open, opened, called, reason) in
        [(lost as Open, 1, 1, "launch failure"), (full, 1, 1, "0 free"), (absent, 1, 0, "no CUDA device")]
    {
        for operation in OPERATIONS {
            OPENED.set(0);
            CALLED.set(0);
            CLOSED.set(0);
            let two = context(2);
            let there = two.with_devices(forced(), Some(open)).unwrap();
            there.set_metrics(true);
            for _ in 0..3 {
                assert_eq!(digest(operation, &there), digest(operation, &two), "{operation:?}");
            }
            assert_eq!((OPENED.get(), CALLED.get(), CLOSED.get()), (opened, called, called), "{reason}");
            assert!(!there.backend(operation, 1 << 50, 2).cuda);
            assert!(there.metrics().iter().all(|found| !found.backend.cuda && found.count == 3));
            let advice = there.advice();
            assert!(advice.iter().any(|line| line.contains(reason) && line.contains("cuda:0")), "{advice:?}");
            assert!(advice.iter().all(|line| !line.contains('\n')));
        }
    }
}

/// Thresholds learned on another device say nothing about this one.
#[test]
fn a_device_of_another_name_is_not_used() {
    let two = context(2);
    for (name, calls) in [(NAME, 1), ("", 1), ("Another", 0)] {
        CALLED.set(0);
        let cuda = CudaDevice { name: name.into(), ..forced().cuda.unwrap() };
        let there = two.with_devices(DispatchConfig { cuda: Some(cuda), ..forced() }, Some(pretender)).unwrap();
        assert_eq!(digest(Operation::TernaryMatmul, &there), digest(Operation::TernaryMatmul, &two));
        assert_eq!((CALLED.get(), there.cuda_has_failed()), (calls, calls == 0), "{name}");
        let status = there.cuda().unwrap();
        assert_eq!(status.contains("learned on \"Another\", this is \"Pretended\""), calls == 0, "{status}");
    }
}

/// A sum that the device was to add to is added once.
#[test]
fn a_failed_sum_is_added_once() {
    let two = context(2);
    let (a, b, scales) = ([3i8; 4 * 6], [5i8; 4 * 7], [0.5f32; 6]);
    for open in [pretender as Open, lost, choosy] {
        let there = two.with_devices(forced(), Some(open)).unwrap();
        let mut c = vec![1.0f32; 6 * 7];
        let (left, right) = (Int8Matrix::transposed(&a, 6), Int8Matrix::new(&b, 7));
        there.int8_matmul((6, 7, 4), left, right, &scales, true, &mut c, 7);
        assert!(c.iter().all(|&sum| sum == 31.0), "{c:?}");
    }
}

#[test]
fn values_that_the_device_does_not_take_are_the_cpus_and_the_device_stays() {
    let two = context(2);
    let there = two.with_devices(forced(), Some(choosy)).unwrap();
    for _ in 0..2 {
        assert_eq!(digest(Operation::KmeansAssign, &there), digest(Operation::KmeansAssign, &two));
    }
    assert_eq!((OPENED.get(), CALLED.get()), (1, 2));
    assert!(!there.cuda_has_failed() && there.backend(Operation::KmeansAssign, 1, 2).cuda);
}

/// Two threads share a context and its device.
#[test]
fn threads_share_a_device() {
    let two = context(2);
    let there = two.with_devices(forced(), Some(pretender)).unwrap();
    let expected = digest(Operation::TernaryMatmul, &two);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(digest(Operation::TernaryMatmul, &there), expected)));
        }
    });
    there.set_metrics(true);
    digest(Operation::TernaryMatmul, &there);
    assert!(there.metrics()[0].backend.cuda);
}

#[test]
fn without_the_feature_or_a_device_nothing_changes() {
    let two = context(2);
    assert!(two.cuda().is_none() && two.dispatch_config().cuda.is_none());
    // No place to open a device from: as if the configuration named none, which it keeps all the same.
    let there = two.with_devices(forced(), None).unwrap();
    assert!(there.cuda().is_none() && there.dispatch_config() == &forced());
    for operation in OPERATIONS {
        assert_eq!(there.backend(operation, 1 << 50, 2), two.backend(operation, 1 << 50, 2));
        assert_eq!(digest(operation, &there), digest(operation, &two));
    }
    assert_eq!((OPENED.get(), CALLED.get()), (0, 0));
    // A configuration without a device opens none, whatever the thresholds.
    let none = DispatchConfig { cuda: None, ..forced() };
    let there = two.with_devices(none, Some(pretender)).unwrap();
    OPERATIONS.into_iter().for_each(|operation| assert_eq!(digest(operation, &there), digest(operation, &two)));
    assert_eq!((OPENED.get(), CALLED.get()), (0, 0));
}

#[test]
fn what_calls_cost_is_learned() {
    let (two, small) = (context(2), |_| Size { rows: 96, cols: 80, depth: 7 });
    let mut config = DispatchConfig { direct_tokens: Some(9), ..Default::default() };
    config.of_mut(Operation::TernaryMatmul).serial_below = Some(77);
    super::cuda_calibration::learn(&two, 2, pretender, small, &mut config).unwrap();
    let costs = config.cuda.clone().unwrap();
    assert_eq!(costs.name, NAME);
    assert!(costs.device == 2 && costs.latency_ns > 0 && costs.upload_per_s > 0 && costs.download_per_s > 0);
    for operation in OPERATIONS {
        let learned = config.of(operation);
        assert!(learned.cuda_work_per_s > Some(0) && learned.cpu_work_per_s > Some(0), "{operation:?} {learned:?}");
        assert!(learned.cuda_from.is_none(), "that is the user's");
    }
    assert_eq!((config.direct_tokens, config.of(Operation::TernaryMatmul).serial_below), (Some(9), Some(77)));
    assert_eq!(DispatchConfig::from_toml(&config.to_toml()).unwrap(), config);
    // What fails leaves the configuration as it was.
    for open in [lost as Open, full, absent] {
        let mut config = DispatchConfig::default();
        assert!(super::cuda_calibration::learn(&two, 0, open, small, &mut config).is_err());
        assert_eq!(config, DispatchConfig::default());
    }
}
