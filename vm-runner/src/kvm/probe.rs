//! Opening `/dev/kvm`, and running the probe's guest on it against the clock.

use std::io;

use kvm_ioctls::Kvm;

/// The only version of the API there has been since Linux 2.6.22.
///
/// Source: Linux `Documentation/virt/kvm/api.rst`, `KVM_GET_API_VERSION`.
const API_VERSION: i32 = 12;

/// Why `/dev/kvm` is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmUnusable {
    /// No such device.
    #[error(
        "there is no /dev/kvm: the processor lacks virtualisation, the firmware has it switched off, or the \
         kernel module kvm_intel or kvm_amd is not loaded"
    )]
    Missing,
    /// The device is there and not for this user.
    #[error(
        "/dev/kvm may not be opened by this user: join its group with `sudo usermod -aG kvm $USER` and log in again"
    )]
    Forbidden,
    /// The device does not open, for another reason.
    #[error("/dev/kvm does not open: {0}")]
    Open(io::Error),
    /// Something else under that name.
    #[error("/dev/kvm speaks version {found} of its API, and {API_VERSION} is the one that is known")]
    Version {
        /// What it says.
        found: i32,
    },
    /// KVM never runs instructions of another architecture.
    #[error("the guest is {guest} and this host {host}")]
    ForeignGuest {
        /// The guest's architecture.
        guest: &'static str,
        /// The host's.
        host: &'static str,
    },
    /// Not even a test guest can be set up.
    #[error("/dev/kvm opens, but cannot run a stock guest: {step} failed: {error}")]
    Setup {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The test guest stopped where it should not have.
    #[error(
        "/dev/kvm opens, but cannot run a stock guest: the test guest stopped at `{instruction}` with {how}"
    )]
    Stopped {
        /// The instruction.
        instruction: String,
        /// What KVM said.
        how: String,
    },
    /// The test guest did not get done.
    #[error(
        "/dev/kvm opens, but cannot run a stock guest: after {waited_ms} ms the test guest was still at \
         `{instruction}`, so it is interpreted and not run"
    )]
    Slow {
        /// The instruction.
        instruction: String,
        /// How long it had.
        waited_ms: u64,
    },
    /// The test guest could not even be interrupted.
    #[error("/dev/kvm opens, but cannot run a stock guest: the test guest did not stop when told to")]
    Stuck,
}

