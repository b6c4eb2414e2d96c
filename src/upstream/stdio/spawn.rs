//! Starts a server's process so that it can be ended with all its descendants: under a supervisor of its own
//! on Linux, else in a process group of its own.
//!
//! A thread of its own waits for each. It does not see the messages of the process.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::{env, fmt, process};

use tokio::sync::watch;

use crate::config::ProcessLimits;

#[cfg(not(target_os = "linux"))]
mod group;
#[cfg(not(target_os = "linux"))]
pub(crate) use group::{KillHandle, wait};

#[cfg(target_os = "linux")]
mod descent;
#[cfg(target_os = "linux")]
mod raw;
mod rlimits;
#[cfg(target_os = "linux")]
mod shed;
#[cfg(target_os = "linux")]
mod supervised;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
pub(crate) use supervised::{KillHandle, wait};

/// Variables of the gateway's environment that a process gets, besides `LC_*`: its location, and its way to
/// the network. No others, as the gateway's own secrets are there too; `env_pass` names more.
pub(crate) const INHERITED: &[&str] = &[
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
pub struct ServerCommand {
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: Option<PathBuf>,
    /// Longest line that it may write.
    pub max_line: usize,
    /// The server's name, for the log.
    pub name: String,
    pub limits: ProcessLimits,
}

impl ServerCommand {
    pub(crate) fn prepare(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(env::vars_os().filter(|(name, _)| is_inherited(name)));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
    }
}

impl ServerCommand {
    /// Why it cannot be started, as a message that names the cause. The system says "No such file" of the
    /// program, of its interpreter and of the folder alike.
    pub(crate) fn explain(&self, error: io::Error) -> io::Error {
        let message = match (&self.cwd, error.kind()) {
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
        io::Error::new(error.kind(), message)
    }
}

/// Arguments and environment may hold secrets.
impl fmt::Debug for ServerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("name", &self.name)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

pub(crate) fn is_inherited(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| INHERITED.contains(&name) || name.starts_with("LC_"))
}

/// A process that was started. Dropped, it is killed.
pub(crate) struct SpawnedProcess {
    pub pid: u32,
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    pub kill_handle: KillHandle,
    pub exit: watch::Receiver<Left>,
}

/// The state of a process's end.
#[derive(Clone, Copy, Default)]
pub(crate) struct Left {
    /// The server itself has ended.
    pub status: Option<ExitStatus>,
    /// All its descendants have ended too, or cannot be ended.
    pub over: bool,
    /// How many processes were running when it had ended, and how many of these could not be ended.
    pub running: i32,
    pub stuck: i32,
}

/// The children that a thread waits for.
static OWN_CHILDREN: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

/// Whether a thread waits for this child, so that no other code may reap it.
pub fn is_own_child(pid: libc::pid_t) -> bool {
    OWN_CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
}

struct OwnChild(libc::pid_t);

impl OwnChild {
    fn add(pid: libc::pid_t) -> Self {
        OWN_CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        Self(pid)
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        OWN_CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != self.0);
    }
}
