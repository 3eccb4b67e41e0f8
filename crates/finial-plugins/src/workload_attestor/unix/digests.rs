//! Digests of executables, kept as long as the file cannot have changed.
//!
//! A file that is executed cannot be written, and one that is written gets a new change time, which its owner cannot set. So a
//! digest holds for the same file with the same times. Times are coarse, though: a file that changed in the last moments could change
//! again without showing it, and is hashed anew each time.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};

/// The digests of files that were hashed lately.
#[derive(Debug, Default)]
pub(super) struct Digests {
    known: Mutex<HashMap<FileState, Arc<str>>>,
}

/// Whether somebody waits for an answer. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Asked(Arc<AtomicBool>);

/// Somebody who waits, until dropped.
#[derive(Debug)]
pub(super) struct Asker(Asked);

impl Asker {
    pub(super) fn new() -> Self {
        Self(Asked(Arc::new(AtomicBool::new(true))))
    }

    pub(super) fn asked(&self) -> Asked {
        self.0.clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

impl Asked {
    fn is_waited_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What stays the same as long as the content does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileState {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Tells whether the file has not changed for so long that another change would show.
    fn is_settled(&self, now: SystemTime) -> bool {
        let since_epoch = u64::try_from(self.changed.0).map(Duration::from_secs);
        // A file system may say anything.
        let settled = since_epoch.ok().and_then(|changed| {
            SystemTime::UNIX_EPOCH
                .checked_add(changed)?
                .checked_add(SETTLED_AFTER)
        });
        settled.is_some_and(|settled| settled < now)
    }
}

impl Digests {
    /// Returns the SHA-256 of a file in lower-case hex. Reads the file unless it was read before.
    ///
    /// A workload chooses how long its file is and how fast it is read: reading ends when `asked` says that nobody waits.
    pub(super) fn find_or_hash(
        &self,
        file: &mut File,
        now: SystemTime,
        asked: &Asked,
    ) -> io::Result<Arc<str>> {
        let state = FileState::of(&file.metadata()?);
        if let Some(digest) = self.lock().get(&state) {
            return Ok(Arc::clone(digest));
        }
        let digest: Arc<str> = sha256(file, asked)?.into();
        if state.is_settled(now) && state == FileState::of(&file.metadata()?) {
            let mut known = self.lock();
            if known.len() >= KEPT_AT_MOST {
                known.clear();
            }
            known.insert(state, Arc::clone(&digest));
        }
        Ok(digest)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileState, Arc<str>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sha256(file: &mut File, asked: &Asked) -> io::Result<String> {
    let mut hasher = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if !asked.is_waited_for() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it takes longer than the deadline of attestation; set workload_size_limit",
            ));
        }
        let read = match file.read(&mut chunk) {
            Ok(0) => return Ok(hex::encode(hasher.finish())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(chunk.get(..read).unwrap_or_default());
    }
}

/// Longer than the ticks of every file system worth the name.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
const KEPT_AT_MOST: usize = 1024;
const CHUNK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use finial_runtime::clock::SystemClock;
    use tempfile::NamedTempFile;

    use super::*;

    const A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
    const B: &str = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d";

    fn write(file: &mut NamedTempFile, content: &[u8]) {
        file.rewind().unwrap();
        file.write_all(content).unwrap();
    }

    fn now() -> SystemTime {
        SystemClock::shared().now()
    }

    #[test]
    fn a_file_at_rest_is_read_once() {
        let digests = Digests::default();
        let asker = Asker::new();
        let mut file = NamedTempFile::new().unwrap();
        write(&mut file, b"a");
        let later = now() + SETTLED_AFTER * 2;

        let first = digests
            .find_or_hash(&mut file.reopen().unwrap(), later, &asker.asked())
            .unwrap();
        let second = digests
            .find_or_hash(&mut file.reopen().unwrap(), later, &asker.asked())
            .unwrap();

        assert_eq!(&*first, A);
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn a_file_that_has_just_changed_is_read_each_time() {
        let digests = Digests::default();
        let asker = Asker::new();
        let mut file = NamedTempFile::new().unwrap();
        write(&mut file, b"a");
        assert_eq!(
            &*digests
                .find_or_hash(&mut file.reopen().unwrap(), now(), &asker.asked())
                .unwrap(),
            A
        );

        write(&mut file, b"b"); // as long as before, and maybe within the same tick

        assert_eq!(
            &*digests
                .find_or_hash(&mut file.reopen().unwrap(), now(), &asker.asked())
                .unwrap(),
            B
        );
    }

    #[test]
    fn a_file_of_the_end_of_time_is_not_settled() {
        let state = FileState {
            device: 1,
            inode: 1,
            size_bytes: 1,
            modified: (0, 0),
            changed: (i64::MAX, 999_999_999),
        };

        assert!(!state.is_settled(now()));
    }
}
