//! A TCP socket that can be told to wait for more than one byte.

use libp2p::tcp::tokio::TcpStream;

/// Something that is read when it has enough.
pub(in crate::net) trait Wait {
    /// From here on the reader is woken when so many bytes can be read, the stream is over, or it broke. A reader may be
    /// woken earlier, and gets what is there whenever it asks.
    fn wait_for(&self, bytes: usize);
}

impl Wait for TcpStream {
    #[cfg(target_os = "linux")]
    fn wait_for(&self, bytes: usize) {
        use std::os::fd::AsRawFd;
        let bytes = libc::c_int::try_from(bytes).unwrap_or(1);
        // SAFETY: the descriptor is open as long as `self` is, and the option is an int that is only read. On an
        // open socket the call does not fail.
        #[allow(unsafe_code)]
        unsafe {
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const bytes).cast(),
                length,
            );
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wait_for(&self, _: usize) {}
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use futures::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream as Socket};

    use super::*;

    /// A socket that waits for so many bytes, and its other end.
    async fn waiting_for(bytes: usize) -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(Socket::connect(listener.local_addr().unwrap()), listener.accept());
        let ours = TcpStream(ours.unwrap());
        ours.wait_for(bytes);
        (ours, theirs.unwrap().0)
    }

    #[tokio::test]
    async fn a_reader_is_woken_when_enough_came() {
        let (mut ours, mut theirs) = waiting_for(100).await;
        let mut buffer = [0; 200];
        let reading = ours.read(&mut buffer);
        let writing = async {
            for _ in 0..10 {
                theirs.write_all(&[1; 10]).await.unwrap();
                // Another turn for the reader, if it was woken.
                tokio::task::yield_now().await;
            }
        };
        let (count, ()) = tokio::join!(reading, writing);
        assert_eq!(count.unwrap(), 100);
    }

    #[tokio::test]
    async fn less_than_enough_is_read_when_the_stream_ends_or_less_is_waited_for() {
        let (mut ours, mut theirs) = waiting_for(100).await;
        let mut buffer = [0; 200];
        theirs.write_all(&[1; 10]).await.unwrap();
        ours.wait_for(10);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 10);
        ours.wait_for(100);
        theirs.write_all(&[1; 20]).await.unwrap();
        drop(theirs);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 20);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 0);
    }
}
