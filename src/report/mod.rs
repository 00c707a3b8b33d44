//! One page about several runs: numbers, curves, confidence, pictures and what was set differently, in a single HTML file that
//! needs nothing else. Reads what runs wrote; must not know devices, networks or the training loop.

mod chart;
mod heat;
mod page;
mod pictures;
mod run;
mod tables;
mod unlabeled;

pub use run::{Run, flatten};

use crate::Result;
use crate::model::io::write_atomically;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes the page about the runs in `folders` to `out`, whole or not at all.
///
/// # Errors
/// A folder that is no run's, records that cannot be read, a picture that is none, a page that cannot be written.
pub fn write(folders: &[PathBuf], out: &Path) -> Result<()> {
    let mut runs = folders.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    run::label(&mut runs);
    let html = page::page(&runs)?;
    write_atomically(out, |file| file.write_all(html.as_bytes()))
}
