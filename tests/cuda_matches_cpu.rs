//! The operations of a CUDA device against those of the CPU: the same bits. Without a device every test fails, unless
//! `HYBRIDQ_NO_GPU=1`: then each says that it was not run.

use hybridq::Error;
use hybridq::dispatch::{Context, CudaDevice, DispatchConfig, Int8Matrix, Lloyd, Operation, Size, Workload};
use hybridq::gpu::{Device, DeviceActivations, DeviceBuffer, DeviceSlice, KmeansIteration, Packing, Stream};
use hybridq::kernels::{KernelTable, ternary_packed_len};
use hybridq::tensor::RandomStream;

const SIZES: [usize; 12] = [0, 1, 3, 15, 16, 17, 31, 64, 65, 97, 131, 257];
const LARGE: [(usize, usize, usize); 3] = [(1000, 1111, 1), (700, 1300, 19), (515, 2049, 333)];

/// A stream of device 0, or none where that is expected.
fn stream(test: &str) -> Option<Stream> {
    match Device::open(0).and_then(|device| Stream::new(&device)) {
        Ok(stream) => Some(stream),
        Err(error) if std::env::var("HYBRIDQ_NO_GPU").is_ok_and(|value| value == "1") => {
            println!("NOT RUN: {test}: {error}");
            None
        }
        Err(error) => panic!("{error} (HYBRIDQ_NO_GPU=1: expected)"),
    }
}

fn context() -> Context {
    Context::new(Default::default()).unwrap()
}

fn bytes(count: usize, seed: u32) -> Vec<i8> {
    let mut stream = RandomStream::new(7, 0, 0, seed);
    (0..count).map(|_| stream.next_u32() as u8 as i8).collect()
}

fn trits(count: usize, seed: u32) -> Vec<i8> {
    bytes(count, seed).into_iter().map(|byte| (byte as u8 % 3) as i8 - 1).collect()
}

fn floats(count: usize, seed: u32) -> Vec<f32> {
    let mut stream = RandomStream::new(7, 0, 0, seed);
    (0..count).map(|_| stream.next_u32() as f32 / (1u64 << 30) as f32 - 2.0).collect()
}

/// What `run` leaves in a buffer of `len` values.
fn result<T: bytemuck::Pod>(stream: &Stream, len: usize, run: impl FnOnce(&mut DeviceBuffer<T>)) -> Vec<T> {
    // Poisoned first: what is not written shows.
    let poison: T = bytemuck::pod_read_unaligned(&vec![0xA5; size_of::<T>()]);
    let mut buffer = DeviceBuffer::from_slice(stream, &vec![poison; len]).unwrap();
    run(&mut buffer);
    let mut values = vec![T::zeroed(); len];
    stream.download(buffer.as_ref(), &mut values).unwrap();
    values
}

fn on<T: bytemuck::Pod>(stream: &Stream, values: &[T]) -> DeviceBuffer<T> {
    DeviceBuffer::from_slice(stream, values).unwrap()
}

/// Bits, so that NaN equals NaN.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn packed_of(context: &Context, trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut packed = vec![0; ternary_packed_len(rows, cols)];
    context.kernels().ternary_pack(trits, rows, cols, &mut packed);
    packed
}

