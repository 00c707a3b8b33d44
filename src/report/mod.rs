//! One page about several runs: numbers, curves, confidence, pictures and what was set differently, in a
//! single HTML file that needs nothing else, and its numbers as Markdown. Runs that differ in the seed alone
//! share a column. Reads what runs wrote; must not know devices, networks or the training loop.

mod chart;
mod curves;
mod group;
mod heat;
mod html;
mod markdown;
mod page;
mod pairs;
mod pictures;
mod run;
mod stats;
mod table;
mod tables;
#[cfg(test)]
mod testing;
mod unlabeled;

use run::Run;

use crate::Result;
use crate::files::write_atomically;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes what is asked for about the runs in `folders`, each file whole or not at all: the page to `html`,
/// its numbers for documents to `markdown`.
///
/// # Errors
/// A folder that is no run's, records that cannot be read, a picture that is none, a file that cannot be
/// written.
pub fn write(folders: &[PathBuf], html: Option<&Path>, markdown: Option<&Path>) -> Result<()> {
    let mut runs = folders.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    run::label(&mut runs);
    let groups = group::group(&runs);
    let html = html.map(|out| Ok((out, page::page(&groups)?))).transpose()?;
    let markdown = markdown.map(|out| (out, markdown::document(&groups)));
    for (out, text) in html.into_iter().chain(markdown) {
        write_atomically(out, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}
