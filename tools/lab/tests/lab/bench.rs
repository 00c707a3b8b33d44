//! `bench` through the built program: each subcommand checks what it times and writes the figures that it
//! promises. Nothing is asserted of time but that it passes.

use crate::cli_common::{Project, expect, read, text};
use serde_json::Value;

/// Keys of every subcommand.
const SHARED: [&str; 15] = [
    "what",
    "device",
    "precision",
    "model",
    "classes",
    "batch",
    "crop",
    "steps",
    "warmup",
    "threads",
    "gpu",
    "driver",
    "version",
    "commit",
    "command",
];
/// Keys of everything that was timed.
const TIMES: [&str; 8] =
    ["median_ms", "min_ms", "q1_ms", "q3_ms", "max_ms", "samples", "repetitions", "enqueue_ms"];

/// The figures of `bench WHAT` with more flags; `None` where this build has no emulator to run it on.
fn figures(p: &Project, what: &str, more: &[&str]) -> Option<Value> {
    let usual = ["bench", what, "--crop", "33", "--steps", "2", "--warmup", "1", "--json", "b.json"];
    let args: Vec<&str> = usual.iter().chain(more).copied().collect();
    let out = p.run(&args);
    if more.contains(&"emulated") && out.status.code() == Some(10) {
        eprintln!("skipped: {}", text(&out));
        return None;
    }
    expect(&out, 0, &[what_title(what), "33x33"]);
    let v: Value = serde_json::from_slice(&read(&p.path("b.json"))).unwrap();
    for key in SHARED {
        assert!(v.get(key).is_some(), "{what}: no {key} in {v}");
    }
    assert_eq!(
        (v["what"].as_str(), v["crop"].as_u64(), v["batch"].as_u64()),
        (Some(what), Some(33), Some(2))
    );
    let command = v["command"].as_str().unwrap();
    assert!(command.ends_with(&args.join(" ")), "{command}");
    Some(v)
}

/// What the table of a subcommand begins with.
fn what_title(what: &str) -> &str {
    match what {
        "layers" => "convolutions of a step",
        "kernels" => "kernels of a step",
        stage => stage,
    }
}

