//! A process that a test starts, and what it says.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::PATIENCE;

/// A process that ends with this value, with all that it started.
pub struct Process {
    child: Child,
    said: Arc<Mutex<Said>>,
}

impl Process {
    /// Starts a program in a process group of its own and collects the lines of both its outputs.
    pub fn start(command: &mut Command) -> Self {
        Self::start_telling(command, Stdio::piped())
    }

    /// The same with another standard error, whose lines are not collected.
    pub fn start_telling(command: &mut Command, stderr: impl Into<Stdio>) -> Self {
        let name = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let stdout = child.stdout.take().map(OwnedFd::from);
        let stderr = child.stderr.take().map(OwnedFd::from);
        let said = Said::collect(stdout.into_iter().chain(stderr));
        Self { child, said }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said that tells something: the end of it, and before that what was not just another good answer.
    pub fn story(&self) -> String {
        self.look(|lines| {
            let tests = |line: &&String| line.contains("_operator");
            let lines: Vec<&String> = lines.iter().filter(|line| !tests(line)).collect();
            let (before, end) = lines.split_at(lines.len().saturating_sub(20));
            let mut told: Vec<&str> = before.iter().map(|line| line.as_str()).collect();
            told.retain(|line| !line.contains("\"outcome\":\"ok\""));
            told.drain(..told.len().saturating_sub(40));
            told.extend(end.iter().map(|line| line.as_str()));
            told.join("\n")
        })
    }

    /// All that it has written until now. Its log comes some milliseconds after what it tells of: a test waits for the
    /// line that it wants, unless the process has ended.
    pub fn output(&self) -> String {
        self.look(|lines| lines.join("\n"))
    }

    /// Waits until a line holds `words`, and gives that line.
    pub fn wait_for(&mut self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Asked first: what it said before its end is seen after that.
            let ended = self.child.try_wait().expect("the process can be asked");
            let found = self.look(|lines| lines.iter().find(|line| line.contains(words)).cloned());
            if let Some(line) = found {
                return line;
            }
            assert!(ended.is_none(), "ended ({ended:?}) before it said {words:?}:\n{}", self.output());
            assert!(Instant::now() < deadline, "did not say {words:?} in time:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: `kill` only sends a signal, to a child that this value has not reaped yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end. Whatever it has said is in [`Process::output`] then.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process can be asked") {
                return status;
            }
            assert!(Instant::now() < deadline, "did not end in time:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it at once, with its group.
    pub fn kill(&mut self) {
        // SAFETY: as above; the group is its own since it was started so.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }

    fn look<R>(&self, at: impl FnOnce(&[String]) -> R) -> R {
        let mut said = self.said.lock().expect("no reader panics");
        said.take();
        at(&said.lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines of a process. A thread keeps its pipes from filling; but who looks takes first what lies in them, so that what
/// was written is seen whether that thread has run or not.
struct Said {
    pipes: Vec<Pipe>,
    lines: Vec<String>,
}

struct Pipe {
    from: Arc<File>,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl Said {
    fn collect(outputs: impl Iterator<Item = OwnedFd>) -> Arc<Mutex<Self>> {
        let mut pipes = Vec::new();
        for output in outputs {
            // SAFETY: sets a flag of our end of a pipe; the other end has flags of its own.
            assert_eq!(unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, 0);
            pipes.push(Pipe { from: Arc::new(output.into()), rest: Vec::new() });
        }
        let said = Arc::new(Mutex::new(Self { pipes, lines: Vec::new() }));
        let all = said.clone();
        std::thread::spawn(move || {
            loop {
                let mut said = all.lock().expect("no reader panics");
                said.take();
                let open: Vec<Arc<File>> = said.pipes.iter().map(|pipe| pipe.from.clone()).collect();
                drop(said);
                if open.is_empty() {
                    return;
                }
                let poll = |pipe: &Arc<File>| libc::pollfd {
                    fd: pipe.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                };
                let mut polls: Vec<_> = open.iter().map(poll).collect();
                // SAFETY: pointer and length are of one vector, and its descriptors are open.
                unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
            }
        });
        said
    }

    /// Takes what lies in the pipes.
    fn take(&mut self) {
        let Self { pipes, lines } = self;
        pipes.retain_mut(|pipe| pipe.take(lines));
    }
}

impl Pipe {
    /// False at its end.
    fn take(&mut self, lines: &mut Vec<String>) -> bool {
        let mut piece = vec![0; 64 * 1024];
        // Of one that never stops, all that was in it and a little more.
        for _ in 0..4 {
            let length = match (&*self.from).read(&mut piece) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            self.rest.extend_from_slice(&piece[..length]);
            let whole = match length {
                0 => self.rest.len(),
                _ => self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
            };
            let whole: Vec<u8> = self.rest.drain(..whole).collect();
            lines.extend(String::from_utf8_lossy(&whole).lines().map(str::to_owned));
            if length == 0 {
                return false;
            }
        }
        true
    }
}
