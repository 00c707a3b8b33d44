//! A small data set in a temporary folder and the built program to run on it.
#![allow(dead_code)] // each test program uses a part

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A temporary folder with images of two classes (a bright square on noise), masks and lists.
pub struct Project {
    dir: tempfile::TempDir,
}

const SIDE: u32 = 32;

/// A network of a few thousand parameters, so that steps take milliseconds.
const CONFIG: &str = "
[data]
num_classes = 2
[augment]
crop = [24, 24]
base_size = 32
[model]
name = \"tiny\"
blocks = [1, 1, 1, 1]
stem_width = 2
planes = 1
aspp = 4
low_level = 2
[method]
warm_up_passes = 1
threshold = 0.5
[optim]
batch_size = 2
lr = 0.02
[schedule]
train_epochs = 3
steps_per_epoch = 6
[run]
checkpoint_every = 4
log_every = 1
pictures = 1
";

impl Project {
    pub fn new() -> Project {
        let dir = tempfile::tempdir().unwrap();
        let project = Project { dir };
        std::fs::create_dir_all(project.path("data/images")).unwrap();
        std::fs::create_dir_all(project.path("data/masks")).unwrap();
        for i in 0..12 {
            project.image(i);
        }
        let line = |i: u32| format!("images/{i}.png masks/{i}.png\n");
        project.write("labeled.txt", (0..4).map(line).collect::<String>());
        project.write("unlabeled.txt", (4..9).map(|i| format!("images/{i}.png\n")).collect::<String>());
        project.write("val.txt", (9..12).map(line).collect::<String>());
        project.write("run.toml", CONFIG);
        project
    }

    fn image(&self, i: u32) {
        let at = 2 + (i * 5) % 14;
        let inside = |x: u32, y: u32| (at..at + 14).contains(&x) && (6..22).contains(&y);
        let image = image::RgbImage::from_fn(SIDE, SIDE, |x, y| {
            let noise = ((x * 31 + y * 17 + i * 7) % 61) as u8;
            image::Rgb(if inside(x, y) { [200, 190, noise] } else { [noise, 60, 90] })
        });
        let mask = image::GrayImage::from_fn(SIDE, SIDE, |x, y| image::Luma([u8::from(inside(x, y))]));
        image.save(self.path(&format!("data/images/{i}.png"))).unwrap();
        mask.save(self.path(&format!("data/masks/{i}.png"))).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        read(&self.path(name))
    }

    pub fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The program with one thread, so that tests that run at the same time do not crowd the machine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(crate::PROGRAM);
        c.current_dir(self.dir.path()).args(["--threads", "1"]).args(args);
        c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        c
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// `train` on the project's lists into `out`, with more flags, which replace those of the same name.
    pub fn train_args<'a>(&self, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let base = [
            ["--config", "run.toml"],
            ["--data", "data"],
            ["--labeled", "labeled.txt"],
            ["--unlabeled", "unlabeled.txt"],
            ["--val", "val.txt"],
            ["--out", out],
        ];
        let base = base.into_iter().filter(|pair| !more.contains(&pair[0])).flatten();
        ["train"].into_iter().chain(base).chain(more.iter().copied()).collect()
    }

    pub fn train(&self, out: &str, more: &[&str]) -> Output {
        self.run(&self.train_args(out, more))
    }

    /// `train --resume` of the run `out`, with more flags.
    pub fn resume(&self, out: &str, more: &[&str]) -> Output {
        self.run(&[&["train", "--resume", out], more].concat())
    }

    /// As [`Project::start_and_wait_for_checkpoint`], then kills the training.
    pub fn train_and_kill(&self, out: &str, more: &[&str]) {
        kill(self.start_and_wait_for_checkpoint(out, more));
    }

    /// Starts a training and waits until its checkpoint holds at least one step, but not the whole run.
    pub fn start_and_wait_for_checkpoint(&self, out: &str, more: &[&str]) -> Child {
        let mut child = self.command(&self.train_args(out, more)).spawn().unwrap();
        let last = self.path(out).join("checkpoints/last.safetensors");
        while !last.exists() {
            assert!(child.try_wait().unwrap().is_none(), "ended before its first checkpoint");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child
    }
}

/// Kills a process and waits for its end.
pub fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// All that a process said.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asserts the exit code, and that the output has every part.
#[track_caller]
pub fn expect(output: &Output, code: i32, parts: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A JPEG whose EXIF orientation (1 to 8) says how viewers turn it.
pub fn turned_jpeg(image: &image::RgbImage, orientation: u8) -> Vec<u8> {
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 100).encode_image(image).unwrap();
    // A TIFF directory of one entry: tag 0x0112, a short, one of it.
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let len = (exif.len() + 2) as u16;
    let segment = [&[0xFF, 0xE1][..], &len.to_be_bytes(), &exif].concat();
    jpeg.splice(2..2, segment);
    jpeg
}

/// A PNG of a few bytes whose header promises 60000 by 60000 pixels.
pub fn oversized_png(path: &Path, color: png::ColorType, depth: png::BitDepth) {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 60_000, 60_000);
    encoder.set_color(color);
    encoder.set_depth(depth);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9C, 3, 0, 0, 0, 0, 1]).unwrap();
    drop(writer);
    std::fs::write(path, file).unwrap();
}

/// Records of the run in a folder, without what depends on the clock and the machine.
pub fn records(run: &Path) -> Vec<Value> {
    let text = String::from_utf8(read(&run.join("metrics.jsonl"))).unwrap();
    let parse = |line: &str| {
        let mut v: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "images_per_second", "data_wait", "memory_mib"] {
            v.as_object_mut().unwrap().remove(key);
        }
        v
    };
    text.lines().map(parse).collect()
}

/// The records of a run's epochs.
pub fn epochs(run: &Path) -> Vec<Value> {
    records(run).into_iter().filter(|r| r["kind"] == "epoch").collect()
}
