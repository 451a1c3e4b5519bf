//! Text and JSON on stdout, progress on stderr.

use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use swarmdex_protocols::text::plain_json;
pub(super) use swarmdex_protocols::text::{plain, plain_lines};

use super::Failure;
use crate::node::Progress;

/// Prints a value as JSON on one line. What a terminal would obey is escaped in it.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = json_text(value)?;
    text.push(b'\n');
    bytes(&text)
}

/// The same on stderr, where standard output is for something else.
pub(super) fn json_aside(value: &impl Serialize) -> Result<(), Failure> {
    crate::log::say(&String::from_utf8_lossy(&json_text(value)?));
    Ok(())
}

fn json_text(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map(plain_json).map_err(|error| Failure::Output(error.into()))
}

/// Prints a line, whatever is in the text.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{}\n", plain(text)).as_bytes())
}

/// Prints lines that are the program's own; what is in them from elsewhere is on one line each.
pub(super) fn lines(text: &str) -> Result<(), Failure> {
    bytes(format!("{}\n", plain_lines(text)).as_bytes())
}

/// Writes to stdout, all of it: what waits in a buffer until the program ends fails unseen.
pub(super) fn bytes(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Says something beside the output, on stderr, on one line whatever is in the text. If that cannot be written, the exit
/// code has to do.
pub(super) fn note(text: &str) {
    crate::log::say(&format!("swarmdex: {}", plain(text)));
}

/// The same for a text whose lines are the program's own.
pub(super) fn note_lines(text: &str) {
    crate::log::say(&format!("swarmdex: {}", plain_lines(text)));
}

/// A size for people: `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A duration for people, to the two greatest units.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// How long ago a moment was.
pub(super) fn ago(unix_ms: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms);
    duration(SystemTime::now().duration_since(then).unwrap_or_default().as_secs())
}

/// Columns that line up.
pub(super) struct Table {
    header: bool,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these titles; none at all if the list is empty.
    pub(super) fn new(titles: &[&str]) -> Self {
        let mut table = Self { header: !titles.is_empty(), rows: Vec::new() };
        if table.header {
            table.row(titles);
        }
        table
    }

    pub(super) fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|cell| plain(cell)).collect());
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let cell = |(cell, width): (&String, &usize)| format!("{cell:width$}");
        self.rows
            .iter()
            .map(|row| row.iter().zip(&widths).map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned())
            .collect()
    }

    /// Prints the rows; titles alone are no news.
    pub(super) fn print(&self) -> Result<(), Failure> {
        if self.header && self.rows.len() == 1 {
            return Ok(());
        }
        let mut text = self.lines().join("\n");
        text.push('\n');
        bytes(text.as_bytes())
    }
}

/// A progress bar with rate and time left, on a terminal alone.
pub(super) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let colour = if std::env::var_os("NO_COLOR").is_none() { ".cyan" } else { "" };
        let template = format!(
            "{{bar:30{colour}}} {{binary_bytes}}/{{binary_total_bytes}} {{binary_bytes_per_sec}} {{eta}} {{msg}}"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        Self { bar }
    }

    pub(super) fn show(&mut self, progress: &Progress) {
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
        if progress.total_files > 1 {
            self.bar.set_message(format!("{}/{} files", progress.done_files, progress.total_files));
        } else {
            self.bar.set_message(plain(&progress.current));
        }
    }

    /// Says something beside the bar, which makes room for it.
    pub(super) fn aside(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_reaches_the_terminal_as_a_command() {
        assert_eq!(plain("a\x1b[31m\nb\u{202e}c"), "a\\u{1b}[31m\\u{a}b\\u{202e}c");
        assert_eq!(plain("日本 é"), "日本 é");
        let mut table = Table::new(&[]);
        table.row(&["reason", "a\x1b[31m\nb"]);
        assert_eq!(table.lines(), ["reason  a\\u{1b}[31m\\u{a}b"]);
    }

    #[test]
    fn sizes_and_durations_are_for_people() {
        assert_eq!([0, 1023, 1536, 1 << 40].map(size), ["0 B", "1023 B", "1.5 KiB", "1.0 TiB"]);
        assert_eq!([5, 65, 3700, 90_000].map(duration), ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(&["long name", "1 B"]);
        table.row(&["x", "20 B"]);
        assert_eq!(table.lines(), ["NAME       SIZE", "long name  1 B", "x          20 B"]);
    }
}