fn check_products(stream: &Stream, context: &Context, (rows, cols, tokens): (usize, usize, usize)) {
    let at = format!("{rows} x {cols}, {tokens} tokens");
    let w = trits(rows * cols, 1);
    let packed = packed_of(context, &w, rows, cols);
    let scales = floats(rows, 2);
    for (k, transposed) in [(cols, false), (rows, true)] {
        let x = floats(tokens * k, 3);
        let (mut values, mut x_scales, mut sums) = (vec![0; x.len()], vec![0.0; tokens], vec![0; tokens]);
        context.quantize_rows(&x, k, &mut values, &mut x_scales, &mut sums);
        let (device_packed, device_scales) = (on(stream, &packed), on(stream, &scales));
        let (device_values, device_x_scales, device_sums) =
            (on(stream, &values), on(stream, &x_scales), on(stream, &sums));
        let activations = DeviceActivations {
            values: device_values.as_ref(),
            scales: device_x_scales.as_ref(),
            sums: device_sums.as_ref(),
        };
        let outputs = if transposed { cols } else { rows };
        let mut expected = vec![0.0; tokens * outputs];
        let found = result(stream, expected.len(), |y| {
            if transposed {
                stream
                    .ternary_matmul_transposed(device_packed.as_ref(), (rows, cols), activations, y.as_mut())
                    .unwrap();
            } else {
                let (packed, scales) = (device_packed.as_ref(), device_scales.as_ref());
                stream.ternary_matmul(Packing::TwoBits, packed, (rows, cols), scales, activations, y.as_mut()).unwrap();
            }
        });
        if transposed {
            context.ternary_matmul_transposed(&packed, rows, cols, &values, &x_scales, &sums, &mut expected);
        } else if rows > 0 {
            context.ternary_matmul(&packed, rows, cols, &scales, &values, &x_scales, &sums, &mut expected);
        }
        assert_eq!(bits(&found), bits(&expected), "transposed {transposed}: {at}");
    }
}

#[test]
fn ternary_products() {
    let Some(stream) = stream("ternary_products") else { return };
    let context = context();
    for (turn, (rows, cols)) in SIZES.into_iter().flat_map(|rows| SIZES.map(|cols| (rows, cols))).enumerate() {
        check_products(&stream, &context, (rows, cols, [1, 2, 17, 33, 130][turn % 5]));
    }
}

#[test]
fn large_ternary_products() {
    let Some(stream) = stream("large_ternary_products") else { return };
    let context = context();
    LARGE.into_iter().for_each(|shape| check_products(&stream, &context, shape));
}

#[test]
fn packing() {
    let Some(stream) = stream("packing") else { return };
    let context = context();
    for (rows, cols) in SIZES.into_iter().flat_map(|rows| SIZES.map(|cols| (rows, cols))).chain([(300, 1024)]) {
        let (w, thresholds) = (floats(rows * cols, 4), [0.7f32]);
        let quantized: Vec<i8> = w.iter().map(|w| i8::from(*w > 0.7) - i8::from(*w < -0.7)).collect();
        let device_w = on(&stream, &w);
        for packing in [Packing::TwoBits, Packing::FiveTrits] {
            let len = packing.bytes(rows, cols);
            let mut expected = vec![0; len];
            match packing {
                Packing::TwoBits => context.kernels().ternary_pack(&quantized, rows, cols, &mut expected),
                Packing::FiveTrits => context.pack5(&quantized, rows, cols, &mut expected),
            }
            let threshold = on(&stream, &thresholds);
            let found = result(&stream, len, |packed| {
                let (w, threshold) = (device_w.as_ref(), threshold.as_ref());
                stream.quantize_pack(packing, w, (rows, cols), threshold, packed.as_mut()).unwrap();
            });
            assert_eq!(found, expected, "quantize_pack {packing:?} {rows} x {cols}");
            let trits = on(&stream, &quantized);
            let found = result(&stream, len, |packed| {
                stream.pack(packing, trits.as_ref(), (rows, cols), packed.as_mut()).unwrap();
            });
            assert_eq!(found, expected, "pack {packing:?} {rows} x {cols}");
            let packed = on(&stream, &expected);
            let found = result(&stream, rows * cols, |trits| {
                stream.unpack(packing, packed.as_ref(), (rows, cols), trits.as_mut()).unwrap();
            });
            assert_eq!(found, quantized, "unpack {packing:?} {rows} x {cols}");
        }
    }
}

