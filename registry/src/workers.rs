//! The threads that serve connections.
//!
//! Each has a runtime of its own, and a connection stays on the thread that it was given to. Threads
//! that share a runtime wake each other: whatever arrives on a connection that one is at work on wakes
//! another, which finds nothing to do and sleeps again. That was a quarter of what a push took of the
//! processors. In return nobody takes over from a thread that is busy, so nothing that computes for
//! more than a few milliseconds belongs there: see [`crate::on_thread`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// One thread for each processor. Dropped, they end soon; what they serve is cut off.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    load: Arc<Load>,
    thread: JoinHandle<()>,
    /// Dropped, it ends the thread.
    stop: oneshot::Sender<()>,
}

/// What a thread has to do.
#[derive(Debug, Default)]
pub(crate) struct Load {
    requests: AtomicUsize,
    connections: AtomicUsize,
}

/// Something that a thread has to do. Dropped, it is done.
#[derive(Debug)]
pub(crate) struct Burden {
    load: Arc<Load>,
    count: fn(&Load) -> &AtomicUsize,
}

/// Threads of all runtimes together that may block. More are seldom of use to a disk, and a service has
/// a limit of threads.
const BLOCKING_THREADS: usize = 512;
/// After so many turns of its tasks a thread looks what has arrived for the others. Some turns hash or
/// send most of a mebibyte.
const TURNS: u32 = 16;
/// How long work on the disk may take that was begun before the end.
const LAST_WORK: Duration = Duration::from_secs(10);

impl Workers {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let blocking = (BLOCKING_THREADS / processors).max(8);
        (0..processors).map(|_| Worker::start(blocking)).collect::<io::Result<_>>().map(Self)
    }

    /// Gives a connection to the thread that has least to do.
    pub(crate) fn serve<F, S>(&self, stream: TcpStream, serve: S) -> io::Result<()>
    where
        S: FnOnce(TcpStream, Arc<Load>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let alive = self.0.iter().filter(|worker| !worker.thread.is_finished());
        let worker = alive.min_by_key(|worker| worker.load.now());
        let worker = worker.ok_or_else(|| io::Error::other("no thread is left that serves connections"))?;
        let stream = {
            let stream = stream.into_std()?;
            // Whose runtime is entered is told what happens to the socket.
            let _entered = worker.runtime.enter();
            TcpStream::from_std(stream)?
        };
        let load = Arc::clone(&worker.load);
        let connection = load.connection();
        worker.runtime.spawn(async move {
            serve(stream, load).await;
            drop(connection);
        });
        Ok(())
    }

    /// Ends the threads. Once this returns, what they served is gone, and so is all that it held; but
    /// work that a disk does not finish within 10 seconds is left to itself.
    pub(crate) async fn stop(self) {
        let threads: Vec<_> = self.0.into_iter().map(|worker| (worker.stop, worker.thread)).collect();
        let (stops, threads): (Vec<_>, Vec<_>) = threads.into_iter().unzip();
        drop(stops);
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join));
        // A thread that panicked has ended, too.
        let _ = ended.await;
    }
}

impl Worker {
    fn start(blocking_threads: usize) -> io::Result<Self> {
        let mut builder = Builder::new_current_thread();
        builder.enable_io().enable_time().max_blocking_threads(blocking_threads);
        let runtime = builder.event_interval(TURNS).global_queue_interval(TURNS / 2).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("registry-worker".to_owned());
        let thread = thread.spawn(move || run(runtime, stopped))?;
        Ok(Self { runtime: handle, load: Arc::default(), thread, stop })
    }
}

fn run(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    // Nothing is ever sent: it ends when the sender is gone.
    let _ = runtime.block_on(stopped);
    runtime.shutdown_timeout(LAST_WORK);
}

impl Load {
    /// What is under way counts; connections that wait for their client decide between equals.
    fn now(&self) -> (usize, usize) {
        (self.requests.load(Ordering::Relaxed), self.connections.load(Ordering::Relaxed))
    }

    pub(crate) fn request(self: &Arc<Self>) -> Burden {
        self.add(|load| &load.requests)
    }

    fn connection(self: &Arc<Self>) -> Burden {
        self.add(|load| &load.connections)
    }

    fn add(self: &Arc<Self>, count: fn(&Self) -> &AtomicUsize) -> Burden {
        count(self).fetch_add(1, Ordering::Relaxed);
        Burden { load: Arc::clone(self), count }
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        (self.count)(&self.load).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::thread::ThreadId;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// Connects `count` times to `workers`, which serve for ever, with a request if `is_busy` says so of
    /// the connection's number. The clients, and who serves each.
    async fn connect(
        workers: &Workers,
        count: usize,
        is_busy: fn(usize) -> bool,
    ) -> (Vec<TcpStream>, Vec<ThreadId>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        let mut served_by = Vec::new();
        for number in 0..count {
            let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            clients.push(connected.unwrap());
            let (tell, told) = mpsc::channel();
            let serve = move |stream, load: Arc<Load>| async move {
                let request = is_busy(number).then(|| load.request());
                tell.send(thread::current().id()).unwrap();
                std::future::pending::<()>().await;
                drop((stream, request));
            };
            workers.serve(accepted.unwrap().0, serve).unwrap();
            served_by.push(told.recv().unwrap());
        }
        (clients, served_by)
    }

    fn workers(count: usize) -> Workers {
        Workers((0..count).map(|_| Worker::start(1).unwrap()).collect())
    }

    #[tokio::test]
    async fn connections_are_spread_over_the_threads_and_gone_once_these_have_stopped() {
        let workers = workers(3);
        let (clients, served_by) = connect(&workers, 3, |_| false).await;
        assert_eq!(served_by.iter().collect::<HashSet<_>>().len(), 3);
        workers.stop().await;
        for mut client in clients {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection is closed");
        }
    }

    #[tokio::test]
    async fn a_thread_with_many_idle_connections_is_chosen_before_a_busy_one() {
        let workers = workers(2);
        // The first is busy; all others go to the other thread.
        let (_clients, served_by) = connect(&workers, 5, |number| number == 0).await;
        assert!(served_by[1..].iter().all(|thread| *thread == served_by[1] && *thread != served_by[0]));
    }

    #[tokio::test]
    async fn a_panic_ends_a_connection_and_not_its_thread() {
        let workers = workers(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut client, accepted) = {
            let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            (connected.unwrap(), accepted.unwrap().0)
        };
        workers.serve(accepted, |_stream, _load| async { panic!("as a test wants it") }).unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let (_clients, served_by) = connect(&workers, 1, |_| false).await;
        assert_eq!(served_by.len(), 1);
        assert_eq!(workers.0[0].load.now(), (0, 1));
    }
}
