//! What a line for people says beside its time and place: values that others have a hand in are made plain.

use std::fmt;

use swarmdex_protocols::text::plain;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// `message name=value name=value`, as `tracing_subscriber` has it by default, with plain values.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = LogLine { writer, begun: false, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct LogLine<'writer> {
    writer: Writer<'writer>,
    begun: bool,
    result: fmt::Result,
}

impl LogLine<'_> {
    fn put(&mut self, name: &str, value: &str) -> fmt::Result {
        if std::mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        match name.strip_prefix("r#").unwrap_or(name) {
            "message" => self.writer.write_str(value),
            name if self.writer.has_ansi_escapes() => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
            name => write!(self.writer, "{name}={value}"),
        }
    }
}

impl Visit for LogLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Where a line of the crate `log` comes from is in its head.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.put(field.name(), &plain(&format!("{value:?}")));
        }
    }
}