#[test]
fn five_trits_times_one_token() {
    let Some(stream) = stream("five_trits_times_one_token") else { return };
    let context = context();
    for (rows, cols) in SIZES.into_iter().skip(1).flat_map(|rows| SIZES.map(|cols| (rows, cols))) {
        let mut packed = vec![0; KernelTable::pack5_bytes(rows, cols)];
        context.pack5(&trits(rows * cols, 1), rows, cols, &mut packed);
        let (x, x_scale, weight_scale) = (bytes(cols, 2), [0.3f32], [1.7f32]);
        let x_sum = [x.iter().map(|&x| i32::from(x)).sum::<i32>()];
        let mut expected = vec![0.0; rows];
        let activations = hybridq::kernels::Activations { values: &x, scales: &x_scale, sums: &x_sum };
        context.pack5_matvec(&packed, cols, &weight_scale, activations, &mut expected);
        let (packed, weight_scale) = (on(&stream, &packed), on(&stream, &weight_scale));
        let (x, x_scale, x_sum) = (on(&stream, &x), on(&stream, &x_scale), on(&stream, &x_sum));
        let x = DeviceActivations { values: x.as_ref(), scales: x_scale.as_ref(), sums: x_sum.as_ref() };
        let found = result(&stream, rows, |y| {
            let (packed, scale) = (packed.as_ref(), weight_scale.as_ref());
            stream.ternary_matmul(Packing::FiveTrits, packed, (rows, cols), scale, x, y.as_mut()).unwrap();
        });
        assert_eq!(bits(&found), bits(&expected), "{rows} x {cols}");
    }
}

#[test]
fn weight_gradients() {
    let Some(stream) = stream("weight_gradients") else { return };
    let context = context();
    for (tokens, m, n) in [(1, 1, 1), (33, 17, 5), (70, 65, 131), (257, 128, 144)] {
        check_weight_gradients(&stream, &context, (tokens, m, n));
    }
}

#[test]
fn large_weight_gradients() {
    let Some(stream) = stream("large_weight_gradients") else { return };
    let context = context();
    for (tokens, m, n) in [(1000, 300, 200), (70_000, 3, 5)] {
        check_weight_gradients(&stream, &context, (tokens, m, n));
    }
}

fn check_weight_gradients(stream: &Stream, context: &Context, (tokens, m, n): (usize, usize, usize)) {
    let (a, b, scales, before) = (bytes(tokens * m, 1), bytes(tokens * n, 2), floats(m, 3), floats(m * n, 4));
    for accumulate in [false, true] {
        let mut expected = before.clone();
        let (left, right) = (Int8Matrix::transposed(&a, m), Int8Matrix::new(&b, n));
        context.int8_matmul((m, n, tokens), left, right, &scales, accumulate, &mut expected, n);
        let (a, b, scales) = (on(stream, &a), on(stream, &b), on(stream, &scales));
        let mut c = on(stream, &before);
        let (a, b, shape) = (a.as_ref(), b.as_ref(), (tokens, m, n));
        stream.int8_matmul_tn(a, b, shape, scales.as_ref(), accumulate, c.as_mut()).unwrap();
        let mut found = vec![0.0; m * n];
        stream.download(c.as_ref(), &mut found).unwrap();
        assert_eq!(bits(&found), bits(&expected), "{tokens} tokens, {m} x {n}, accumulate {accumulate}");
    }
}

#[test]
fn quantized_rows() {
    let Some(stream) = stream("quantized_rows") else { return };
    let context = context();
    for (rows, width) in [(0, 5), (1, 0), (3, 1), (5, 31), (4, 256), (7, 1025), (2, 20_000)] {
        let mut x = floats(rows * width, 5);
        if rows > 2 && width > 0 {
            x[width] = f32::NAN;
        }
        let (mut values, mut scales, mut sums) = (vec![0; x.len()], vec![0.0; rows], vec![0; rows]);
        context.quantize_rows(&x, width, &mut values, &mut scales, &mut sums);
        let x = on(&stream, &x);
        let (mut own_scales, mut own_sums) = (DeviceBuffer::new(&stream.device(), rows).unwrap(), on(&stream, &sums));
        let found = result(&stream, values.len(), |values| {
            let (scales, sums) = (own_scales.as_mut(), own_sums.as_mut());
            stream.quantize_rows(x.as_ref(), width, values.as_mut(), scales, sums).unwrap();
        });
        let (mut found_scales, mut found_sums) = (vec![0.0f32; rows], vec![0i32; rows]);
        stream.download(own_scales.as_ref(), &mut found_scales).unwrap();
        stream.download(own_sums.as_ref(), &mut found_sums).unwrap();
        assert_eq!((found, found_sums), (values, sums), "{rows} x {width}");
        assert_eq!(bits(&found_scales), bits(&scales), "{rows} x {width}");
    }
}

