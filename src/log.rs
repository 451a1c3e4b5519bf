//! The log of a process: lines wait in a bounded queue, and a thread of its own writes them to stderr.
//!
//! A log that cannot be written is no reason to stop. A line that finds no room in the queue, or that the system does
//! not take as a whole, is lost and counted. Once lines can be written again, one says how many are missing before it.
//! Nothing here prints by itself, blocks who logs, or panics.
//!
//! Lines say what others said, too: each passes `swarmdex_protocols::text` on its way, see `log/fields.rs`.

mod fields;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fields::PlainFields;
use swarmdex_protocols::text::plain_json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;

use crate::locks::lock;
use crate::tasks;

/// Environment variable that filters logs.
const VARIABLE: &str = "SWARMDEX_LOG";
/// What a node logs if it is not set.
const OF_NODE: &str = "info,libp2p_mdns=warn,libp2p_kad=error,libp2p_swarm=warn";
/// What a command logs if it is not set: its output is what it was asked for.
const OF_COMMAND: &str = "error,swarmdex::log=warn";
/// Lines that wait to be written, at most: a burst, and not what a reader that hangs never reads.
const QUEUE_LINES: usize = 4096;
/// Bytes of these lines, at most.
const QUEUE_BYTES: usize = 1 << 20;
/// How often a line is tried again that a file without blocking has no room for.
const RETRIES: u32 = 100;
/// The pause before each of these attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// How long the end of the process waits for lines that are not written yet.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The log of this process, once it has one.
static LOG: OnceLock<Log> = OnceLock::new();

thread_local! {
    /// On the thread of the log: where a line goes that the log itself has to say.
    static OWN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Who logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Program {
    /// A node that runs: what it has to say is its log, and nobody has to read it.
    #[default]
    Node,
    /// A command: what is wrong alone, and its last words wait for whoever reads them.
    Command,
}

/// Has everything that is traced, and every panic, written to stderr from now on, filtered by `SWARMDEX_LOG`. Once in a
/// process: a second call changes nothing. Fails if no thread can be started.
pub(crate) fn to_stderr(format: Format, program: Program) -> io::Result<()> {
    if LOG.get().is_some() {
        return Ok(());
    }
    // Not through the standard library's handle: while a write hangs, its lock would make everybody hang who uses it.
    let out: Box<dyn Write + Send> = match io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => Box::new(File::from(stderr)),
        Err(_) => Box::new(io::stderr()),
    };
    let log = Log { format, program, shared: Arc::default() };
    log.start(out, own_line)?;
    if LOG.set(log.clone()).is_err() {
        return Ok(());
    }
    let wish = std::env::var(VARIABLE).ok().filter(|wish| !wish.is_empty());
    let (filter, complaint) = filter(wish.as_deref(), program);
    // What goes wrong with a line is counted here, and not printed by others.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).log_internal_errors(false);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Only a program that brought a subscriber of its own has one already.
    let _ = match format {
        Format::Text => builder.with_ansi(colours).fmt_fields(PlainFields).try_init(),
        Format::Json => builder.json().try_init(),
    };
    std::panic::set_hook(Box::new(on_panic));
    if let Some(complaint) = complaint {
        tracing::warn!(filter = wish.unwrap_or_default(), "{complaint}");
    }
    Ok(())
}

/// Lines that were lost since the process started.
pub(crate) fn lost() -> u64 {
    LOG.get().map_or(0, |log| log.shared.lost.load(Ordering::Relaxed))
}

/// Whether the thread of the log panicked: every line is lost since.
pub(crate) fn has_failed() -> bool {
    LOG.get().is_some_and(|log| log.shared.lock().failed)
}

/// A word to whoever runs the program, as a line of its own on stderr: of a node through the log, whose reader may hang.
pub(crate) fn say(text: &str) {
    let line = format!("{text}\n");
    if let Some(log) = LOG.get() {
        if log.program == Program::Node {
            return log.push(line.as_bytes());
        }
        log.flush(FLUSH_PATIENCE);
    }
    // There is nobody left to tell that it cannot be told.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Waits until everything logged so far is written, but not for long.
pub(crate) fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_PATIENCE);
    }
}

/// The filter that is wished for, or the usual one; and what is wrong with the wish. (The parser of `EnvFilter` would print
/// what this build does not log to stderr, and panic where that cannot be written.)
fn filter(wish: Option<&str>, program: Program) -> (EnvFilter, Option<&'static str>) {
    let usual = match program {
        Program::Node => OF_NODE,
        Program::Command => OF_COMMAND,
    };
    let usual = || parse(usual).unwrap_or_default();
    match wish {
        None => (usual(), None),
        Some(wish) => match parse(wish) {
            None => {
                (usual(), Some("SWARMDEX_LOG is no filter, such as debug or swarmdex=debug,info; the usual one holds"))
            }
            Some(filter) => {
                let more =
                    filter.max_level_hint().is_some_and(|level| level > tracing::level_filters::STATIC_MAX_LEVEL);
                (filter, more.then_some("SWARMDEX_LOG asks for more than this build of the program can log"))
            }
        },
    }
}

