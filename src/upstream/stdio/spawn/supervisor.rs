//! The process between the gateway and a server (Linux): the parent of the server and of all its descendants.
//! So no process outlives the server or the gateway, in any session or group.
//!
//! It is a fork of the gateway without exec, a few pages large. It waits in `poll` for the server's end, for
//! a message of the gateway and for the gateway's end, which closes their socket. A fork of a process with
//! threads may make system calls and nothing else: no allocation, no lock, no panic.

use std::io;

use super::descent::{self, Pids};
use super::{raw, shed};

/// Messages of the gateway.
pub const TERMINATE: u8 = b'T';
pub const KILL: u8 = b'K';

/// Messages of the supervisor: a kind and a value, in native byte order.
pub type Word = [i32; 2];
/// The server's pid.
pub const STARTED: i32 = 1;
/// Its status, as `waitpid` gives it.
pub const ENDED: i32 = 2;
/// How many processes were running when it had ended.
pub const LEFT: i32 = 3;
/// How many of these cannot be ended.
pub const STUCK: i32 = 4;

/// Its name, and the start of its command line. It differs from the gateway's, so that a kill of the gateway
/// by name does not end the supervisor before its work is done.
const NAME: &std::ffi::CStr = c"mcp-supervisor";

/// How long it tries to kill processes that do not die (another user's, or one that waits for a device), in
/// milliseconds.
const KILLING: i64 = 10_000;

/// Parameters of the supervisor, set before the fork.
#[derive(Clone, Copy)]
pub struct Orders<'a> {
    /// Its end of the socket to the gateway.
    pub control: libc::c_int,
    /// Milliseconds between SIGTERM and SIGKILL.
    pub grace: i64,
    /// Its command line.
    pub title: &'a [u8],
}

/// Runs in the new process, before it becomes the server: it forks another, which becomes the server, and
/// stays as supervisor. So it returns in the server, or in neither if that fails.
///
/// # Safety
///
/// Only between fork and exec.
pub unsafe fn enter(orders: Orders<'_>) -> io::Result<()> {
    // SAFETY: system calls on numbers and on memory of this frame.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        // Handlers of the gateway must not run here, and signals must not end a supervisor.
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before) == -1
            || libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as libc::c_ulong) == -1
        {
            return Err(io::Error::last_os_error());
        }
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        let supervisor = libc::getpid();
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::setpgid(0, 0);
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) == -1 {
                    return Err(io::Error::last_os_error());
                }
                // It died before the request above.
                if libc::getppid() != supervisor {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
                Ok(())
            }
            server => {
                // Both do, so that the group exists whichever process runs first.
                libc::setpgid(server, server);
                supervise(server, orders)
            }
        }
    }
}

