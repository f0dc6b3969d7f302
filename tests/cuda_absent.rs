//! What a build says and does where there is no CUDA device, with feature `cuda` and without: it names the reason, computes on
//! the CPU, and keeps thresholds for a device as they are.

use hybridq::Error;
use hybridq::dispatch::{
    CacheKey, Context, ContextOptions, CudaDevice, DispatchConfig, Operation, Size, Workload, load_cached, store_cached,
};
use hybridq::gpu::{Device, device_count};

/// Whether there is a device after all; says so.
fn has_device(test: &str) -> bool {
    let found = device_count().is_ok();
    if found {
        println!("SKIPPED: {test}: there is a CUDA device, tests/cuda_matches_cpu.rs is for it");
    }
    found
}

fn context(threads: usize) -> Context {
    let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
    context.with_dispatch(DispatchConfig::default()).unwrap()
}

/// Every call that may goes to the device.
fn forced() -> DispatchConfig {
    let costs = CudaDevice { latency_ns: 1, upload_per_s: 1 << 40, download_per_s: 1 << 40, ..Default::default() };
    let mut config = DispatchConfig { cuda: Some(costs), ..Default::default() };
    for operation in Operation::ALL.into_iter().filter(|operation| operation.may_leave_the_cpu()) {
        let thresholds = config.of_mut(operation);
        (thresholds.cuda_from, thresholds.cuda_work_per_s, thresholds.cpu_work_per_s) =
            (Some(0), Some(1 << 50), Some(1));
    }
    config
}

#[test]
fn opening_a_device_names_the_reason() {
    if has_device("opening_a_device_names_the_reason") {
        return;
    }
    let reason = if cfg!(feature = "cuda") { "no CUDA device" } else { "feature cuda is off" };
    let says = |result: Result<(), Error>| {
        assert!(matches!(&result, Err(Error::NoDevice(message)) if message.contains(reason)), "{result:?}");
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for ordinal in [0, 1, 999, usize::MAX] {
                    says(device_count().map(drop));
                    says(Device::open(ordinal).map(drop));
                }
            });
        }
    });
}

#[test]
fn calls_for_a_device_are_done_on_the_cpu() {
    if has_device("calls_for_a_device_are_done_on_the_cpu") {
        return;
    }
    let plain = context(2);
    let there = plain.with_dispatch(forced()).unwrap();
    there.set_metrics(true);
    // Two threads at once: the device is asked once, or not at all.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for operation in Operation::ALL {
                    let digest = |context: &Context| {
                        let mut workload = Workload::new(operation, Size { rows: 65, cols: 31, depth: 3 });
                        workload.run(context);
                        workload.digest()
                    };
                    assert_eq!(digest(&there), digest(&plain), "{operation:?}");
                }
            });
        }
    });
    assert!(there.metrics().iter().all(|found| !found.backend.cuda) && !there.metrics().is_empty());
    for operation in Operation::ALL {
        assert_eq!(there.backend(operation, 1 << 50, 3), plain.backend(operation, 1 << 50, 3), "{operation:?}");
    }
    let (said, advice) = (there.cuda(), there.advice());
    if cfg!(feature = "cuda") {
        let said = said.unwrap();
        assert!(said.contains("not asked again") && said.contains("no CUDA device"), "{said}");
        assert!(advice.contains(&said), "{advice:?}");
    } else {
        assert_eq!(said, None);
        assert!(advice.iter().any(|line| line.contains("lacks feature cuda")), "{advice:?}");
    }
    assert_eq!(plain.cuda(), None);
}

#[test]
fn thresholds_for_a_device_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.toml");
    let plain = context(2);
    let key = CacheKey::of_this_machine(plain.kernels().isa(), 2);
    store_cached(&path, &key, &forced()).unwrap();
    assert_eq!(load_cached(&path, &key).unwrap(), forced());
    let options = ContextOptions { threads: Some(2), isa: None };
    let cached = Context::with_cache(options, Some(&path)).unwrap();
    assert_eq!(cached.dispatch_config(), &forced());
    assert_eq!(DispatchConfig::from_toml(&cached.dispatch_config().to_toml()).unwrap(), forced());
    for (text, part) in [
        ("[cuda]\ndevice = -1", "-1"),
        ("[cuda]\nlatency = 3", "latency"),
        ("cuda = 1", "invalid type"),
        ("[operations.int8_matmul]\ncuda_from = \"much\"", "invalid type"),
    ] {
        let message = DispatchConfig::from_toml(text).unwrap_err();
        assert!(message.contains(part) && !message.contains('\n'), "{text}: {message}");
    }
    let mut wrong = DispatchConfig::default();
    wrong.of_mut(Operation::Norm).cuda_from = Some(1);
    let message = plain.with_dispatch(wrong).unwrap_err().to_string();
    assert!(message.contains("operations.norm.cuda_from") && message.contains("ternary_matmul"), "{message}");
}

/// A choice costs no more than it did: there is no device to ask about.
#[test]
fn without_thresholds_for_a_device_none_is_looked_for() {
    let plain = context(1);
    assert!(plain.dispatch_config().cuda.is_none() && plain.cuda().is_none());
    assert!(Operation::ALL.into_iter().all(|operation| !plain.backend(operation, usize::MAX, usize::MAX).cuda));
}