fn positive(v: &Value, key: &str) -> f64 {
    let value = v[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {v}"));
    assert!(value.is_finite() && value > 0.0, "{key} is {value} in {v}");
    value
}

/// The times are there, positive and in order.
fn check_times(v: &Value) {
    for key in TIMES {
        assert!(v.get(key).is_some(), "no {key} in {v}");
    }
    let order = ["min_ms", "q1_ms", "median_ms", "q3_ms", "max_ms"].map(|key| positive(v, key));
    assert!(order.is_sorted(), "{v}");
    let samples: Vec<f64> = v["samples"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    assert_eq!(samples.len(), 2);
    assert_eq!(samples.iter().copied().fold(f64::MAX, f64::min), positive(v, "min_ms"));
    assert!(!v["check"].as_str().unwrap().is_empty());
}

fn rows(v: &Value) -> &Vec<Value> {
    let rows = v["rows"].as_array().unwrap();
    rows.iter().for_each(check_times);
    rows
}

#[test]
fn stages_write_their_figures() {
    let p = Project::new();
    for (what, more) in [
        ("loss", &[][..]),
        ("forward", &[]),
        ("tvat", &["--tvat", "finite-difference"]),
        ("tvat", &["--tvat", "exact"]),
        ("step", &["--tvat", "uniform"]),
    ] {
        let v = figures(&p, what, more).unwrap();
        check_times(&v);
        assert_eq!((v["device"].as_str(), v["precision"].as_str()), (Some("cpu"), Some("f32")));
        assert_eq!(v["model"], "tiny");
        // PyTorch's is the memory of a device, which a processor has not; the process has its own.
        assert!(v["peak_mib"].is_null() && v["gpu"].is_null());
        match what {
            "step" => assert_eq!((v["images"].as_u64(), v["tvat"].as_str()), (Some(4), Some("uniform"))),
            "tvat" => assert_eq!(v["tvat"].as_str(), Some(more[1])),
            _ => {}
        }
    }
}

#[test]
fn layers_are_those_of_the_network() {
    let p = Project::new();
    let v = figures(&p, "layers", &["--filter", " 3x3"]).unwrap();
    positive(&v, "product_gflop_s");
    let rows = rows(&v);
    let mut share = 0.0;
    for row in rows {
        let direction = row["what"].as_str().unwrap();
        assert!(["conv_forward", "conv_dgrad", "conv_wgrad"].contains(&direction), "{direction}");
        let list = |key: &str| -> Vec<u64> {
            row[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
        };
        let (x, w) = (list("x"), list("w"));
        assert_eq!((x.len(), x[0], w[2], w[3]), (4, 2, 3, 3), "{row}");
        assert_eq!(x[1], w[1] * row["groups"].as_u64().unwrap(), "{row}");
        let outputs = |side: u64| (side - 1) / row["stride"].as_u64().unwrap() + 1;
        let flop = 2 * x[0] * outputs(x[2]) * outputs(x[3]) * w.iter().product::<u64>();
        assert!((positive(row, "gflop") - 1e-9 * flop as f64).abs() < 1e-12, "{row}");
        positive(row, "share_of_product");
        share += row["share_of_step"].as_f64().unwrap();
        assert!(row["plan"].is_null(), "a processor has no launch plan");
    }
    assert!((share - 1.0).abs() < 1e-9, "shares add up to {share}");
    // The stem of a step: two teachers and the student twice, two backward passes, none to the images.
    let stem = |d: &str| rows.iter().find(|r| r["what"] == d && r["x"][1] == 3).unwrap()["count"].as_u64();
    assert_eq!(["conv_forward", "conv_dgrad", "conv_wgrad"].map(stem), [Some(4), Some(0), Some(2)]);
}

/// Ops that `bench kernels` knows.
const KERNELS: [&str; 47] = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_bwd",
    "add",
    "add_normalized",
    "batch_norm_eval",
    "batch_norm_eval_bwd",
    "batch_norm_tangent",
    "batch_norm_train",
    "batch_norm_train_bwd",
    "batch_norm_train_bwd_sums",
    "batch_norm_train_moments",
    "clear",
    "concat",
    "conf_ce",
    "confusion_matrix",
    "conv2d_dgrad",
    "conv2d_dgrad_add",
    "conv2d_dgrad_sums",
    "conv2d_dgrad_tangent",
    "conv2d_fprop",
    "conv2d_fprop_norm",
    "conv2d_fprop_tangent",
    "conv2d_wgrad",
    "copy_spans",
    "cross_entropy",
    "cut_mix",
    "ensemble_pseudo_label",
    "interpolate",
    "interpolate_bwd",
    "kl_gradient",
    "leaky_relu",
    "leaky_relu_bwd",
    "max_pool2d",
    "max_pool2d_bwd",
    "mse_consistency",
    "normalize",
    "normalize_bytes",
    "ohem_cross_entropy",
    "photometric",
    "sgd",
    "sgd_ema",
    "slice_channels",
    "sum_positions",
    "tvat_cotangent",
    "uniform_noise",
    "watch_tensor",
    "watch_vector",
];

/// Every op was checked, and its rates follow from its times.
fn check_kernels(v: &Value, device: &str, precision: &str) {
    assert_eq!((v["device"].as_str(), v["precision"].as_str()), (Some(device), Some(precision)));
    for key in ["copy_gb_s", "product_gflop_s", "step_ms"] {
        positive(v, key);
    }
    let rows = rows(v);
    let mut ops: Vec<&str> = rows.iter().map(|r| r["what"].as_str().unwrap()).collect();
    ops.dedup();
    assert_eq!(ops, KERNELS);
    let mut step = 0.0;
    for row in rows {
        let (bytes, rate) = (positive(row, "bytes"), positive(row, "gb_s"));
        assert!((1e-6 * bytes / positive(row, "median_ms") / rate - 1.0).abs() < 1e-9, "{row}");
        let conv = row["what"].as_str().unwrap().starts_with("conv2d");
        assert_eq!(row["gflop_s"].is_number(), conv, "{row}");
        positive(row, "share");
        assert!(["warm", "cold"].contains(&row["cache"].as_str().unwrap()));
        step += positive(row, "median_ms") * row["count"].as_u64().unwrap() as f64;
    }
    assert!((step / positive(v, "step_ms") - 1.0).abs() < 1e-9);
}

#[test]
fn kernels_are_checked_and_timed() {
    let p = Project::new();
    check_kernels(&figures(&p, "kernels", &[]).unwrap(), "cpu", "f32");
}

#[test]
fn kernels_and_stages_run_on_the_emulator() {
    let p = Project::new();
    let on = ["--device", "emulated", "--precision", "bf16"];
    let Some(v) = figures(&p, "kernels", &on) else { return };
    check_kernels(&v, "emulated", "bf16");
    let v = figures(&p, "loss", &on).unwrap();
    check_times(&v);
    assert!(v["peak_mib"].is_u64(), "a device's memory is planned");
    let v = figures(&p, "layers", &[&on[..], &["--filter", "groups"]].concat()).unwrap();
    assert!(
        rows(&v).iter().all(|row| row["plan"].as_str().unwrap().contains("blocks") && row["groups"] == 2)
    );
    for tile in ["large", "wgmma256"] {
        let v =
            figures(&p, "layers", &[&on[..], &["--filter", "2x5x5x32 to 16 1x1", "--tile", tile]].concat())
                .unwrap();
        let taken = rows(&v).iter().filter(|row| row["plan"].as_str().unwrap().starts_with(tile)).count();
        assert!(taken > 0, "{tile}: {v}");
    }
    let stem = p.run(&["bench", "layers", "--device", "emulated", "--filter", "x3 to ", "--tile", "large"]);
    expect(&stem, 1, &["--tile large", "none of these layers"]);
}

#[test]
fn cold_memory_is_asked_for_and_reported() {
    let p = Project::new();
    let cache = |flag: &str, filter: &str| {
        let v = figures(&p, "kernels", &["--cache", flag, "--filter", filter]).unwrap();
        rows(&v)[0]["cache"].as_str().unwrap().to_string()
    };
    // A hundred megabytes outgrow a cache in three sets, a few bytes in none.
    let large = ["--model", "r50", "--batch", "2"];
    let v = figures(&p, "kernels", &[&large[..], &["--cache", "cold", "--filter", "watch_vector"]].concat());
    assert_eq!(rows(&v.unwrap())[0]["cache"], "cold");
    assert_eq!(cache("cold", "sum_positions"), "warm");
    assert_eq!(cache("warm", "watch_vector"), "warm");
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let p = Project::new();
    let refused = |args: &[&str], code: i32, parts: &[&str]| {
        expect(&p.run(&[&["bench"], args].concat()), code, parts);
    };
    refused(&["kernel"], 2, &["kernel"]);
    refused(&["loss", "--model", "vgg"], 2, &["vgg", "r50"]);
    refused(&["loss", "--steps", "0"], 2, &["--steps"]);
    refused(&["loss", "--crop", "0"], 2, &["--crop", "0"]);
    refused(&["loss", "--batch", "1"], 3, &["batch"]);
    refused(&["loss", "--classes", "0"], 3, &["classes"]);
    refused(&["loss", "--tvat", "exact"], 2, &["--tvat"]);
    refused(&["tvat", "--tvat", "uniform"], 2, &["--tvat", "exact"]);
    refused(&["kernels", "--cache", "hot"], 2, &["hot", "cold"]);
    refused(&["kernels", "--filter", "nothing"], 2, &["nothing"]);
    refused(&["layers", "--filter", "nothing"], 2, &["nothing"]);
    refused(&["layers", "--tile", "large"], 2, &["--tile large", "processor"]);
    refused(&["layers", "--tile", "any"], 2, &["any", "small, large"]);
    refused(&["forward", "--precision", "bf16"], 10, &["bf16"]);
    refused(&["forward", "--json", "no/folder/b.json", "--crop", "33", "--steps", "1"], 9, &["no/folder"]);
    assert!(!p.path("b.json").exists());
}

#[test]
fn the_floor_counts_what_a_step_needs() {
    let p = Project::new();
    let out = p.run(&["bench", "floor", "--json", "floor.json"]);
    expect(&out, 0, &["conv2d_fprop", "in all"]);
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(p.path(name)).unwrap()).unwrap()
    };
    let v = read("floor.json");
    let rows = v["rows"].as_array().unwrap();
    let sum = |key: &str| rows.iter().map(|r| r[key].as_f64().unwrap()).sum::<f64>();
    // As counted apart from this program: teachers 2.4, student 7.3, T-VAT 4.1 TFLOP.
    assert!((sum("gflop") - 13_800.0).abs() < 100.0, "{} GFLOP", sum("gflop"));
    assert!((sum("floor_ms") - v["floor_ms"].as_f64().unwrap()).abs() < 1e-9);
    // Half the bandwidth and half the operations take twice as long.
    expect(
        &p.run(&["bench", "floor", "--bandwidth", "2150", "--compute", "395", "--json", "slow.json"]),
        0,
        &[],
    );
    let slow = read("slow.json")["floor_ms"].as_f64().unwrap();
    assert!((slow / v["floor_ms"].as_f64().unwrap() - 2.0).abs() < 1e-9);
    expect(&p.run(&["bench", "floor", "--bandwidth", "0"]), 2, &["--bandwidth"]);
    expect(&p.run(&["bench", "floor", "--precision", "f64"]), 2, &["--precision"]);
}
