//! A server in a process group of its own, for systems without sub-reapers. A process that leaves the group
//! cannot be reached, and processes that run when the gateway is killed keep running.

use std::io;
use std::process::{self, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::{Left, OwnChild, SpawnedProcess, rlimits};
use crate::config::ProcessLimits;

/// The process group, as long as its id is known not to be reused. Dropped, it is killed.
pub struct KillHandle(Arc<Mutex<Option<libc::pid_t>>>);

impl KillHandle {
    pub fn signal(&self, signal: libc::c_int) {
        if let Some(group) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: no memory is involved. A group that is already empty is an error that says so.
            unsafe { libc::kill(-group, signal) };
        }
    }
}

impl Drop for KillHandle {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

/// Starts the process and waits for it.
pub fn wait(
    mut command: process::Command,
    _server: &str,
    limits: ProcessLimits,
    _grace: Duration,
    born: oneshot::Sender<io::Result<SpawnedProcess>>,
) {
    use std::os::unix::process::CommandExt;
    // SAFETY: it makes plain system calls and allocates nothing, as it must between fork and exec.
    unsafe {
        command.pre_exec(move || {
            crate::process::fd_limit::restore()?;
            rlimits::apply(limits)
        });
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return drop(born.send(Err(error))),
    };
    let pid = child.id();
    let group = pid.cast_signed();
    let _ours = OwnChild::add(group);
    let number = Arc::new(Mutex::new(Some(group)));
    let (exit_sender, exit) = watch::channel(Left::default());
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three are piped in `prepare`");
    };
    // The receiver is gone: dropped at once, and so killed.
    let kill_handle = KillHandle(Arc::clone(&number));
    drop(born.send(Ok(SpawnedProcess { pid, stdin, stdout, stderr, kill_handle, exit })));

    // Waits without reaping. While the process is a zombie, its pid cannot be reused. So the rest of the
    // group can be killed without hitting an unrelated process.
    wait_for_death(pid);
    {
        let mut number = number.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `signal`.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        *number = None;
    }
    let status: Option<ExitStatus> = child.wait().ok();
    exit_sender.send_modify(|left| (left.status, left.over) = (status, true));
    // As the init of a container the gateway inherits the rest of the group, and must reap what it killed.
    // SAFETY: it requests no status. If the rest has another parent, there is nothing to wait for.
    while unsafe { libc::waitpid(-group, std::ptr::null_mut(), 0) } > 0 {}
}

fn wait_for_death(pid: u32) {
    loop {
        // SAFETY: all zeroes is a siginfo_t, and it lives through the call.
        let result = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT)
        };
        if result == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}
