//! The one error type of the crate.
#![forbid(unsafe_code)]

use std::path::PathBuf;

/// Result of every fallible call of the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong: always one line that names the argument, flag, file or tensor, with the expected and the found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size or shape does not fit the operation.
    #[error("{operation}: {argument}: expected {expected}, found {found}")]
    Shape {
        /// The operation, as the caller named it (`ternary_matmul`).
        operation: &'static str,
        /// The argument that does not fit.
        argument: &'static str,
        /// What would fit.
        expected: String,
        /// What came.
        found: String,
    },
    /// A setting (flag, configuration field, argument) has a value outside its range.
    #[error("{name}: expected {expected}, found {found}")]
    InvalidValue {
        /// Flag (`--lr`), field (`data_clusters`) or argument.
        name: String,
        /// The accepted range or form.
        expected: String,
        /// The value given.
        found: String,
    },
    /// A number that must be finite is not.
    #[error("{tensor}: element {index} is {value}, expected a finite number")]
    NonFinite {
        /// Tensor or argument.
        tensor: String,
        /// Index of the first such element.
        index: usize,
        /// The value found there.
        value: f32,
    },
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file's content is not what its format demands.
    #[error("{}{}: {message}", path.display(), offset.map(|o| format!(" at byte {o}")).unwrap_or_default())]
    Format {
        /// The file.
        path: PathBuf,
        /// Byte offset, where there is one.
        offset: Option<u64>,
        /// Expected and found.
        message: String,
    },
    /// Training cannot go on (a loss that is not finite, say).
    #[error("{0}")]
    Training(String),
    /// There is no such device, or this build cannot use it.
    #[error("{0}")]
    NoDevice(String),
    /// A device has not the memory that is wanted.
    #[error("{0}")]
    DeviceMemory(String),
    /// A device failed: it is lost, or what ran on it went wrong.
    #[error("{0}")]
    Device(String),
    /// Neither the caller nor a file is at fault but the machine cannot do what is asked.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    /// A [`Error::Shape`] from anything printable.
    pub fn shape(
        operation: &'static str,
        argument: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Error::Shape { operation, argument, expected: expected.to_string(), found: found.to_string() }
    }

    /// A [`Error::InvalidValue`] from anything printable.
    pub fn invalid(name: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Error::InvalidValue { name: name.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// A [`Error::Io`] on `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// A [`Error::Format`] on `path`.
    pub fn format(path: impl Into<PathBuf>, offset: Option<u64>, message: impl Into<String>) -> Self {
        Error::Format { path: path.into(), offset, message: message.into() }
    }
}
