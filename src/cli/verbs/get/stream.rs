//! Standard output, pipes and devices: what is no place for a file is written into.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Bytes that are passed on at a time.
const PIECE: usize = 256 << 10;

/// What a download can be written into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stream {
    /// `-`, and by its other names.
    Stdout,
    /// A named pipe, a device, or something else that this process has open.
    Other(PathBuf),
}

impl Stream {
    /// What a path stands for, if that is a stream. `./-` is a file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
        if STDOUT.iter().any(|name| path.as_os_str() == *name) {
            return Some(Self::Stdout);
        }
        let open = path == Path::new("/dev/stderr") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
        let kind = std::fs::metadata(path).ok()?.file_type();
        let other = open && !kind.is_dir() || kind.is_fifo() || kind.is_char_device() || kind.is_block_device();
        other.then(|| Self::Other(path.to_owned()))
    }

    pub(super) fn is_stdout(&self) -> bool {
        *self == Self::Stdout
    }

    /// Opens it; waits until somebody reads a named pipe.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        match self {
            // Not through a buffer, which would hide that it is closed.
            Self::Stdout => Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?),
            Self::Other(path) => Ok(OpenOptions::new().write(true).open(path)?.into()),
        }
    }
}

/// Passes all of a file on.
pub(super) fn pass_on(file: &File, to: &OwnedFd) -> io::Result<()> {
    let (mut file, mut piece) = (file, vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece)?;
        let Some(mut rest) = piece.get(..read).filter(|rest| !rest.is_empty()) else { return Ok(()) };
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Whoever made it may have made it so that nobody waits.
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&to.as_fd(), PollFlags::OUT)], None)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn streams_are_told_from_files() {
        let folder = tempfile::TempDir::new().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for stdout in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            assert_eq!(Stream::of(Path::new(stdout)), Some(Stream::Stdout), "{stdout}");
        }
        for other in [fifo.as_path(), Path::new("/dev/null")] {
            assert_eq!(Stream::of(other), Some(Stream::Other(other.to_owned())));
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for none in [Path::new("./-"), &file, folder.path(), &folder.path().join("new"), Path::new("/dev/fd")] {
            assert_eq!(Stream::of(none), None, "{}", none.display());
        }
    }

    #[test]
    fn all_bytes_arrive_also_where_nobody_is_kept_waiting() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let reading = std::thread::spawn(move || {
            let (mut all, mut piece) = (Vec::new(), [0; 5000]);
            loop {
                match rustix::io::read(&reader, &mut piece) {
                    Ok(0) => return all,
                    Ok(read) => all.write_all(&piece[..read]).unwrap(),
                    Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&reader.as_fd(), PollFlags::IN)], None)),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        pass_on(&File::open(&path).unwrap(), &writer).unwrap();
        drop(writer);
        assert!(reading.join().unwrap() == bytes);
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error_of_its_own() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let error = pass_on(&File::open(&path).unwrap(), &writer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
