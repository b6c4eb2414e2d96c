//! A process that a test starts, and its output.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::TEST_TIMEOUT;

/// A process that ends when this is dropped, with all its children.
pub struct Process {
    child: Child,
    /// It has ended, and a test has waited for that.
    is_reaped: bool,
    said: Arc<Mutex<CapturedOutput>>,
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
        let said = CapturedOutput::collect(stdout.into_iter().chain(stderr));
        Self { child, is_reaped: false, said }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The interesting part of its output: the end of it, and before that the lines that do not report
    /// another success.
    pub fn story(&self) -> String {
        self.look(|lines| {
            let tests = |line: &&String| line.contains("_operator");
            let lines: Vec<&String> = lines.iter().filter(|line| !tests(line)).collect();
            let (before, end) = lines.split_at(lines.len().saturating_sub(20));
            let mut output: Vec<&str> = before.iter().map(|line| line.as_str()).collect();
            output.retain(|line| !line.contains("\"outcome\":\"ok\""));
            output.drain(..output.len().saturating_sub(40));
            output.extend(end.iter().map(|line| line.as_str()));
            output.join("\n")
        })
    }

    /// All output so far. Its log lines come some milliseconds after their event: a test waits for the line
    /// that it needs, unless the process has ended.
    pub fn output(&self) -> String {
        self.look(|lines| lines.join("\n"))
    }

    /// Waits until a line contains `message`, and returns that line.
    pub fn wait_for(&mut self, message: &str) -> String {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            // Checked first: output before its end is then complete.
            let ended = self.child.try_wait().expect("the process can be asked");
            self.is_reaped |= ended.is_some();
            let found = self.look(|lines| lines.iter().find(|line| line.contains(message)).cloned());
            if let Some(line) = found {
                return line;
            }
            assert!(ended.is_none(), "ended ({ended:?}) before it said {message:?}:\n{}", self.output());
            assert!(Instant::now() < deadline, "did not say {message:?} in time:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: `kill` only sends a signal, to a child that this value has not reaped yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for its end. All output is in [`Process::output`] then.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process can be asked") {
                self.is_reaped = true;
                return status;
            }
            assert!(Instant::now() < deadline, "did not end in time:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it at once, with its group.
    pub fn kill(&mut self) {
        // Its number may belong to another process by now, which then leads a group of that number.
        if self.is_reaped && fs::exists(format!("/proc/{}", self.child.id())).unwrap_or(true) {
            return;
        }
        // SAFETY: as above; it was started in a group of its own.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
        self.is_reaped = true;
    }

    /// How it has ended, if no test has waited for that.
    fn unexpected_end(&mut self) -> Option<ExitStatus> {
        if self.is_reaped { None } else { self.child.try_wait().ok().flatten() }
    }

    fn look<R>(&self, at: impl FnOnce(&[String]) -> R) -> R {
        let mut said = self.said.lock().expect("no reader panics");
        said.take();
        at(&said.lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(status) = self.unexpected_end() {
            self.is_reaped = true;
            let (id, output) = (self.child.id(), self.story());
            eprintln!("process {id} had ended before its test ({status}); its output:\n{output}");
        }
        self.kill();
    }
}

/// The lines of a process. A thread drains its pipes; a reader first takes what is in them, so that written
/// output is seen whether that thread has run or not.
struct CapturedOutput {
    pipes: Vec<Pipe>,
    lines: Vec<String>,
}

struct Pipe {
    from: Arc<File>,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl CapturedOutput {
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

    /// Reads what is in the pipes.
    fn take(&mut self) {
        let Self { pipes, lines } = self;
        pipes.retain_mut(|pipe| pipe.take(lines));
    }
}

impl Pipe {
    /// False at its end.
    fn take(&mut self, lines: &mut Vec<String>) -> bool {
        let mut piece = vec![0; 64 * 1024];
        // If it never stops, all that was in it and a little more.
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

/// Children of a process, by their parent's pid.
pub fn children(parent: u32) -> Vec<u32> {
    all().into_iter().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Children of a process whose command line contains this text; of a supervisor, its children.
pub fn children_running(parent: u32, message: &str) -> Vec<u32> {
    let mut found = children(parent);
    let supervisors = supervisors(parent);
    found.retain(|pid| !supervisors.contains(pid));
    found.extend(supervisors.into_iter().flat_map(children));
    found.retain(|pid| command_line(*pid).contains(message));
    found
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// The supervisors of a gateway's server processes.
pub fn supervisors(gateway: u32) -> Vec<u32> {
    children(gateway).into_iter().filter(|pid| name(*pid) == "mcp-supervisor").collect()
}

pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Resident memory, in bytes.
pub fn resident(pid: u32) -> usize {
    let output = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    let pages: usize = output.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number of pages");
    pages * 4096
}

/// Whether it runs; a zombie does not.
pub fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

pub fn kill(pid: u32) {
    // SAFETY: `kill` only sends a signal; the pid is of a process that the test's own gateway started.
    let sent = unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    assert_eq!(sent, 0, "process {pid} is not there");
}

/// Waits until none of them runs.
pub async fn gone(pids: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left: Vec<_> =
            pids.iter().filter(|pid| runs(**pid)).map(|pid| (*pid, command_line(*pid))).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left running: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    state(pid).map(|(_, parent)| parent)
}

/// State and parent, from `/proc/PID/stat`; the name before them may hold any characters.
fn state(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = stat[stat.rfind(')')? + 1..].split_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// Its memory, in KiB.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for memory");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Whether TCP keepalive is active on a connection from the first of these local ports to the second, 0 for
/// any.
pub fn is_watched(from: u16, to: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let port = |end: &str| end.split(':').nth(1).and_then(|hex| u16::from_str_radix(hex, 16).ok());
    table.lines().skip(1).any(|line| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let fits = |at: usize, wanted: u16| wanted == 0 || port(parts[at]) == Some(wanted);
        // Established, with the timer of keep-alive probes (proc_net_tcp.rst).
        fits(1, from) && fits(2, to) && parts[3] == "01" && parts[5].starts_with("02:")
    })
}
