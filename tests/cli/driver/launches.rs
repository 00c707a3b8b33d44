//! Launches, copies and memory of the driver, and how their faults are reported.

use super::{arguments, expect, inside, launch_one, leaky_relu, message};
use psmt_fast::Error;
use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use psmt_fast::backend::cuda::gpu::Gpu;

#[test]
fn kernels_and_copies_work_from_any_thread() {
    if !inside(kernels_and_copies_work_from_any_thread, &[]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    assert_eq!(gpu.name(), "cuda:0");
    // The second needs a larger staging area, the last is too large for any.
    for len in [5_usize, 2_000_000, 900_000, 900_000, 17_000_000] {
        let values: Vec<f32> = (0..len).map(|i| i as f32 - 2.0).collect();
        let (x, y) = (gpu.alloc(4 * len).unwrap(), gpu.alloc(4 * len).unwrap());
        assert!(x.0 % 256 == 0 && y.0 % 256 == 0 && x != y);
        gpu.upload(x, bytemuck::cast_slice(&values)).unwrap();
        let mut got = vec![0.0_f32; len];
        std::thread::scope(|scope| {
            let work = || {
                gpu.launch(&leaky_relu(), Launch::linear(len), &arguments(y, x, 0.5, len as u64)).unwrap();
                gpu.download(y, bytemuck::cast_slice_mut(&mut got)).unwrap();
            };
            scope.spawn(work).join().unwrap();
        });
        assert!(got.iter().zip(&values).all(|(g, v)| *g == v.max(0.5 * v)));
        gpu.clear(x, 4).unwrap();
        gpu.copy(x, y, 8).unwrap();
        let mut two = [9.0_f32; 2];
        gpu.download(y, bytemuck::cast_slice_mut(&mut two)).unwrap();
        assert_eq!(two, [0.0, values[1]]);
        gpu.free(x, 4 * len);
        gpu.free(y, 4 * len);
    }
}

#[test]
fn uploads_wait_for_nothing_and_lose_nothing() {
    if !inside(uploads_wait_for_nothing_and_lose_nothing, &[]) {
        return;
    }
    // The stand-in copies as late as it may: a staging area that is written again too early shows in the
    // results.
    let gpu = Gpu::open(0).unwrap();
    let value = |number: usize, i: usize| (number * 31 + i * 7) as u8;
    for len in [1000_usize, 3 << 20, 100, 6 << 20, 1 << 20] {
        let blocks: Vec<DevicePtr> = (0..9).map(|_| gpu.alloc(len).unwrap()).collect();
        for (number, &block) in blocks.iter().enumerate() {
            let data: Vec<u8> = (0..len).map(|i| value(number, i)).collect();
            gpu.upload(block, &data).unwrap();
        }
        for (number, &block) in blocks.iter().enumerate() {
            let mut got = vec![0; len];
            gpu.download(block, &mut got).unwrap();
            assert!(
                got.iter().enumerate().all(|(i, &v)| v == value(number, i)),
                "{len} bytes, number {number}"
            );
            gpu.free(block, len);
        }
    }
}

#[test]
fn late_faults_name_the_last_kernels() {
    if !inside(late_faults_name_the_last_kernels, &[("FAKE_CUDA_FAULT", "1")]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    launch_one(&gpu, 1000).unwrap();
    let text = message(gpu.synchronize());
    expect(
        &text,
        &[
            "cuda:0",
            "ILLEGAL_ADDRESS",
            "leaky_relu_fwd_f32 of kernels/elementwise.cu",
            "grid 4x1x1, block 256",
        ],
    );
    expect(&message(launch_one(&gpu, 1000)), &["ILLEGAL_ADDRESS"]);
    // What is left after a fault belongs to the driver.
    std::mem::forget(gpu);
}

#[test]
fn blocking_launches_name_the_kernel() {
    let settings = [("FAKE_CUDA_FAULT", "1"), ("PSMT_CUDA_BLOCKING", "1")];
    if !inside(blocking_launches_name_the_kernel, &settings) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let text = message(launch_one(&gpu, 70));
    expect(&text, &["found while waiting for it, in leaky_relu_fwd_f32", "grid 1x1x1"]);
    std::mem::forget(gpu);
}

#[test]
fn impossible_launches_are_refused() {
    if !inside(impossible_launches_are_refused, &[]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let x = gpu.alloc(64).unwrap();
    let args = arguments(x, x, 0.5, 1);
    let wide = Launch { block: [2048, 1, 1], ..Launch::new(3, 1) };
    expect(
        &message(gpu.launch(&leaky_relu(), wide, &args)),
        &["launching leaky_relu", "grid 3x1x1, block 2048"],
    );
    let much = Launch::new(1, 32).with_shared(300 << 10);
    expect(&message(gpu.launch(&leaky_relu(), much, &args)), &["307200 bytes of shared memory", "232448"]);
    let unknown = Kernel { name: "no_such_kernel".into(), ..leaky_relu() };
    expect(&message(gpu.launch(&unknown, Launch::new(1, 1), &args)), &["no_such_kernel"]);
    let unknown = Kernel { file: "nowhere", ..leaky_relu() };
    expect(&message(gpu.launch(&unknown, Launch::new(1, 1), &args)), &["no kernels/nowhere.cu"]);
    let mut wrong = Args::default();
    wrong.push(x);
    wrong.push(1_u64);
    expect(&message(gpu.launch(&leaky_relu(), Launch::new(1, 1), &wrong)), &["[8, 8, 4, 8]", "[8, 8]"]);
    // None of this harmed the device.
    gpu.launch(&leaky_relu(), Launch::new(1, 1), &args).unwrap();
    gpu.synchronize().unwrap();
    gpu.free(x, 64);
}

#[test]
fn kept_memory_is_returned_before_memory_is_short() {
    if !inside(kept_memory_is_returned_before_memory_is_short, &[("FAKE_CUDA_MEMORY", "10485760")]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let first = gpu.alloc(6 << 20).unwrap();
    gpu.free(first, 6 << 20);
    assert_eq!(gpu.alloc(6 << 20).unwrap(), first);
    gpu.free(first, 6 << 20);
    let second = gpu.alloc(8 << 20).unwrap();
    match gpu.alloc(4 << 20) {
        Err(e @ Error::Memory { needed_mib: 4, available_mib: 2, .. }) => {
            expect(&e.to_string(), &["cuda:0", "8 MiB in use", "10 MiB"]);
        }
        other => panic!("{other:?}"),
    }
    gpu.free(second, 8 << 20);
}

#[test]
fn memory_goes_back_at_once_without_the_cache() {
    let settings = [("FAKE_CUDA_MEMORY", "10485760"), ("PSMT_CUDA_CACHE", "0")];
    if !inside(memory_goes_back_at_once_without_the_cache, &settings) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let block = gpu.alloc(100).unwrap();
    gpu.upload(block, &[1; 100]).unwrap();
    expect(&message(gpu.upload(block, &[1; 101])), &["while copying to the device"]);
    gpu.free(block, 100);
    assert_eq!(gpu.memory().unwrap(), (10 << 20, 10 << 20));
}
