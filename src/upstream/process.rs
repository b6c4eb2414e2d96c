//! How a server's process is started so that it can be ended: in a group of its own, by a thread of its own, and with a
//! guard that outlives the gateway.
//!
//! It knows nothing of what is said to the process.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, fmt, process};

use tokio::sync::{oneshot, watch};

/// What a process gets of the gateway's environment, besides `LC_*`: where it is, and how it reaches what is outside. No more,
/// for the gateway's own secrets are there too; `env_pass` names more.
pub(super) const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TZ",
    "TMPDIR",
    "SHELL",
    "TERM",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "DOCKER_HOST",
    "KUBECONFIG",
];

#[derive(Clone)]
pub struct Command {
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: Option<PathBuf>,
    /// An answer may not be longer.
    pub max_line: usize,
    /// The server's, for the log.
    pub name: String,
}

impl Command {
    pub(super) fn prepare(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(env::vars_os().filter(|(name, _)| is_inherited(name)));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let gateway = process::id();
        // SAFETY: both make plain system calls and allocate nothing, as they must between fork and exec.
        unsafe { command.pre_exec(move || bind(gateway).and_then(|()| crate::descriptors::restore())) };
        command
    }
}

impl Command {
    /// Why it cannot be started, in words that name what is amiss: the system says "No such file" of the program, of its
    /// interpreter and of the folder alike.
    pub(super) fn blame(&self, error: io::Error) -> io::Error {
        let words = match (&self.cwd, error.kind()) {
            (Some(cwd), _) if !cwd.exists() => format!("its `cwd` {} does not exist", cwd.display()),
            (Some(cwd), _) if !cwd.is_dir() => format!("its `cwd` {} is not a folder", cwd.display()),
            (_, io::ErrorKind::NotFound) if !self.program.contains('/') => {
                format!("the program `{}` is not on PATH", self.program)
            }
            (cwd, io::ErrorKind::NotFound) => {
                let file = cwd.as_deref().unwrap_or_else(|| ".".as_ref()).join(&self.program);
                match file.exists() {
                    true => format!("the interpreter of the program `{}` does not exist", self.program),
                    false => format!("the program `{}` does not exist", self.program),
                }
            }
            (_, io::ErrorKind::PermissionDenied) => {
                format!("the program `{}` may not be executed: {error}", self.program)
            }
            _ => return error,
        };
        io::Error::new(error.kind(), words)
    }
}

/// Arguments and environment may hold secrets.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("name", &self.name)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

pub(super) fn is_inherited(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| INHERITED.contains(&name) || name.starts_with("LC_"))
}

/// A process that was started. Dropped, it is killed.
pub(super) struct Process {
    pub pid: u32,
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    pub group: Group,
    pub left: watch::Receiver<Option<ExitStatus>>,
}

/// The process group, as long as its number is known not to be another's.
pub(super) struct Group(Arc<Mutex<Option<libc::pid_t>>>);

impl Group {
    pub fn signal(&self, signal: libc::c_int) {
        if let Some(group) = *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // SAFETY: no memory is involved. A group that is already empty is an error that says so.
            unsafe { libc::kill(-group, signal) };
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

/// Starts the process and sits by it. It has this thread for itself, because a death signal is sent when the *thread* that
/// forked ends, and threads of a runtime come and go.
pub(super) fn attend(mut command: process::Command, born: oneshot::Sender<io::Result<Process>>) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return drop(born.send(Err(error))),
    };
    let pid = child.id();
    let group = pid.cast_signed();
    let _ours = Ours::add(group);
    tell_guard(group);
    let number = Arc::new(Mutex::new(Some(group)));
    let (leave, left) = watch::channel(None);
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three are piped in `prepare`");
    };
    // Nobody waits for it any more: dropped at once, and so killed.
    drop(born.send(Ok(Process { pid, stdin, stdout, stderr, group: Group(Arc::clone(&number)), left })));

    // Waits without reaping: while the dead one lies there, nobody else can get its number, so what is left of the group
    // can be killed without hitting a stranger.
    wait_for_death(pid);
    {
        let mut number = number.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `signal`.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        *number = None;
    }
    tell_guard(-group);
    if let Ok(status) = child.wait() {
        leave.send_replace(Some(status));
    }
    // As the init of a container the gateway inherits the rest of the group, and must reap what it killed.
    // SAFETY: asks for no status. Where the rest has another parent, there is nothing to wait for.
    while unsafe { libc::waitpid(-group, std::ptr::null_mut(), 0) } > 0 {}
}

