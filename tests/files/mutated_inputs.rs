//! Readers of files that other people and other programs made, given files with mutations: whatever these
//! hold is read or refused with an error that names the file, within bounds of memory. Nothing panics.
//!
//! A few hundred mutations of each seed file run by default, `PSMT_MUTATIONS` of them where that is set
//! (`just fuzz`). The input of a failure stays in cargo's folder for tests' files, under the name that the
//! failure gives.

mod mutate;

use crate::cli_common::{Project, expect};
use mutate::mutated;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::config::{self, ImageSizes, estimated_memory};
use psmt_fast::data::{Layout, List, Masks, decode_image, decode_mask, decode_upright};
use psmt_fast::model::Architecture;
use psmt_fast::train::Checkpoint;
use psmt_fast::weights::{self, WeightFile};
use psmt_fast::{Error, report};
use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that are in use, and the most of them.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        MOST.fetch_max(USED.fetch_add(block.size(), Ordering::Relaxed) + block.size(), Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc(block) }
    }
    unsafe fn alloc_zeroed(&self, block: Block) -> *mut u8 {
        MOST.fetch_max(USED.fetch_add(block.size(), Ordering::Relaxed) + block.size(), Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc_zeroed(block) }
    }
    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        USED.fetch_sub(block.size(), Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory is counted for the whole process, so one reader runs at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Bytes that reading a file of some kilobytes may take.
const SMALL: usize = 64 << 20;

fn mutations() -> u64 {
    match std::env::var("PSMT_MUTATIONS") {
        Ok(n) => n.parse().expect("PSMT_MUTATIONS is a number"),
        Err(_) => 300,
    }
}

/// Gives `read` the file `name` with mutations of each of `seeds`; errors must name the file, and memory
/// stays below `limit`.
fn check(name: &str, seeds: &[Vec<u8>], limit: usize, read: impl Fn(&Path) -> psmt_fast::Result<()>) {
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mutated_inputs").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    let mut refused = 0;
    for (i, seed) in seeds.iter().enumerate() {
        // The seeds themselves are good.
        std::fs::write(&path, seed).unwrap();
        if let Err(e) = read(&path) {
            panic!("seed {i} of {name}: {e}");
        }
        for number in 0..mutations() {
            let other = &seeds[number as usize % seeds.len()];
            let bytes = mutated(seed, other, number * seeds.len() as u64 + i as u64);
            std::fs::write(&path, &bytes).unwrap();
            let before = USED.load(Ordering::Relaxed);
            MOST.store(before, Ordering::Relaxed);
            let result = catch_unwind(AssertUnwindSafe(|| read(&path)));
            let took = MOST.load(Ordering::Relaxed) - before;
            let fault = match &result {
                Err(_) => Some("panicked".to_string()),
                Ok(_) if took > limit => Some(format!("took {} MiB", took >> 20)),
                Ok(Err(e)) if !names(e, &folder) => Some(format!("does not name the file: {e}")),
                Ok(_) => None,
            };
            if let Some(fault) = fault {
                let kept = folder.join(format!("{i}-{number}"));
                std::fs::write(&kept, &bytes).unwrap();
                panic!("{}: {fault}", kept.display());
            }
            refused += u64::from(matches!(result, Ok(Err(_))));
        }
    }
    assert!(refused > 0, "no mutation of {name} was refused: nothing was tried");
}

fn names(error: &Error, folder: &Path) -> bool {
    error.to_string().contains(&*folder.to_string_lossy())
}

/// The files of a folder of the project's tests that end in one of `ends`.
fn stored(folder: &str, ends: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| ends.iter().any(|end| p.to_string_lossy().ends_with(end)));
    paths.sort();
    assert!(!paths.is_empty(), "{}", folder.display());
    paths.iter().map(|p| std::fs::read(p).unwrap()).collect()
}

/// A run of two epochs, and the run's files.
fn trained() -> Project {
    let p = Project::new();
    expect(&p.train("o", &["--epochs", "2"]), 0, &[]);
    p
}