#[test]
fn sums_and_clipping() {
    let Some(stream) = stream("sums_and_clipping") else { return };
    let context = context();
    for n in [0, 1, 15, 17, 1000, 65_535, 65_537, 1_000_003] {
        let x = floats(n, 6);
        let mut device_x = on(&stream, &x);
        assert_eq!(stream.abs_sum(device_x.as_ref()).unwrap().to_bits(), context.abs_sum(&x).to_bits(), "{n}");
        assert_eq!(stream.sum_squares(device_x.as_ref()).unwrap().to_bits(), context.sum_squares(&x).to_bits(), "{n}");
        let mut expected = x.clone();
        let norm = context.clip_norm(&mut expected, 0.5);
        assert_eq!(stream.clip_norm(device_x.as_mut(), 0.5).unwrap(), norm, "{n}");
        let mut found = vec![0.0; n];
        stream.download(device_x.as_ref(), &mut found).unwrap();
        assert_eq!(bits(&found), bits(&expected), "{n}");
    }
}

#[test]
fn kmeans() {
    let Some(stream) = stream("kmeans") else { return };
    let context = context();
    for (n, dim, k) in [(1, 1, 1), (100, 3, 7), (1000, 17, 65), (5000, 64, 256)] {
        let (points, centroids) = (floats(n * dim, 7), floats(k * dim, 8));
        let mut lloyd = Lloyd::new(&context, &points, dim, k, false);
        lloyd.assign(&centroids);
        let (device_points, device_centroids) = (on(&stream, &points), on(&stream, &centroids));
        let mut labels = on(&stream, &vec![u32::MAX; n]);
        let mut sums = DeviceBuffer::<f64>::new(&stream.device(), k * dim).unwrap();
        let mut counts = DeviceBuffer::<u64>::new(&stream.device(), k).unwrap();
        let step = KmeansIteration {
            points: device_points.as_ref(),
            dim,
            centroids: device_centroids.as_ref(),
            labels: labels.as_mut(),
            sums: sums.as_mut(),
            counts: counts.as_mut(),
        };
        assert_eq!(stream.kmeans_iteration(step).unwrap(), n as u64);
        let mut found = vec![0; n];
        stream.download(labels.as_ref(), &mut found).unwrap();
        assert_eq!(found, lloyd.labels(), "labels of {n} points");
        let mut found = vec![0.0; k * dim];
        stream.download(sums.as_ref(), &mut found).unwrap();
        let mut expected = vec![0.0; k * dim];
        for (point, &label) in points.chunks(dim).zip(lloyd.labels()) {
            let sums = &mut expected[label as usize * dim..][..dim];
            sums.iter_mut().zip(point).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-9 * n as f64, "{found}, expected {expected}");
        }
    }
}