fn parse(text: &str) -> Option<EnvFilter> {
    let mut filter = EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).parse("").ok()?;
    for part in text.split(',').filter(|part| !part.is_empty()) {
        filter = filter.add_directive(part.parse::<Directive>().ok()?);
    }
    Some(filter)
}

/// Logs a panic. Must not panic itself, which would abort the process: it formats nothing but texts.
fn on_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let task = tasks::name().or(thread.name()).unwrap_or("without a name");
    let reason = panic.payload_as_str().unwrap_or("no reason given");
    match panic.location() {
        Some(location) => tracing::error!(task, at = %location, reason, "a task panicked; this is a bug"),
        None => tracing::error!(task, reason, "a task panicked; this is a bug"),
    }
}

/// The line that says how many are missing before it, in the format of all others.
fn own_line(lost: u64) -> Vec<u8> {
    OWN.set(Some(Vec::new()));
    tracing::error!(lost, "lines of the log were lost before this one");
    OWN.take().unwrap_or_default()
}

/// Where lines go. Clones are handles to the same log.
#[derive(Debug, Clone, Default)]
struct Log {
    format: Format,
    program: Program,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    more: Condvar,
    /// Everything is written.
    idle: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Lines that found no room since the last one that did.
    lost: u64,
    /// Whether a line is being written.
    writing: bool,
    /// Whether the thread is gone.
    failed: bool,
}

#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    /// Lines between the one before and this one that found no room.
    lost_before: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Changed in steps that cannot panic.
        lock(&self.queue)
    }

    /// The next line to write; waits for it.
    fn next(&self) -> Line {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.text.len();
                queue.writing = true;
                return line;
            }
            queue.writing = false;
            self.idle.notify_all();
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Log {
    /// Starts the thread that writes to `out`. `own_line` makes the line that says how many were lost.
    fn start(&self, out: impl Write + Send + 'static, own_line: fn(u64) -> Vec<u8>) -> io::Result<()> {
        let mut writer = Writer { out, own_line, shared: self.shared.clone(), lost: 0, torn: false };
        let end = End(self.shared.clone());
        let work = move || {
            let _end = end;
            loop {
                let line = writer.shared.next();
                writer.write(&line);
            }
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(work).map(drop)
    }

    fn push(&self, text: &[u8]) {
        let mut queue = self.shared.lock();
        if queue.failed || queue.lines.len() >= QUEUE_LINES || queue.bytes.saturating_add(text.len()) > QUEUE_BYTES {
            queue.lost += 1;
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost_before = std::mem::take(&mut queue.lost);
        queue.bytes += text.len();
        queue.lines.push_back(Line { text: text.to_vec(), lost_before });
        drop(queue);
        self.shared.more.notify_one();
    }

    /// Waits until everything is written, at most so long. Whether it is.
    fn flush(&self, patience: Duration) -> bool {
        let busy = |queue: &mut Queue| !queue.failed && (queue.writing || !queue.lines.is_empty());
        let waited = self.shared.idle.wait_timeout_while(self.shared.lock(), patience, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// One write is one line: that is how `tracing_subscriber` hands them over.
impl Write for &Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let own = OWN.try_with(|own| match own.try_borrow_mut() {
            Ok(mut own) => own.as_mut().map(|line| line.extend_from_slice(text)).is_some(),
            Err(_) => false,
        });
        if !own.unwrap_or(false) {
            self.push(&match self.format {
                Format::Text => Cow::Borrowed(text),
                Format::Json => Cow::Owned(plain_json(text.to_vec())),
            });
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// Says that the thread is gone, if it ever is.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.failed = true;
        // The line that was being written is among them.
        let left = queue.lines.len() as u64 + u64::from(queue.writing);
        queue.lines.clear();
        queue.bytes = 0;
        self.0.lost.fetch_add(left, Ordering::Relaxed);
        self.0.idle.notify_all();
    }
}

/// What the thread has.
struct Writer<W> {
    out: W,
    own_line: fn(u64) -> Vec<u8>,
    shared: Arc<Shared>,
    /// Lines that were lost since the last one that was written.
    lost: u64,
    /// Whether the last thing written is the beginning of a line.
    torn: bool,
}

impl<W: Write> Writer<W> {
    fn write(&mut self, line: &Line) {
        self.lost = self.lost.saturating_add(line.lost_before);
        if self.lost > 0 {
            let own_line = (self.own_line)(self.lost);
            if self.put(&own_line) {
                self.lost = 0;
            }
        }
        // With no room for the word that lines are missing there is none for more lines.
        if self.lost > 0 || !self.put(&line.text) {
            self.lost += 1;
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line, on a line of its own. False if not all of it could be written.
    fn put(&mut self, text: &[u8]) -> bool {
        if self.torn {
            self.torn = !self.put_bytes(b"\n");
        }
        !self.torn && self.put_bytes(text)
    }

    fn put_bytes(&mut self, text: &[u8]) -> bool {
        let (mut rest, mut retries) = (text, 0);
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(count @ 1..) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && retries < RETRIES => {
                    retries += 1;
                    std::thread::sleep(RETRY_PAUSE);
                }
                Ok(0) | Err(_) => {
                    self.torn |= rest.len() < text.len();
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
