//! A TCP socket that can be told to wait for more than one byte.

use libp2p::tcp::tokio::TcpStream;

/// Something that is read when it has enough.
pub(super) trait Wait {
    /// From here on the reader is woken when so many bytes can be read, the stream is over, or it broke. A reader may be
    /// woken earlier, and gets what is there whenever it asks.
    fn wait_for(&self, bytes: usize);
}

impl Wait for TcpStream {
    #[cfg(target_os = "linux")]
    fn wait_for(&self, bytes: usize) {
        use std::os::fd::AsRawFd;
        let bytes = libc::c_int::try_from(bytes).unwrap_or(1);
        // SAFETY: the descriptor is open as long as `self` is, and the option is an int that is only read. Should it
        // fail, the reader is woken more often.
        #[allow(unsafe_code)]
        unsafe {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), length);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wait_for(&self, _: usize) {}
}
