//! Files and directories with the modes they must have.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Uid, access};
use thiserror::Error;

/// Why a file or directory could not be made.
#[derive(Debug, Error)]
pub enum FsError {
    /// A file could not be replaced.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory could not be made.
    #[error("failed to create directory {}", path.display())]
    CreateDir {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory is there and belongs to somebody else: mostly a volume that root made for a process that does not run as root.
    #[error(
        "directory {} belongs to user {owner}, and user {user}, who this process runs as, may not write to it; \
         give it away (chown {user} {}), mount a new named volume there, or run as user {owner}",
        path.display(),
        path.display()
    )]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user this process runs as.
        user: u32,
    },
}

/// Why a file that an operator has named could not be read, in the words of SPIRE's messages: `open PATH: no such file or directory`.
#[derive(Debug, Error)]
#[error("open {path}: {}", reason(cause))]
pub struct OpenError {
    path: String,
    /// Told above, and so no source.
    cause: io::Error,
}

impl OpenError {
    /// Tells whether there is no such file.
    pub fn is_missing(&self) -> bool {
        self.cause.kind() == io::ErrorKind::NotFound
    }
}

/// Reads a file of text that an operator has named.
pub fn read_text(path: impl AsRef<Path>) -> Result<String, OpenError> {
    let path = path.as_ref();
    std::fs::read_to_string(path).map_err(|cause| OpenError {
        path: path.display().to_string(),
        cause,
    })
}

/// Says what the operating system said, as Go does: without a capital and a number.
pub fn reason(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else {
        return error.to_string();
    };
    let mut letters = Errno::from_raw(code).desc().chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

/// Replaces the content of `path` in one step: readers see the old file or the new one, never a part.
///
/// The file is on disk when this returns. `mode` is exact; the umask does not narrow it.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let write = || -> io::Result<()> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        // The error of a missing directory is clearer than that of a temporary file in it.
        std::fs::metadata(dir)?;
        let mut file = tempfile::Builder::new()
            .prefix(".finial-")
            .tempfile_in(dir)?;
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // Without this the rename may be lost in a crash, and with it a key that has already signed.
        std::fs::File::open(dir)?.sync_all()
    };
    write().map_err(|source| FsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Creates a directory and its parents; one that exists has to be writable. The umask narrows `mode`.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), FsError> {
    let failed = |source| FsError::CreateDir {
        path: path.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed)?;
    if access(path, AccessFlags::W_OK | AccessFlags::X_OK) == Err(Errno::EACCES) {
        return Err(FsError::NotWritable {
            // the command in the text is for another shell, with another working directory
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            owner: std::fs::metadata(path).map_err(failed)?.uid(),
            user: Uid::current().as_raw(),
        });
    }
    Ok(())
}

/// Makes the process umask at least as strict as `minimum`, and says so when it had to.
pub fn set_umask(minimum: u32) {
    let minimum = Mode::from_bits_truncate(minimum);
    let current = umask(minimum);
    let wanted = current | minimum;
    umask(wanted);
    if wanted != current {
        tracing::warn!(
            "Current umask {} is too permissive; setting umask {}",
            octal(current),
            octal(wanted)
        );
    }
}

/// Prints a mode as operators know it: `0027`.
fn octal(mode: Mode) -> String {
    format!("0{:03o}", mode.bits())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_with_exactly_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        std::fs::write(&path, "old").unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_in_the_words_of_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_text(dir.path().join("missing")).unwrap_err();
        assert!(error.is_missing());
        let path = dir.path().display();
        assert_eq!(
            crate::log::chain(&error).to_string(),
            format!("open {path}/missing: no such file or directory")
        );
        let error = read_text(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("open {path}: is a directory"));
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/keys.json");
        let error = write_atomic(&path, b"new", 0o600).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("failed to write {}", path.display())
        );
    }
}
