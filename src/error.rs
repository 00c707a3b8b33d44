//! One error type for the whole crate: what was expected, what was found, and where.

use std::path::{Path, PathBuf};

/// The crate's error. Each kind has its own exit code, see [`Error::exit_code`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Command-line arguments that parse but are invalid, alone or together.
    #[error("{0}")]
    Usage(String),
    /// A configuration key that is unknown or has an invalid value.
    #[error("configuration {origin}: {message}")]
    Config {
        /// The file, or "command line".
        origin: String,
        /// Names the key, what was expected and what was found.
        message: String,
    },
    /// A list, image or mask that cannot be used.
    #[error("{}{}: {message}", .path.display(), .line.map(|l| format!(":{l}")).unwrap_or_default())]
    Data {
        /// The file that cannot be used.
        path: PathBuf,
        /// Line number in a list file, from 1.
        line: Option<usize>,
        /// What was expected and what was found.
        message: String,
    },
    /// A checkpoint or other tensor file that is truncated, of another model, or lacks tensors.
    #[error("{}: {message}", .path.display())]
    Checkpoint {
        /// The file that cannot be used.
        path: PathBuf,
        /// Names the tensor, what was expected and what was found.
        message: String,
    },
    /// Tensors that do not fit an operation.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The operation's name, as in `src/ops/`.
        op: &'static str,
        /// What the operation needs.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// The chosen sizes need more memory than the machine has.
    #[error("not enough memory: {what} needs about {needed_mib} MiB, {available_mib} MiB are available")]
    Memory {
        /// What the memory is for, with the settings that determine its size.
        what: String,
        /// Estimated need in MiB.
        needed_mib: u64,
        /// Memory that the device has available, in MiB.
        available_mib: u64,
    },
    /// A loss or tensor became NaN or infinite.
    #[error("step {step}: {tensor} is not finite; the last good checkpoint is {checkpoint}")]
    NonFinite {
        /// The first tensor, in the order of computation, that is not finite.
        tensor: String,
        /// Training step, from 0.
        step: u64,
        /// Path of the last good checkpoint, or "not written yet".
        checkpoint: String,
    },
    /// A network's prediction is NaN or infinite.
    #[error(
        "{image}: the logits of {network} are not finite: its weights are damaged, or too large for this image"
    )]
    NonFiniteLogits {
        /// Name of the network.
        network: String,
        /// Name of the image.
        image: String,
        /// Index of the image in its batch, from 0.
        index: usize,
    },
    /// A device that this build or machine does not have, or that failed.
    #[error("device {name}: {message}")]
    Device {
        /// Name of the device as on the command line.
        name: String,
        /// Why it is not available, or what failed.
        message: String,
    },
    /// An error of the operating system: no such file, no permission, disk full.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file that was read or written.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A check of the laboratory (`psmt-lab op --check`, `gradcheck`) found differences.
    #[error("{0}")]
    CheckFailed(String),
    /// A run that was stopped by a signal (Ctrl-C) after a checkpoint was written.
    #[error("interrupted; continue with: {resume}")]
    Interrupted {
        /// The command that resumes the run.
        resume: String,
    },
}

/// A path as one word of a shell command, quoted where necessary.
pub fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    // Only a NUL byte cannot be quoted, and paths have none.
    shlex::try_quote(&text).map_or_else(|_| text.to_string(), |word| word.to_string())
}

/// Result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The process exit code of this kind of error (`docs/exit-codes.md`).
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::CheckFailed(_) => 1,
            Error::Usage(_) => 2,
            Error::Config { .. } => 3,
            Error::Data { .. } => 4,
            Error::Checkpoint { .. } => 5,
            Error::Shape { .. } => 6,
            Error::Memory { .. } => 7,
            Error::NonFinite { .. } | Error::NonFiniteLogits { .. } => 8,
            Error::Io { .. } => 9,
            Error::Device { .. } => 10,
            Error::Interrupted { .. } => 130,
        }
    }

    /// Wraps an I/O error with the path it happened on: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::Data`] without a line number.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Data { path: path.as_ref().to_path_buf(), line: None, message: message.into() }
    }

    /// An [`Error::Checkpoint`].
    pub fn checkpoint(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Checkpoint { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// An [`Error::Config`].
    pub fn config(origin: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Config { origin: origin.into(), message: message.into() }
    }

    /// An [`Error::Shape`].
    pub fn shape(op: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Shape { op, expected: expected.into(), got: got.into() }
    }
}