/// # Safety
/// As of `enter`.
unsafe fn supervise(server: libc::pid_t, orders: Orders<'_>) -> ! {
    // SAFETY: system calls on numbers and on memory of this frame; `orders` are read before `shed` releases
    // their memory.
    unsafe {
        // It closes the server's pipes, the gateway's sockets, and the pipe on which the gateway waits for
        // exec.
        libc::dup2(orders.control, 0);
        raw::close_from(1);
        report(STARTED, server);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut chld = std::mem::zeroed();
        libc::sigemptyset(&raw mut chld);
        libc::sigaddset(&raw mut chld, libc::SIGCHLD);
        let deaths = libc::signalfd(-1, &raw const chld, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        libc::chdir(c"/".as_ptr());
        let mut title = [0; 96];
        raw::put(&mut title, 0, orders.title);
        let grace = orders.grace;
        let ours = Pids::new();
        shed::memory([(&raw const title).addr(), libc::__errno_location().addr()]);
        shed::title(&title);
        let supervisor = Supervisor {
            server: Some(server),
            gateway: 0,
            deaths,
            ours: ours.filter(|_| raw::proc_is_ours()),
            grace,
            phase: Phase::Serving,
        };
        supervisor.run()
    }
}

enum Phase {
    Serving,
    /// They got SIGTERM; at this time they are killed.
    Ending(i64),
    /// They are killed until none is left, or the first time has come. The scan runs at the second, after a
    /// longer pause each time.
    Killing(i64, i64, i64),
}

struct Supervisor {
    /// Set as long as it was not reaped.
    server: Option<libc::pid_t>,
    /// -1 when it is gone.
    gateway: libc::c_int,
    deaths: libc::c_int,
    /// `None` if `/proc` does not show them; then the server's group is used.
    ours: Option<Pids>,
    grace: i64,
    phase: Phase,
}

impl Supervisor {
    fn run(mut self) -> ! {
        loop {
            if !self.reap() {
                exit();
            }
            self.step();
            self.wait();
        }
    }

    /// Whether there are children left.
    fn reap(&mut self) -> bool {
        if let (None, Some(server)) = (&self.ours, self.server)
            && has_ended(server)
        {
            // While it is a zombie, the group's id is its own.
            kill(-server, libc::SIGKILL);
        }
        loop {
            let mut status = 0;
            // SAFETY: the status is memory of this frame.
            match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) } {
                0 => return true,
                -1 => return errno() == libc::EINTR,
                pid if Some(pid) == self.server => {
                    self.server = None;
                    report(ENDED, status);
                }
                _ => {}
            }
        }
    }

    /// Goes on to the next phase, if it is time.
    fn step(&mut self) {
        match self.phase {
            Phase::Serving if self.server.is_none() => {
                let left = self.signal(libc::SIGTERM);
                if left > 0 {
                    report(LEFT, left.cast_signed());
                }
                self.phase = Phase::Ending(now() + self.grace);
            }
            Phase::Serving if self.gateway < 0 => {
                self.signal(libc::SIGTERM);
                self.phase = Phase::Ending(now() + self.grace);
            }
            Phase::Ending(until) if now() >= until => self.kill(),
            Phase::Killing(until, next, pause) if now() >= next => {
                let left = self.signal(libc::SIGKILL);
                if now() >= until {
                    report(STUCK, left.max(1).cast_signed());
                    exit();
                }
                self.phase = Phase::Killing(until, now() + pause, (pause * 2).min(500));
            }
            Phase::Serving | Phase::Ending(_) | Phase::Killing(..) => {}
        }
    }

    fn kill(&mut self) {
        if !matches!(self.phase, Phase::Killing(..)) {
            self.signal(libc::SIGKILL);
            let now = now();
            self.phase = Phase::Killing(now + KILLING, now + 2, 4);
        }
    }

    /// Signals all descendants; returns how many ran.
    fn signal(&mut self, signal: libc::c_int) -> u32 {
        match (&mut self.ours, self.server) {
            (Some(ours), _) => descent::signal(signal, ours),
            (None, Some(server)) => {
                kill(-server, signal);
                1
            }
            (None, None) => 0,
        }
    }

    fn wait(&mut self) {
        let pause = match self.phase {
            Phase::Serving => -1,
            Phase::Ending(next) | Phase::Killing(_, next, _) => (next - now()).max(0),
        };
        let mut files =
            [self.gateway, self.deaths].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        // SAFETY: the files are memory of this frame; pauses are shorter than a minute.
        unsafe { libc::poll(files.as_mut_ptr(), 2, pause as libc::c_int) };
        let [gateway, deaths] = files.map(|file| file.revents != 0);
        let mut buffer = [0_u8; 256];
        if deaths {
            // SAFETY: at most the length of the buffer is read.
            unsafe { libc::read(self.deaths, buffer.as_mut_ptr().cast(), buffer.len()) };
        }
        if gateway {
            // SAFETY: as above.
            let read = unsafe { libc::read(self.gateway, buffer.as_mut_ptr().cast(), buffer.len()) };
            match usize::try_from(read).ok().and_then(|read| buffer.get(..read)) {
                Some([]) => self.gateway = -1,
                Some(message) => message.iter().for_each(|word| self.on_message(*word)),
                None if matches!(errno(), libc::EINTR | libc::EAGAIN) => {}
                None => self.gateway = -1,
            }
        }
    }

    fn on_message(&mut self, word: u8) {
        match (word, self.server) {
            (KILL, _) => self.kill(),
            // Processes that have left the server's group are its own business as long as it lives.
            (TERMINATE, Some(server)) => kill(-server, libc::SIGTERM),
            _ => {}
        }
    }
}

/// Whether it has ended and was not reaped.
fn has_ended(pid: libc::pid_t) -> bool {
    // SAFETY: all zeroes is a siginfo_t, and it lives through the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, flags) == 0 && info.si_pid() == pid
    }
}

fn kill(whom: libc::pid_t, signal: libc::c_int) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(whom, signal) };
}

fn report(kind: i32, value: i32) {
    let word: Word = [kind, value];
    // SAFETY: exactly the message is sent. No signal is raised if the gateway is gone, and it does not wait.
    unsafe {
        libc::send(0, word.as_ptr().cast(), size_of::<Word>(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
    }
}

fn now() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is memory of this frame.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    #[allow(clippy::unnecessary_cast, reason = "they are narrower on some machines")]
    let (seconds, nanos) = (time.tv_sec as i64, time.tv_nsec as i64);
    seconds * 1000 + nanos / 1_000_000
}

fn errno() -> libc::c_int {
    // SAFETY: it is this thread's own.
    unsafe { *libc::__errno_location() }
}

fn exit() -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(0) }
}
