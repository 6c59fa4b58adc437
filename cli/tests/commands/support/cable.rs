//! The way to a registry, cut where a test wants it: a TCP relay that counts what it carries.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A relay on a port of its own. References name that port, so that what is behind it can change.
#[derive(Debug, Clone)]
pub(crate) struct Cable {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

/// What is called when the cable is cut.
type OnCut = Box<dyn FnOnce() + Send>;

struct State {
    registry: String,
    /// Bytes that have come from the registry.
    carried: u64,
    /// Bytes that have gone to a registry.
    sent: u64,
    cut: Option<(u64, OnCut)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Cable {
    /// A cable to `registry`.
    pub(crate) fn to(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = State { registry: registry.to_owned(), carried: 0, sent: 0, cut: None };
        let cable = Self { address, state: Arc::new(Mutex::new(state)) };
        let relay = cable.clone();
        thread::spawn(move || listener.incoming().flatten().for_each(|client| relay.connect(client)));
        cable
    }

    /// Leads to another registry from now on. Returns how many bytes the one before has sent.
    pub(crate) fn lead_to(&self, registry: &str) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.registry = registry.to_owned();
        std::mem::take(&mut state.carried)
    }

    /// Calls `on_cut` once the registry has sent `bytes` more, and carries nothing of what follows.
    pub(crate) fn cut_after(&self, bytes: u64, on_cut: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock().unwrap();
        state.cut = Some((state.carried + bytes, Box::new(on_cut)));
    }

    /// Bytes that the registry has sent.
    pub(crate) fn carried(&self) -> u64 {
        self.state.lock().unwrap().carried
    }

    /// Bytes that have gone to the registry, and to those before it.
    pub(crate) fn sent(&self) -> u64 {
        self.state.lock().unwrap().sent
    }

    fn connect(&self, client: TcpStream) {
        let registry = self.state.lock().unwrap().registry.clone();
        // Nobody there: the client sees its connection end.
        let Ok(registry) = TcpStream::connect(registry) else { return };
        let (mut requests, mut to_registry) = (client.try_clone().unwrap(), registry.try_clone().unwrap());
        let cable = self.clone();
        thread::spawn(move || {
            let mut piece = [0; 16 << 10];
            while let Ok(read @ 1..) = requests.read(&mut piece) {
                cable.state.lock().unwrap().sent += read as u64;
                if to_registry.write_all(&piece[..read]).is_err() {
                    break;
                }
            }
            let _ = to_registry.shutdown(Shutdown::Write);
        });
        let cable = self.clone();
        thread::spawn(move || cable.carry(registry, client));
    }

    fn carry(&self, mut registry: TcpStream, mut client: TcpStream) {
        let mut piece = [0; 16 << 10];
        while let Ok(read @ 1..) = registry.read(&mut piece) {
            if !self.may_pass(read as u64) || client.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = registry.shutdown(Shutdown::Both);
    }

    fn may_pass(&self, bytes: u64) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.cut.as_ref().is_some_and(|(limit, _)| state.carried + bytes > *limit) {
            let (_, on_cut) = state.cut.take().expect("it was there");
            on_cut();
            return false;
        }
        state.carried += bytes;
        true
    }
}