/// Opens `/dev/kvm` and checks that it is what it is called. Whether guests run is another question.
///
/// # Errors
///
/// [`KvmUnusable`], one of the first four.
pub fn open() -> Result<Kvm, KvmUnusable> {
    let kvm = Kvm::new().map_err(|errno| {
        let error = io::Error::from_raw_os_error(errno.errno());
        match error.kind() {
            io::ErrorKind::NotFound => KvmUnusable::Missing,
            io::ErrorKind::PermissionDenied => KvmUnusable::Forbidden,
            _ => KvmUnusable::Open(error),
        }
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        found => Err(KvmUnusable::Version { found }),
    }
}

/// Runs a test guest, which has 100 ms once the kernel has set it up. Success means that a stock guest will run.
///
/// # Errors
///
/// [`KvmUnusable`], which says what to do or what happened.
#[cfg(target_arch = "x86_64")]
pub fn probe() -> Result<(), KvmUnusable> {
    run::run_in_time(0)
}

/// Opens the device. There is a test guest for x86-64 only.
///
/// # Errors
///
/// As [`open`].
#[cfg(not(target_arch = "x86_64"))]
pub fn probe() -> Result<(), KvmUnusable> {
    open().map(drop)
}

/// Running the guest.
#[cfg(target_arch = "x86_64")]
mod run {
    use std::ffi::c_void;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
    use kvm_ioctls::{VcpuExit, VcpuFd};
    use libc::{c_int, siginfo_t};
    use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

    use super::{KvmUnusable, io};
    use crate::kvm::guest::{self, GREETING, PORT, Page};

    /// How long the kernel may take to set the machine up: a few ms, more for the first one after boot.
    const SETUP: Duration = Duration::from_secs(1);

    /// How long the guest may take. A processor needs about 1 ms, on a busy host some 10.
    const BUDGET: Duration = Duration::from_millis(100);

    /// How long it may take to stop then.
    const GRACE: Duration = Duration::from_millis(50);
    const _: () =
        assert!(BUDGET.as_millis() + GRACE.as_millis() < 200, "a guest that cannot run is found out quickly");

    type Verdict = Result<(), KvmUnusable>;

    /// What the processor's thread reports.
    enum Progress {
        /// The guest runs from now on.
        Running,
        /// It has ended, or never ran.
        Ended(Verdict),
    }

    /// Runs the guest from its instruction number `first`, on a thread of its own.
    pub(super) fn run_in_time(first: usize) -> Verdict {
        // Interrupting the processor takes a signal with a handler, else it would end the program.
        register_signal_handler(SIGRTMIN(), ignore).map_err(setup("installing a signal handler"))?;
        let (sender, progress) = channel();
        let processor = thread::Builder::new()
            .name("kvm-probe".into())
            .spawn(move || {
                let verdict = run_guest(first, &sender);
                let _ = sender.send(Progress::Ended(verdict)); // Nobody listens any more where it came too late.
            })
            .map_err(|error| KvmUnusable::Setup { step: "starting a thread", error })?;
        match progress.recv_timeout(SETUP) {
            Ok(Progress::Running) => {}
            Ok(Progress::Ended(verdict)) => return verdict,
            Err(_) => return Err(KvmUnusable::Stuck),
        }
        match progress.recv_timeout(BUDGET) {
            Ok(Progress::Ended(verdict)) => verdict,
            _ => interrupt(&processor, &progress),
        }
    }

    /// Signals until the processor stops: one signal could come just before it enters the guest.
    fn interrupt(processor: &JoinHandle<()>, progress: &Receiver<Progress>) -> Verdict {
        for _ in 0..GRACE.as_millis() {
            let _ = processor.kill(SIGRTMIN()); // Fails where the thread has just ended.
            if let Ok(Progress::Ended(verdict)) = progress.recv_timeout(Duration::from_millis(1)) {
                return verdict;
            }
        }
        Err(KvmUnusable::Stuck) // The thread is left to itself.
    }

    extern "C" fn ignore(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

    fn run_guest(first: usize, progress: &Sender<Progress>) -> Verdict {
        let mut memory = guest::memory(); // Dropped last: the machine below uses it.
        let kvm = super::open()?;
        let vm = kvm.create_vm().map_err(setup("creating a machine"))?;
        lend(&vm, &mut memory)?;
        let mut cpu = vm.create_vcpu(0).map_err(setup("creating a processor"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(setup("asking for features"))?;
        cpu.set_cpuid2(&cpuid).map_err(setup("setting features"))?;
        let reset = cpu.get_sregs().map_err(setup("reading system registers"))?;
        cpu.set_sregs(&guest::system_registers(reset)).map_err(setup("setting system registers"))?;
        cpu.set_regs(&guest::registers(first)).map_err(setup("setting registers"))?;
        let _ = progress.send(Progress::Running);
        run_to_the_end(&mut cpu)
    }

    #[expect(unsafe_code, reason = "the kernel is given the address of memory that it will write to")]
    fn lend(vm: &kvm_ioctls::VmFd, memory: &mut [Page]) -> Verdict {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: size_of_val(memory) as u64,
            userspace_addr: memory.as_mut_ptr() as u64,
        };
        // SAFETY: the pages are aligned, initialised, exclusively borrowed and as many as said. The caller
        // keeps them, untouched, until after the machine and its processor are gone.
        unsafe { vm.set_user_memory_region(region) }.map_err(setup("giving the machine memory"))
    }

    fn run_to_the_end(cpu: &mut VcpuFd) -> Verdict {
        let mut greeted = false;
        let how = loop {
            match cpu.run() {
                Ok(VcpuExit::IoOut(PORT, [GREETING])) if !greeted => greeted = true,
                Ok(VcpuExit::Hlt) if greeted => return Ok(()),
                Ok(VcpuExit::InternalError) => break "an internal error (emulation)".into(),
                Ok(VcpuExit::Shutdown) => break "a triple fault".into(),
                Ok(exit) => break format!("{exit:?}"),
                Err(errno) if errno.errno() == libc::EINTR => {
                    let waited_ms = BUDGET.as_millis() as u64;
                    return Err(KvmUnusable::Slow { instruction: instruction(cpu), waited_ms });
                }
                Err(errno) => break errno.to_string(),
            }
        };
        Err(KvmUnusable::Stopped { instruction: instruction(cpu), how })
    }

    /// Where the guest stands.
    fn instruction(cpu: &VcpuFd) -> String {
        cpu.get_regs().map_or_else(|_| "an unknown place".into(), |regs| guest::instruction_at(regs.rip))
    }

    fn setup(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmUnusable {
        move |errno| KvmUnusable::Setup { step, error: io::Error::from_raw_os_error(errno.errno()) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_guest_that_only_counts_gets_done_or_is_interrupted() {
            if super::super::open().is_err() {
                return;
            }
            let counting = 17;
            // On a busy host a thread may come too late to be stopped in time, but not each time.
            let verdict =
                (0..10).map(|_| run_in_time(counting)).find(|it| !matches!(it, Err(KvmUnusable::Stuck)));
            match verdict.expect("it stops when told to") {
                Ok(()) => {}
                Err(KvmUnusable::Slow { instruction, .. }) => {
                    let counting = ["mov $1000000, %ecx", "dec %ecx", "jnz"];
                    assert!(counting.contains(&instruction.as_str()), "{instruction}");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