/// The operations that the dispatcher sends to the device, with their operands in host memory.
#[test]
fn host_memory() {
    let Some(_stream) = stream("host_memory") else { return };
    let context = context();
    let mut config = DispatchConfig { cuda: Some(CudaDevice::default()), ..Default::default() };
    for operation in Operation::ALL.into_iter().filter(|operation| operation.may_leave_the_cpu()) {
        config.of_mut(operation).cuda_from = Some(0);
    }
    let there = context.with_dispatch(config).unwrap();
    there.set_metrics(true);
    let mut calls = 0;
    // Sizes that grow and shrink: memory of an earlier call is used again.
    for (rows, cols, depth) in [(67, 33, 5), (257, 130, 40), (16, 16, 2), (300, 96, 33)] {
        for operation in Operation::ALL.into_iter().filter(|operation| operation.may_leave_the_cpu()) {
            let digest = |context: &Context| {
                let mut workload = Workload::new(operation, Size { rows, cols, depth });
                workload.run(context);
                workload.digest()
            };
            assert_eq!(digest(&there), digest(&context), "{operation:?} {rows} x {cols} x {depth}");
            calls += 1;
        }
    }
    // Added to what is there.
    let (a, b, scales, before) = (bytes(70 * 9, 1), bytes(70 * 11, 2), floats(9, 3), floats(9 * 11, 4));
    let sum = |context: &Context| {
        let mut c = before.clone();
        context.int8_matmul(
            (9, 11, 70),
            Int8Matrix::transposed(&a, 9),
            Int8Matrix::new(&b, 11),
            &scales,
            true,
            &mut c,
            11,
        );
        bits(&c)
    };
    assert_eq!(sum(&there), sum(&context));
    let on_device: u64 = there.metrics().iter().filter(|found| found.backend.cuda).map(|found| found.count).sum();
    assert_eq!(on_device, calls + 1, "{:?} {:?}", there.cuda(), there.metrics());
    // Points that are not finite are the CPU's, and the device stays in use.
    let points = [1.0, f32::NAN, 2.0, 3.0];
    let nearest = |context: &Context| {
        let (mut labels, mut distances) = ([9; 2], [0.0; 2]);
        context.kmeans_assign(&points, 2, 2, &[1.0, 1.0, 2.0, 3.0], 2, &mut labels, &mut distances);
        (labels, bits(&distances))
    };
    assert_eq!(nearest(&there), nearest(&context));
    assert!(there.backend(Operation::KmeansAssign, 1, 2).cuda, "{:?}", there.cuda());
}

fn is_shape<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Shape { .. }))
}

fn is_invalid<T>(result: Result<T, Error>, part: &str) -> bool {
    result.is_err_and(|error| matches!(&error, Error::InvalidValue { .. }) && error.to_string().contains(part))
}

