//! What a TCP socket is told: to wait for more than one byte, and to keep little that is not on its way.

use libp2p::tcp::tokio::TcpStream;

/// Something that is read when it has enough, and written when it has little.
pub(in crate::net) trait Wait {
    /// From here on the reader is woken when so many bytes can be read, the stream is over, or it broke. A reader may be
    /// woken earlier, and gets what is there whenever it asks.
    fn wait_for(&self, bytes: usize);

    /// From here on the system takes in so many bytes at most beyond what is on its way to the other end. What is in there goes before
    /// whatever comes later: megabytes of chunks before a ping, on a link that is full.
    fn keep_unsent(&self, bytes: usize);
}

impl Wait for TcpStream {
    #[cfg(target_os = "linux")]
    fn wait_for(&self, bytes: usize) {
        set(self, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes);
    }

    #[cfg(not(target_os = "linux"))]
    fn wait_for(&self, _: usize) {}

    #[cfg(target_os = "linux")]
    fn keep_unsent(&self, bytes: usize) {
        set(self, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes);
    }

    #[cfg(not(target_os = "linux"))]
    fn keep_unsent(&self, _: usize) {}
}

#[cfg(target_os = "linux")]
fn set(socket: &TcpStream, level: libc::c_int, option: libc::c_int, bytes: usize) {
    use std::os::fd::AsRawFd;
    let bytes = libc::c_int::try_from(bytes).unwrap_or(1);
    // SAFETY: the descriptor is open as long as `socket` is, and the option is an int that is only read. On an
    // open socket the call does not fail.
    #[allow(unsafe_code)]
    unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.0.as_raw_fd(), level, option, (&raw const bytes).cast(), length);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt as _, FutureExt};
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

    #[tokio::test]
    async fn what_is_not_on_its_way_is_little() {
        let (mut ours, theirs) = waiting_for(1).await;
        ours.keep_unsent(16 << 10);
        let taken = async |socket: &mut TcpStream| {
            let mut taken = 0;
            while let Some(Ok(count)) = socket.write(&[7; 16 << 10]).now_or_never() {
                taken += count;
            }
            taken
        };
        // As much as the other end takes in unread, and no more than that waits.
        let little = taken(&mut ours).await;
        let (mut other, _theirs) = waiting_for(1).await;
        let much = taken(&mut other).await;
        assert!(little < much, "{little} bytes, and {much} of a socket that was told nothing");
        drop(theirs);
    }
}
