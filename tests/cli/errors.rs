//! Bad input through the built program: each kind names what is wrong and has its own exit code.

use crate::cli_common::{Project, expect};

#[test]
fn unknown_keys_name_file_line_and_key() {
    let p = Project::new();
    p.write("bad.toml", "[optim]\nlr = 0.1\nlearning_rate = 0.1\n");
    let out = p.run(&["train", "--config", "bad.toml"]);
    expect(&out, 3, &["bad.toml:3", "learning_rate", "expected"]);
    // A run of before would be another one now.
    p.write("old.toml", "[schedule]\nepochs = 3\n[method]\nwarm_up_epochs = 1\n");
    let out = p.run(&["train", "--config", "old.toml"]);
    expect(&out, 3, &["old.toml:4", "method.warm_up_epochs", "method.warm_up_passes"]);
    let out = p.train("o", &["--set", "optim.ohem_min_kept=100000"]);
    expect(&out, 3, &["command line", "optim.ohem_min_kept_per_image"]);
    let out = p.train("o", &["--set", "method.gama=0.3"]);
    expect(&out, 3, &["command line", "gama"]);
    let out = p.train("o", &["--set", "optim.lr=fast"]);
    expect(&out, 3, &["command line", "lr", "fast"]);
    assert!(!p.path("o").exists(), "nothing may be written before the input is good");
}

#[test]
fn settings_that_cannot_train_are_refused() {
    let p = Project::new();
    expect(&p.train("o", &["--batch-size", "1"]), 3, &["batch_size", "at least 2"]);
    expect(&p.train("o", &["--num-classes", "0"]), 3, &["num_classes"]);
    expect(&p.train("o", &["--epochs", "0"]), 3, &["schedule.train_epochs", "at least 1"]);
    expect(&p.train("o", &["--crop", "300000"]), 7, &["300000 x 300000", "MiB"]);
    expect(&p.train("o", &["--device", "cuda"]), 10, &["cuda"]);
    expect(&p.run(&["train", "--config", "missing.toml"]), 9, &["missing.toml"]);
}

#[test]
fn bad_lists_and_files_are_refused() {
    let p = Project::new();
    let with = |list: &str, text: &str| {
        p.write("bad.txt", text);
        p.train("o", &[list, "bad.txt"])
    };
    expect(&p.train("o", &["--labeled", "none.txt"]), 4, &["none.txt"]);
    expect(&with("--labeled", "\n"), 4, &["bad.txt"]);
    expect(&with("--labeled", "images/0.png masks/0.png\nimages/1.png\n"), 4, &["bad.txt:2", "images/1.png"]);
    expect(&with("--unlabeled", "images/4.png\nimages/4.png\n"), 4, &["bad.txt:2", "images/4.png"]);
    expect(&with("--unlabeled", "images/77.png\n"), 4, &["bad.txt:1", "images/77.png"]);
    p.write("data/images/text.png", "not an image");
    expect(&with("--unlabeled", "images/text.png\n"), 4, &["text.png"]);
    let whole = p.read("data/masks/1.png");
    p.write("data/masks/cut.png", &whole[..whole.len() / 2]);
    expect(&with("--labeled", "images/1.png masks/cut.png\n"), 4, &["cut.png"]);
    image::GrayImage::new(8, 8).save(p.path("data/masks/small.png")).unwrap();
    expect(&with("--labeled", "images/1.png masks/small.png\n"), 4, &["small.png", "8", "32"]);
    image::GrayImage::from_pixel(32, 32, image::Luma([7])).save(p.path("data/masks/seven.png")).unwrap();
    expect(&with("--labeled", "images/1.png masks/seven.png\n"), 4, &["seven.png", "7"]);
    assert!(!p.path("o").exists());
}

#[test]
fn folders_in_use_are_refused() {
    let p = Project::new();
    std::fs::create_dir(p.path("o")).unwrap();
    p.write("o/notes.txt", "mine");
    expect(&p.train("o", &[]), 2, &["not empty"]);
    expect(&p.resume("o", &[]), 9, &["config.toml"]);
    expect(&p.resume("o", &["--epochs", "9"]), 2, &["--resume"]);
}

#[test]
fn an_exploding_loss_stops_and_keeps_the_last_good_checkpoint() {
    let p = Project::new();
    let out = p.train("o", &["--lr", "1e30", "--checkpoint-every", "1"]);
    expect(&out, 8, &["not finite", "step", "o/checkpoints/last.safetensors"]);
    expect(&p.run(&["eval", "o", "--network", "student"]), 0, &["mIoU"]);
}

/// A file system of its own, gone with the value.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount one.
    fn mount(at: std::path::PathBuf, bytes: u64) -> Option<SmallDisk> {
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={bytes}");
        let mount =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        mount.is_ok_and(|out| out.status.success()).then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let p = Project::new();
    assert!(p.train("plenty", &["--epochs", "2"]).status.success());
    let checkpoint = std::fs::metadata(p.path("plenty/checkpoints/last.safetensors")).unwrap().len();
    // A checkpoint is written next to the one that it replaces: there is room for one, not for two.
    let Some(_disk) = SmallDisk::mount(p.path("small"), checkpoint * 7 / 4) else {
        eprintln!("skipped: mounting a small disk needs more rights than this user has");
        return;
    };
    let out = p.train("small/run", &["--set", "run.pictures=0"]);
    expect(&out, 9, &["small/run", "No space left"]);
    let scored = p.run(&["eval", "small/run"]);
    assert!(scored.status.success(), "{}", String::from_utf8_lossy(&scored.stderr));
}

#[test]
fn shells_and_man_get_the_command_line() {
    let p = Project::new();
    for shell in ["bash", "zsh", "fish"] {
        expect(&p.run(&["completions", shell]), 0, &["psmt-fast", "check-data", "dry-run"]);
    }
    expect(&p.run(&["completions", "abacus"]), 2, &["bash", "abacus"]);
    expect(&p.run(&["man", "pages/man1"]), 0, &["manual pages in pages/man1"]);
    let page = p.read_text("pages/man1/psmt-fast-train.1");
    assert!(page.contains("recipe") && page.starts_with(".ie"), "{page}");
    for name in ["psmt-fast.1", "psmt-fast-predict.1", "psmt-fast-export.1"] {
        assert!(p.path("pages/man1").join(name).exists(), "{name}");
    }
    p.write("file", "in the way");
    expect(&p.run(&["man", "file"]), 9, &["file"]);
}

/// A reader that closes the pipe ends the program without a message.
#[test]
#[cfg(unix)]
fn output_whose_reader_has_gone() {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    let mut child = std::process::Command::new(crate::PROGRAM)
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Longer than what a pipe holds.
    let mut first = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert!(out.status.success() || out.status.signal() == Some(libc::SIGPIPE), "{:?}", out.status);
}
