use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::*;

/// How long anything may take that is not meant to fail.
const DEADLINE: Duration = Duration::from_secs(60);

fn own(lost: u64) -> Vec<u8> {
    format!("[{lost} lost]\n").into_bytes()
}

/// A file with so much room.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Disk {
    fn with_room(bytes: usize) -> Self {
        let disk = Self::default();
        disk.make_room(bytes);
        disk
    }

    fn make_room(&self, bytes: usize) {
        self.0.lock().unwrap().1 += bytes;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }
}

impl Write for Disk {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let (file, room) = &mut *self.0.lock().unwrap();
        let count = text.len().min(*room);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.extend_from_slice(&text[..count]);
        *room -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader takes a write when it is told to.
struct Pipe(SyncSender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.send(text.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn started(out: impl Write + Send + 'static) -> Log {
    let log = Log::default();
    log.start(out, own).unwrap();
    log
}

fn pipe() -> (Log, Receiver<Vec<u8>>) {
    let (sender, reader) = sync_channel(0);
    (started(Pipe(sender)), reader)
}

fn lost_by(log: &Log) -> u64 {
    log.shared.lost.load(Ordering::Relaxed)
}

/// Logs a line and waits until it is written or lost.
fn line(log: &Log, text: &str) {
    log.push(text.as_bytes());
    assert!(log.flush(DEADLINE));
}

#[test]
fn lines_are_written_in_their_order() {
    let disk = Disk::with_room(1000);
    let log = started(disk.clone());
    (0..10).for_each(|number| log.push(format!("{number}\n").as_bytes()));
    assert!(log.flush(DEADLINE));
    assert_eq!(disk.text(), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    assert_eq!(lost_by(&log), 0);
}

#[test]
fn a_line_that_the_disk_has_no_room_for_is_counted_and_the_next_one_that_fits_says_so() {
    let disk = Disk::default();
    let log = started(disk.clone());
    line(&log, "a\n");
    line(&log, "b\n");
    assert_eq!((disk.text().as_str(), lost_by(&log)), ("", 2));
    disk.make_room(1000);
    line(&log, "c\n");
    line(&log, "d\n");
    assert_eq!(disk.text(), "[2 lost]\nc\nd\n");
    assert_eq!(lost_by(&log), 2, "that lines were lost is not forgotten");
}

#[test]
fn a_line_that_is_written_in_part_is_lost_and_the_next_begins_a_new_one() {
    let disk = Disk::with_room(4);
    let log = started(disk.clone());
    line(&log, "long line\n");
    assert_eq!((disk.text().as_str(), lost_by(&log)), ("long", 1));
    disk.make_room(1000);
    line(&log, "next\n");
    assert_eq!(disk.text(), "long\n[1 lost]\nnext\n");
}

#[test]
fn the_word_that_lines_are_missing_is_said_anew_if_it_was_torn_itself() {
    let disk = Disk::default();
    let log = started(disk.clone());
    line(&log, "a\n");
    disk.make_room(3);
    line(&log, "b\n");
    disk.make_room(1);
    line(&log, "c\n");
    disk.make_room(1000);
    line(&log, "d\n");
    assert_eq!(disk.text(), "[1 \n[3 lost]\nd\n");
    assert_eq!(lost_by(&log), 3);
}

#[test]
fn a_reader_that_is_gone_costs_every_line_and_nothing_else() {
    let (log, reader) = pipe();
    drop(reader);
    (0..100).for_each(|_| log.push(b"x\n"));
    assert!(log.flush(DEADLINE));
    assert_eq!(lost_by(&log), 100);
    assert!(!log.shared.lock().failed);
}

#[test]
fn a_reader_that_hangs_holds_nobody_up_and_the_queue_is_bounded() {
    let (log, reader) = pipe();
    // One that is being written, and then as many as the queue takes.
    log.push(b"first\n");
    let end = std::time::Instant::now() + DEADLINE;
    while !log.shared.lock().writing {
        assert!(std::time::Instant::now() < end);
        std::thread::yield_now();
    }
    (0..QUEUE_LINES + 7).for_each(|_| log.push(b"x\n"));
    assert_eq!(lost_by(&log), 7);
    assert_eq!(log.shared.lock().lines.len(), QUEUE_LINES);
    assert!(!log.flush(Duration::from_millis(10)), "the end of the process does not wait for ever");
    assert_eq!(reader.recv_timeout(DEADLINE).unwrap(), b"first\n");
    for _ in 0..QUEUE_LINES {
        assert_eq!(reader.recv_timeout(DEADLINE).unwrap(), b"x\n");
    }
    log.push(b"last\n");
    assert_eq!(reader.recv_timeout(DEADLINE).unwrap(), b"[7 lost]\n", "where they are missing");
    assert_eq!(reader.recv_timeout(DEADLINE).unwrap(), b"last\n");
}

#[test]
fn long_lines_are_bounded_by_their_bytes() {
    let log = Log::default();
    let long = vec![b'x'; QUEUE_BYTES / 4];
    (0..6).for_each(|_| log.push(&long));
    assert_eq!((log.shared.lock().lines.len(), lost_by(&log)), (4, 2));
    log.push(&vec![b'x'; QUEUE_BYTES + 1]);
    assert_eq!(lost_by(&log), 3);
    assert!(log.shared.lock().bytes <= QUEUE_BYTES);
}

/// A file that does not block, and takes a byte at every second attempt.
struct Slow(Disk, bool);

impl Write for Slow {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.write(&text[..1]) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_has_no_room_at_the_moment_is_tried_again_for_a_while() {
    let disk = Disk::with_room(1000);
    let log = started(Slow(disk.clone(), false));
    line(&log, "slowly\n");
    assert_eq!((disk.text().as_str(), lost_by(&log)), ("slowly\n", 0));
    struct Never;
    impl Write for Never {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = started(Never);
    line(&log, "never\n");
    assert_eq!(lost_by(&log), 1);
}

#[test]
fn a_thread_that_is_gone_loses_every_line_and_holds_up_nobody() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("on purpose")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = started(Broken);
    line(&log, "a\n");
    assert!(log.shared.lock().failed);
    line(&log, "b\n");
    assert_eq!(lost_by(&log), 2);
}

#[test]
fn a_filter_that_makes_no_sense_is_told_of_and_the_usual_one_holds() {
    let usual = filter(None, Program::Node).0.to_string();
    assert!(usual.contains("info"), "{usual}");
    let (wrong, complaint) = filter(Some("a=b=c"), Program::Node);
    assert_eq!(wrong.to_string(), usual);
    assert!(complaint.is_some());
    let (debug, complaint) = filter(Some("warn,swarmdex=debug"), Program::Command);
    assert_eq!((debug.max_level_hint(), complaint), (Some(LevelFilter::DEBUG), None));
    let more = filter(Some("trace"), Program::Node).1.is_some();
    assert_eq!(more, LevelFilter::TRACE > tracing::level_filters::STATIC_MAX_LEVEL);
    let (quiet, _) = filter(None, Program::Command);
    assert!(quiet.max_level_hint() < Some(LevelFilter::INFO), "the output of a command is what it was asked for");
}

/// Not a test: a process that logs to stderr, in which a task and a thread panic.
#[test]
#[ignore = "a part of the tests below"]
fn a_process_in_which_tasks_panic() {
    let format = if std::env::var_os("JSON").is_some() { Format::Json } else { Format::Text };
    to_stderr(format, Program::Node).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async {
        assert!(tasks::spawn("the task", async { panic!("first reason") }).await.unwrap_err().is_panic());
        let number = 2;
        let blocking = tokio::task::spawn_blocking(move || panic!("reason {number}"));
        assert!(blocking.await.unwrap_err().is_panic());
        let thread = std::thread::Builder::new().name("the thread".to_owned());
        assert!(thread.spawn(|| std::panic::panic_any(3)).unwrap().join().is_err());
    });
    tracing::info!("still here");
    flush();
}

fn process() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["log::tests::a_process_in_which_tasks_panic", "--exact", "--ignored", "--nocapture"]);
    command.env_remove(VARIABLE).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
fn a_panic_is_logged_with_its_task_its_place_and_its_reason() {
    let output = process().output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    for (line, parts) in
        lines.iter().zip([["the task", "first reason"], ["tokio", "reason 2"], ["the thread", "no reason"]])
    {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(line.contains("src/log/tests.rs:") && line.contains("bug"), "{line}");
    }
    assert!(log.contains("still here"));
    let output = process().env("JSON", "1").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    for line in lines {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["fields"]["at"].as_str().unwrap().contains("src/log/tests.rs:"), "{line}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_panic_that_cannot_be_logged_ends_its_task_alone() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert!(process().stderr(full).status().unwrap().success());
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert!(process().stderr(writer).status().unwrap().success());
}

/// What a line becomes that says such a text.
fn logged(format: Format, text: &str) -> String {
    let disk = Disk::with_room(10_000);
    let log = Log { format, ..started(disk.clone()) };
    let builder = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(true).log_internal_errors(false);
    let say = || tracing::warn!(reason = %text, "refused: {text}");
    match format {
        Format::Text => tracing::subscriber::with_default(builder.fmt_fields(PlainFields).finish(), say),
        Format::Json => tracing::subscriber::with_default(builder.with_ansi(false).json().finish(), say),
    }
    assert!(log.flush(DEADLINE));
    disk.text()
}

#[test]
fn what_others_say_is_no_command_to_a_terminal_and_no_line_of_its_own() {
    let text = "x\x1b[2J\n2026-01-01 INFO forged \u{202e}\u{9b}31m\u{2028}y";
    let line = logged(Format::Text, text);
    let plain = "x\\u{1b}[2J\\u{a}2026-01-01 INFO forged \\u{202e}\\u{9b}31m\\u{2028}y";
    assert_eq!(line.matches(plain).count(), 2, "{line:?}");
    assert_eq!((line.lines().count(), line.contains("\x1b[2J")), (1, false), "{line:?}");
    assert!(line.contains("\x1b[3mreason\x1b[0m"), "its own colours stay: {line:?}");
    let line = logged(Format::Json, text);
    assert!(line.trim_end().chars().all(swarmdex_protocols::text::is_visible), "{line:?}");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["fields"]["reason"], text, "programs get it as it is");
}
