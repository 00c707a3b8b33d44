//! A data set in a temporary folder, and what reading it should say.

use psmt_fast::Error;
use psmt_fast::data::*;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A data directory with helpers to fill it.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// An RGB image; its kind follows the extension.
    pub fn image(&self, name: &str, w: u32, h: u32) -> PathBuf {
        let path = self.path(name);
        image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
            .save(&path)
            .unwrap();
        path
    }

    pub fn mask(&self, name: &str, w: u32, h: u32, f: impl Fn(u32, u32) -> u8) -> PathBuf {
        let path = self.path(name);
        image::GrayImage::from_fn(w, h, |x, y| image::Luma([f(x, y)])).save(&path).unwrap();
        path
    }

    pub fn read(&self, list: &str, layout: Layout, masks: Masks) -> psmt_fast::Result<List> {
        let path = self.text("list.txt", list);
        List::read(&path, self.0.path(), layout, masks)
    }

    /// The message for a labelled list, which must be a data error.
    pub fn list_error(&self, list: &str) -> String {
        data_error(self.read(list, Layout::Folder, Masks::Required))
    }

    /// The message of the first sample of a list of one pair.
    pub fn load_error(&self, num_classes: usize) -> String {
        let list = self.read("a.png m.png", Layout::Folder, Masks::Required).unwrap();
        let source = FolderSource::new(list, FolderOptions::new(num_classes));
        let message = data_error(source.load(0));
        assert_eq!(message, data_error(load_all(&source)));
        message
    }
}

/// The first error of loading every sample.
pub fn load_all(source: &FolderSource) -> psmt_fast::Result<()> {
    (0..source.len()).try_for_each(|i| source.load(i).map(|_| ()))
}

pub fn data_error<T>(result: psmt_fast::Result<T>) -> String {
    match result {
        Err(e @ Error::Data { .. }) => e.to_string(),
        Err(e) => panic!("another kind of error: {e:?}"),
        Ok(_) => panic!("no error"),
    }
}

#[track_caller]
pub fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// The CamVid data set; none, which standard error says, where it is not there.
pub fn camvid() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/camvid");
    let there = folder.join("val.txt").is_file();
    if !there {
        eprintln!("skipped: no CamVid in {}", folder.display());
    }
    there.then_some(folder)
}