#[test]
fn weights() {
    let mut seeds = stored("fixtures_weights", &[".pth", ".pt"]);
    seeds.extend(stored("fixtures", &["conv2d_0.safetensors", "batch_norm_0.safetensors"]));
    check("weights", &seeds, SMALL, |path| {
        let file = WeightFile::open(path)?;
        weights::survey(&file);
        for i in 0..file.tensors().len() {
            // Counters are no floats.
            assert!(file.read(i).map_or_else(|e| names(&e, path.parent().unwrap()), |_| true));
        }
        Ok(())
    });
}

#[test]
fn checkpoints() {
    let p = trained();
    let seed = p.read("o/checkpoints/last.safetensors");
    check("checkpoint", &[seed], SMALL, |path| {
        let checkpoint = Checkpoint::open(path)?;
        let arch = Architecture::new(checkpoint.meta.model.clone())?;
        checkpoint.networks(&Cpu::<f32>::new(), &arch).map(|_| ())
    });
}

#[test]
fn lists() {
    let seeds = [
        "# images\na.png a.png\n/b.png\ta.png\n\nc d.png\ta.png\n",
        "2007_000032\n2007_000033\n",
        "leftImg8bit/a_000000_000000_leftImg8bit.png gtFine/a_000000_000000_gtFine_labelIds.png\n",
    ];
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|s| s.as_bytes().to_vec()).collect();
    check("list", &seeds, SMALL, |path| {
        let root = path.parent().unwrap();
        for file in ["a.png", "b.png", "c d.png"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        for layout in [Layout::Folder, Layout::Voc, Layout::Cityscapes] {
            for masks in [Masks::Required, Masks::Optional, Masks::Ignored] {
                let (list, faults) = List::read_all(path, root, layout, masks)?;
                assert!(faults.iter().all(|e| names(e, root)), "{faults:?}");
                assert!(list.entries.iter().all(|e| e.image.exists()), "{list:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn configurations() {
    let p = trained();
    let seeds = ["run.toml", "o/config.toml"].map(|name| p.read(name));
    check("config.toml", &seeds, SMALL, |path| {
        let Ok(text) = String::from_utf8(std::fs::read(path).unwrap()) else { return Ok(()) };
        let config = config::parse(&path.display().to_string(), &text)?;
        // Faults of values are reported with the key alone.
        if config::validate(&config).is_ok() {
            let _ = estimated_memory(&config, &ImageSizes::default());
        }
        Ok(())
    });
}

#[test]
fn images() {
    let mut seeds = stored("jpeg", &["2x2_baseline.jpg", "2x2_progressive-restart.jpg", "gray_baseline.jpg"]);
    seeds.extend(stored("jpeg", &["gray.png", "rgb.png"]));
    let mut webp = Vec::new();
    let pixels = image::RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
    pixels.write_with_encoder(encoder).unwrap();
    seeds.push(webp);
    seeds.push(crate::cli_common::turned_jpeg(&pixels, 6));
    // A header may promise as much as the decoders' own limit.
    check("image", &seeds, 4 << 30, |path| {
        let stored = decode_image(path)?;
        assert_eq!(stored.data.len(), stored.size.0 * stored.size.1 * 3);
        let upright = decode_upright(path)?;
        assert_eq!(upright.data.len(), stored.data.len());
        Ok(())
    });
}

#[test]
fn masks() {
    let p = Project::new();
    let mut seeds = vec![p.read("data/masks/0.png")];
    for depth in [png::BitDepth::One, png::BitDepth::Four] {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 12, 5);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(depth);
        let row = if depth == png::BitDepth::One { 2 } else { 6 };
        encoder.write_header().unwrap().write_image_data(&vec![0x5A; row * 5]).unwrap();
        seeds.push(bytes);
    }
    check("mask", &seeds, 4 << 30, |path| {
        let mask = decode_mask(path)?;
        assert_eq!(mask.data.len(), mask.size.0 * mask.size.1);
        Ok(())
    });
}

#[test]
fn records() {
    let p = trained();
    let seed = p.read("o/metrics.jsonl");
    let config = p.read("o/config.toml");
    check("metrics.jsonl", &[seed], SMALL, |path| {
        let folder = path.parent().unwrap();
        std::fs::write(folder.join("config.toml"), &config).unwrap();
        report::write(&[folder.into()], Some(&folder.join("r.html")), Some(&folder.join("r.md")))
    });
}