#[test]
fn wrong_calls_are_refused() {
    let Some(stream) = stream("wrong_calls_are_refused") else { return };
    let device = stream.device();
    let (x, short, one) = (on(&stream, &[1.0f32; 64]), on(&stream, &[0u8; 16]), on(&stream, &[0.5f32]));
    let (values, sums, nan) = (on(&stream, &[1i8; 64]), on(&stream, &[0i32; 8]), on(&stream, &[f32::NAN; 64]));
    let mut packed = DeviceBuffer::<u8>::new(&device, 16).unwrap();
    let mut whole = DeviceBuffer::<u8>::new(&device, Packing::TwoBits.bytes(8, 8)).unwrap();
    let mut y = DeviceBuffer::<f32>::new(&device, 63).unwrap();
    let mut labels = DeviceBuffer::<u32>::new(&device, 8).unwrap();
    let mut distances = DeviceBuffer::<f32>::new(&device, 8).unwrap();
    let shape = (8, 8);
    // A packed form too short, weights too few, a scale too many, an output too short.
    assert!(is_shape(stream.quantize_pack(Packing::TwoBits, x.as_ref(), shape, one.as_ref(), packed.as_mut())));
    assert!(is_shape(stream.quantize_pack(Packing::TwoBits, x.as_ref(), (8, 9), one.as_ref(), whole.as_mut())));
    assert!(is_shape(stream.quantize_pack(
        Packing::TwoBits,
        x.as_ref(),
        (usize::MAX, 2),
        one.as_ref(),
        whole.as_mut()
    )));
    assert!(is_shape(stream.unpack(Packing::TwoBits, short.as_ref(), shape, on(&stream, &[0i8; 64]).as_mut())));
    let tokens = |scales| DeviceActivations { values: values.as_ref(), scales, sums: sums.as_ref() };
    let eight = tokens(x.as_ref().first(8));
    let product = |scales, x, y: &mut DeviceBuffer<f32>| {
        stream.ternary_matmul(Packing::TwoBits, whole.as_ref(), shape, scales, x, y.as_mut())
    };
    assert!(is_shape(product(one.as_ref(), eight, &mut y)));
    assert!(is_shape(product(x.as_ref().first(7), eight, &mut on(&stream, &[0.0; 64]))));
    assert!(is_shape(product(one.as_ref(), tokens(x.as_ref().first(7)), &mut on(&stream, &[0.0; 56]))));
    assert!(is_shape(stream.ternary_matmul_transposed(whole.as_ref(), shape, eight, y.as_mut())));
    let (a, scales) = (values.as_ref(), x.as_ref());
    assert!(is_shape(stream.int8_matmul_tn(a, a, (8, 8, 9), scales.first(8), false, y.as_mut())));
    assert!(is_shape(stream.int8_matmul_tn(a, a, (8, 8, 8), scales, false, y.as_mut())));
    assert!(is_shape(stream.kmeans_assign(x.as_ref(), 7, one.as_ref(), labels.as_mut(), distances.as_mut())));
    assert!(is_shape(stream.kmeans_assign(x.as_ref(), 0, x.as_ref(), labels.as_mut(), distances.as_mut())));
    assert!(is_invalid(
        stream.kmeans_assign(nan.as_ref(), 8, x.as_ref(), labels.as_mut(), distances.as_mut()),
        "finite"
    ));
    assert!(is_invalid(
        stream.kmeans_assign(x.as_ref(), 8, nan.as_ref(), labels.as_mut(), distances.as_mut()),
        "finite"
    ));
    assert!(is_shape(stream.download(short.as_ref(), &mut [0u8; 15])));
    // Addresses: of the host, none at all, between two floats, beyond the end, no multiple of 16.
    let (here, there) = ([0u8; 64], x.as_ref().address());
    // SAFETY: all are refused before they are used, but for the last, which is memory of `longer`.
    unsafe {
        assert!(is_invalid(DeviceSlice::from_raw(&stream, "x", here.as_ptr(), 64), "host memory"));
        assert!(is_invalid(DeviceSlice::from_raw(&stream, "x", std::ptr::null::<f32>(), 1), "NULL"));
        assert!(is_invalid(DeviceSlice::from_raw(&stream, "x", (there + 2) as *const f32, 1), "multiple of 4"));
        assert!(is_shape(DeviceSlice::from_raw(&stream, "x", there as *const f32, 1 << 40)));
        let len = whole.len();
        let longer = DeviceBuffer::<u8>::new(&device, len + 1).unwrap();
        let odd = (longer.as_ref().address() + 1) as *const u8;
        let odd = DeviceSlice::from_raw(&stream, "packed", odd, len).unwrap();
        assert!(is_invalid(
            stream.unpack(Packing::TwoBits, odd, shape, on(&stream, &[0i8; 64]).as_mut()),
            "multiple of 16"
        ));
    }
    assert!(matches!(Device::open(999), Err(Error::NoDevice(_))));
    let (free, total) = device.memory().unwrap();
    assert!(matches!(DeviceBuffer::<u8>::new(&device, total.saturating_mul(2)), Err(Error::DeviceMemory(_))));
    assert!(matches!(DeviceBuffer::<u64>::new(&device, usize::MAX / 2), Err(Error::DeviceMemory(_))));
    assert!(device.memory().unwrap().0 + (64 << 20) >= free, "a refused allocation has leaked");
    // None of it has hurt the device.
    assert_eq!(stream.abs_sum(x.as_ref()).unwrap(), 64.0);
}

#[test]
fn two_threads_and_two_devices() {
    let Some(first) = stream("two_threads_and_two_devices") else { return };
    let device = first.device();
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (device, first) = (&device, &first);
            scope.spawn(move || {
                let x = floats(100_000, seed);
                let expected = context().sum_squares(&x);
                for _ in 0..20 {
                    let own = Stream::new(device).unwrap();
                    for stream in [&own, first] {
                        assert_eq!(stream.sum_squares(on(stream, &x).as_ref()).unwrap(), expected);
                    }
                }
            });
        }
    });
    match Device::open(1) {
        Ok(second) => {
            let (x, second) = (on(&first, &[1.0f32; 8]), Stream::new(&second).unwrap());
            assert!(matches!(second.abs_sum(x.as_ref()), Err(Error::InvalidValue { .. })));
            assert_eq!(second.abs_sum(on(&second, &[1.0f32; 8]).as_ref()).unwrap(), 8.0);
        }
        Err(error) => println!("NOT RUN: two devices: {error}"),
    }
}