/// The children that a thread waits for.
static OURS: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

/// Whether a thread waits for this child, so that nobody else may.
pub fn is_ours(pid: libc::pid_t) -> bool {
    OURS.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
}

struct Ours(libc::pid_t);

impl Ours {
    fn add(pid: libc::pid_t) -> Self {
        OURS.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        Self(pid)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        OURS.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != self.0);
    }
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

/// In the new process, before it becomes the server: it dies with the gateway, and inherits no open file (listening
/// sockets that an upgrade handed over are not close-on-exec).
#[cfg(target_os = "linux")]
fn bind(gateway: u32) -> io::Result<()> {
    // SAFETY: system calls on numbers. A kernel without close_range leaves the files as they are.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) == -1 {
            return Err(io::Error::last_os_error());
        }
        // It died before we asked.
        if libc::getppid().cast_unsigned() != gateway {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn bind(_: u32) -> io::Result<()> {
    Ok(())
}

/// Tells the guard of a group (or, negative, of its end). The guard is one small process that holds the other end of a pipe;
/// when that pipe is closed, the gateway is gone, however it went, and the guard kills all groups and goes too. It costs the
/// memory that the gateway had when it started its first server, as far as the gateway has changed it since.
#[cfg(target_os = "linux")]
fn tell_guard(group: libc::pid_t) {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    static GUARD: std::sync::OnceLock<Option<io::PipeWriter>> = std::sync::OnceLock::new();
    let guard = GUARD.get_or_init(|| {
        let (here, there) = io::pipe().ok()?;
        // SAFETY: the new process only makes system calls (`guard`), as it must where other threads were.
        match unsafe { libc::fork() } {
            -1 => None,
            0 => unsafe { guard(here.as_raw_fd()) },
            // SAFETY: the one in the middle ends at once, so that the guard is no child of ours.
            middle => unsafe {
                libc::waitpid(middle, std::ptr::null_mut(), 0);
                Some(there)
            },
        }
    });
    // Without a guard (no process could be forked) the kernel still kills each server's first process.
    if let Some(mut guard) = guard.as_ref() {
        let _ = guard.write_all(&group.to_ne_bytes());
    }
}

#[cfg(not(target_os = "linux"))]
fn tell_guard(_: libc::pid_t) {}

/// # Safety
/// Only in a process that was just forked. It must not allocate, lock or panic.
#[cfg(target_os = "linux")]
unsafe fn guard(pipe: libc::c_int) -> ! {
    // SAFETY: system calls on numbers and on memory of this frame.
    unsafe {
        if libc::fork() != 0 {
            libc::_exit(0);
        }
        // Out of the terminal's and the service manager's reach: it ends when the gateway has.
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"toolgate-guard".as_ptr());
        // It inherited every socket, and the pipe's other end: holding that, it would wait for itself.
        libc::dup2(pipe, 0);
        if libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) == -1 {
            libc::_exit(1);
        }
        let mut groups = [0; 4096];
        loop {
            let mut word: libc::pid_t = 0;
            match libc::read(0, (&raw mut word).cast(), size_of_val(&word)) {
                0 => break,
                -1 if *libc::__errno_location() == libc::EINTR => continue,
                -1 => libc::_exit(1),
                _ => {}
            }
            let (old, new) = if word > 0 { (0, word) } else { (-word, 0) };
            for slot in &mut groups {
                if *slot == old {
                    *slot = new;
                    break;
                }
            }
        }
        for group in groups {
            if group > 0 {
                libc::kill(-group, libc::SIGKILL);
            }
        }
        libc::_exit(0)
    }
}
