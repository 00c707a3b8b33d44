//! Training steps on the driver: graphs of their work, branches, and faults in them.

use super::{arguments, expect, inside, is_inside, leaky_relu, message, run_inside};
use psmt_fast::backend::cuda::branches::Branch;
use psmt_fast::backend::cuda::driver::{DevicePtr, Driver, Launch};
use psmt_fast::backend::cuda::gpu::Gpu;

/// Steps on `len` values: data of the step's own goes up, two branches work on it, what they give is joined.
/// Returns where the results are, which nothing has waited for yet.
fn branching_steps(gpu: &Gpu, len: usize, count: usize) -> Vec<DevicePtr> {
    let bytes = 4 * len;
    let relu = |y: DevicePtr, x: DevicePtr, slope: f32, count: usize| {
        gpu.launch(&leaky_relu(), Launch::linear(count), &arguments(y, x, slope, count as u64)).unwrap();
    };
    let mut results = Vec::new();
    for step in 0..count {
        let result = gpu.alloc(2 * bytes).unwrap();
        gpu.begin_step("step");
        let values: Vec<f32> = (0..len).map(|i| step as f32 - i as f32).collect();
        let x = gpu.alloc(bytes).unwrap();
        gpu.upload(x, bytemuck::cast_slice(&values)).unwrap();
        let mut temporaries = Vec::new();
        gpu.branch(Branch::Fork);
        for (number, slope) in [0.5, 0.25 + step as f32].into_iter().enumerate() {
            if number > 0 {
                gpu.branch(Branch::Next);
            }
            let y = gpu.alloc(bytes).unwrap();
            relu(y, x, slope, len);
            gpu.copy(y, result.offset(number * bytes), bytes).unwrap();
            gpu.free(y, bytes);
            temporaries.push(y);
        }
        gpu.branch(Branch::Join);
        assert_ne!(temporaries[0], temporaries[1], "two branches write to one buffer");
        gpu.clear(result, 4).unwrap();
        relu(result, result, 2.0, 2 * len);
        gpu.free(x, bytes);
        gpu.end_step().unwrap();
        results.push(result);
    }
    results
}

/// Reads the results of [`branching_steps`] and compares them with what they should be.
fn check_branching_steps(gpu: &Gpu, len: usize, results: Vec<DevicePtr>) {
    for (step, result) in results.into_iter().enumerate() {
        let mut got = vec![0.0_f32; 2 * len];
        gpu.download(result, bytemuck::cast_slice_mut(&mut got)).unwrap();
        let relu = |v: f32, slope: f32| if v > 0.0 { v } else { slope * v };
        let expected = |i: usize| match i {
            0 => 0.0,
            _ => {
                let slope = if i < len { 0.5 } else { 0.25 + step as f32 };
                relu(relu(step as f32 - (i % len) as f32, slope), 2.0)
            }
        };
        let first = (0..2 * len).find(|&i| got[i] != expected(i));
        assert_eq!(first.map(|i| (i, got[i], expected(i))), None, "step {step} of {len} values");
        gpu.free(result, 8 * len);
    }
}

/// How many graphs the stand-in made.
fn num_graphs() -> i32 {
    // SAFETY: the library is loaded under this name, and the function takes nothing and gives an int.
    unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW);
        let function = libc::dlsym(library, c"fake_cuda_graphs".as_ptr());
        assert!(!function.is_null());
        std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn() -> i32>(function)()
    }
}

#[test]
fn steps_become_graphs_whose_numbers_change() {
    if !is_inside() {
        // Whichever of work and data comes as early as it may.
        for eager in ["0", "1", "2"] {
            run_inside(steps_become_graphs_whose_numbers_change, &[("FAKE_CUDA_EAGER", eager)]);
        }
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    // The last is sent in two pieces, which makes another graph.
    for (len, graphs) in [(1000, 1), (70, 1), (2_000_000, 1), (17_000_000, 2)] {
        let results = branching_steps(&gpu, len, if graphs == 1 { 5 } else { 2 });
        assert_eq!(num_graphs(), graphs, "{len} values");
        check_branching_steps(&gpu, len, results);
    }
}

#[test]
fn a_refused_change_makes_a_new_graph_once() {
    if !is_inside() {
        // The third change alone, and every change.
        for refused in ["3", "-1"] {
            run_inside(a_refused_change_makes_a_new_graph_once, &[("FAKE_CUDA_REFUSED", refused)]);
        }
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let results = branching_steps(&gpu, 1000, 5);
    assert_eq!(num_graphs(), 2);
    check_branching_steps(&gpu, 1000, results);
}

#[test]
fn a_step_that_is_read_on_the_way_is_no_graph() {
    if !inside(a_step_that_is_read_on_the_way_is_no_graph, &[]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let (x, y) = (gpu.alloc(400).unwrap(), gpu.alloc(400).unwrap());
    for value in 0..3 {
        gpu.begin_step("step");
        gpu.upload(x, bytemuck::cast_slice(&[value as f32 - 1.0; 100])).unwrap();
        gpu.launch(&leaky_relu(), Launch::linear(100), &arguments(y, x, 0.5, 100)).unwrap();
        let mut got = [9.0_f32; 100];
        gpu.download(y, bytemuck::cast_slice_mut(&mut got)).unwrap();
        assert_eq!(got, [[-0.5, 0.0, 1.0][value]; 100]);
        gpu.launch(&leaky_relu(), Launch::linear(100), &arguments(x, y, 0.5, 100)).unwrap();
        gpu.end_step().unwrap();
        gpu.download(x, bytemuck::cast_slice_mut(&mut got)).unwrap();
        assert_eq!(got, [[-0.25, 0.0, 1.0][value]; 100]);
    }
    assert_eq!(num_graphs(), 0);
    gpu.free(x, 400);
    gpu.free(y, 400);
}

#[test]
fn steps_without_graphs_compute_the_same() {
    if !is_inside() {
        // The driver has none, or the user wants none.
        for setting in ["FAKE_CUDA_GRAPHS", "PSMT_CUDA_GRAPHS"] {
            run_inside(steps_without_graphs_compute_the_same, &[(setting, "0")]);
        }
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let results = branching_steps(&gpu, 3000, 3);
    assert_eq!(num_graphs(), 0);
    check_branching_steps(&gpu, 3000, results);
}

#[test]
fn faults_of_a_graph_name_its_last_kernels() {
    if !inside(faults_of_a_graph_name_its_last_kernels, &[("FAKE_CUDA_FAULT", "1")]) {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    branching_steps(&gpu, 1000, 1);
    let text = message(gpu.synchronize());
    expect(&text, &["ILLEGAL_ADDRESS", "last 3 kernels", "leaky_relu_fwd_f32", "grid 8x1x1"]);
    std::mem::forget(gpu);
}
