//! A server under a supervisor of its own (Linux): the gateway's side.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::supervisor::{self, ENDED, KILL, LEFT, Orders, STARTED, STUCK, TERMINATE, Word};
use super::{Left, OwnChild, SpawnedProcess, rlimits};
use crate::config::ProcessLimits;

/// Signals the server's processes through their supervisor. Dropped, it kills them all.
pub struct KillHandle(Arc<UnixStream>);

impl KillHandle {
    /// SIGTERM goes to the server's process group; anything else is a SIGKILL to all its descendants.
    pub fn signal(&self, signal: libc::c_int) {
        let word = if signal == libc::SIGTERM { TERMINATE } else { KILL };
        // SAFETY: one byte is sent, without waiting: three bytes at most are ever sent. If the supervisor is
        // gone, an error says so, and no signal is raised.
        unsafe {
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            libc::send(self.0.as_raw_fd(), (&raw const word).cast(), 1, flags);
        }
    }
}

impl Drop for KillHandle {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

/// Starts the process and reads from its supervisor until that has ended, and with it all processes of the
/// server.
pub fn wait(
    mut command: process::Command,
    server: &str,
    limits: ProcessLimits,
    grace: Duration,
    born: oneshot::Sender<io::Result<SpawnedProcess>>,
) {
    let (mut child, control_socket) = match spawn(&mut command, server, limits, grace) {
        Ok((child, control_socket)) => (child, Arc::new(control_socket)),
        Err(error) => return drop(born.send(Err(error))),
    };
    let _ours = OwnChild::add(child.id().cast_signed());
    let Some([STARTED, pid]) = next(&mut &*control_socket) else {
        let _ = child.wait();
        return drop(born.send(Err(io::Error::other("its supervisor was killed at once"))));
    };
    let (exit_sender, exit) = watch::channel(Left::default());
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three are piped in `prepare`");
    };
    let kill_handle = KillHandle(Arc::clone(&control_socket));
    // The receiver is gone: dropped at once, and so killed.
    drop(born.send(Ok(SpawnedProcess {
        pid: pid.cast_unsigned(),
        stdin,
        stdout,
        stderr,
        kill_handle,
        exit,
    })));
    while let Some(word) = next(&mut &*control_socket) {
        exit_sender.send_modify(|left| match word {
            [ENDED, status] => left.status = Some(ExitStatus::from_raw(status)),
            [LEFT, running] => left.running = running,
            [STUCK, stuck] => left.stuck = stuck,
            _ => {}
        });
    }
    let status = child.wait();
    if exit_sender.borrow().status.is_none() {
        // The supervisor was killed, and with it the server by the kernel; its group remains. SAFETY: no
        // memory is involved. As process 1 the gateway must reap them; else there is nothing to wait for.
        unsafe {
            libc::kill(-pid, libc::SIGKILL);
            while libc::waitpid(-pid, std::ptr::null_mut(), 0) > 0 {}
        }
    }
    exit_sender.send_modify(|left| {
        left.status = left.status.or(status.ok());
        left.over = true;
    });
}

/// The supervisor is our child, the server is its child.
fn spawn(
    command: &mut process::Command,
    server: &str,
    limits: ProcessLimits,
    grace: Duration,
) -> io::Result<(process::Child, UnixStream)> {
    let (here, there) = UnixStream::pair()?;
    let control = there.as_raw_fd();
    let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    let title = format!("mcp-supervisor {server}");
    // SAFETY: it makes plain system calls and allocates nothing, as it must between fork and exec.
    unsafe { command.pre_exec(move || enter(Orders { control, grace, title: title.as_bytes() }, limits)) };
    let child = command.spawn()?;
    Ok((child, here))
}

/// The supervisor does not return from here. The server does, without open files (listening sockets that an
/// upgrade handed over are not close-on-exec).
///
/// # Safety
///
/// Only between fork and exec.
unsafe fn enter(orders: Orders<'_>, limits: ProcessLimits) -> io::Result<()> {
    // SAFETY: system calls on numbers, and the caller's guarantee. A kernel without close_range leaves the
    // files as they are.
    unsafe {
        supervisor::enter(orders)?;
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    crate::process::fd_limit::restore()?;
    rlimits::apply(limits)
}

/// The next message of the supervisor; `None` when it has ended.
fn next(control_socket: &mut impl Read) -> Option<Word> {
    let mut bytes = [0; size_of::<Word>()];
    control_socket.read_exact(&mut bytes).ok()?;
    let [kind, value] = [0, 4].map(|at| i32::from_ne_bytes(std::array::from_fn(|n| bytes[at + n])));
    Some([kind, value])
}
