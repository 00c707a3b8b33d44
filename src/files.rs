//! Writing files so that each is whole or not there. Must not know what they hold.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Ending of the temporary files that [`write_atomically`] makes; a process that was killed may leave one.
pub const TEMPORARY: &str = ".tmp";

/// Writes a file through `fill` so that `path` holds the old content or all of the new one, also after a
/// crash: into a new file of a random name in the same folder, which is then renamed. A device, a pipe or
/// `/dev/stdout` is written to directly.
///
/// # Errors
/// [`Error::Io`] where the system refuses; the temporary file is removed.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<()> {
    let fill = |file: &File| -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        out.flush()
    };
    if is_stream(path) {
        let write = || fill(&File::options().write(true).open(path)?);
        return write().map_err(Error::io(path));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        // Short, so that names of up to the system's limit can be written; never an existing file, nor
        // through a link.
        let mut builder = tempfile::Builder::new();
        builder.prefix(".psmt-").suffix(TEMPORARY);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the user's umask
        let temporary = builder.tempfile_in(folder)?;
        fill(temporary.as_file())?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|e| e.error)?;
        // The rename itself reaches the disk with the folder; not every system lets a folder be opened for
        // that.
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    };
    write().map_err(Error::io(path))
}

/// Whether `path` is a device or pipe, which a renamed file must not replace.
fn is_stream(path: &Path) -> bool {
    let special = fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
    special
        || path.starts_with("/dev/fd")
        || path.starts_with("/proc")
        || path == Path::new("/dev/stdout")
        || path == Path::new("/dev/stderr")
}

/// Writes a value as indented JSON, whole or not at all.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    write_atomically(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}
