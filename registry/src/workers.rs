//! The threads that serve connections.
//!
//! Each has a runtime of its own, and a connection stays on the thread that it was given to. Threads
//! that share a runtime wake each other: whatever arrives on a connection that one is at work on wakes
//! another, which finds nothing to do and sleeps again. That was a quarter of what a push took of the
//! processors. So no work of a connection may keep its thread for long: what reads, writes or computes
//! more than a piece of content belongs on a thread that may block.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// One thread for each processor. Dropped, they stop, and what they serve is cut off.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Workers {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        (0..processors).map(|_| Worker::start()).collect::<io::Result<_>>().map(Self)
    }

    /// Gives a connection to the thread that has the fewest.
    pub(crate) fn serve<F, S>(&self, stream: TcpStream, serve: S) -> io::Result<()>
    where
        S: FnOnce(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let worker = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let worker = worker.expect("there is a processor");
        let stream = {
            let stream = stream.into_std()?;
            // Whose runtime is entered is told what happens to the socket.
            let _entered = worker.runtime.enter();
            TcpStream::from_std(stream)?
        };
        let open = Open::count(&worker.connections);
        worker.runtime.spawn(async move {
            serve(stream).await;
            drop(open);
        });
        Ok(())
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new().name("registry-worker".to_owned()).spawn(move || {
            // Nothing is ever sent: it ends when the sender is gone.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, connections: Arc::default(), _stop: stop })
    }
}

/// A connection that is being served.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_are_spread_over_the_threads_and_cut_off_at_the_end() {
        let workers = Workers::start().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (served_on, threads) = mpsc::channel();
        let mut clients = Vec::new();
        for _ in 0..workers.0.len() {
            let client = tokio::spawn(TcpStream::connect(address));
            let (stream, _) = listener.accept().await.unwrap();
            clients.push(client.await.unwrap().unwrap());
            let served_on = served_on.clone();
            let serve = |stream| async move {
                served_on.send(thread::current().id()).unwrap();
                std::future::pending::<()>().await;
                drop::<TcpStream>(stream);
            };
            workers.serve(stream, serve).unwrap();
        }
        let mut threads: Vec<_> = threads.iter().take(workers.0.len()).collect();
        threads.dedup();
        assert_eq!(threads.len(), workers.0.len());
        drop(workers);
        for client in clients {
            client.readable().await.unwrap();
            assert_eq!(client.try_read(&mut [0]).unwrap(), 0, "the connection is closed");
        }
    }
}
