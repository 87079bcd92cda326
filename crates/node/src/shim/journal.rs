//! The shim's log: what it says itself, and what libcontainer reports as errors, whose causes would be lost otherwise.
//! Children write to it too, until they become a container's program: the file is not their standard error.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::Write;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes a line to the shim's log, which is its standard error.
pub(super) fn log(text: &str) {
    // A full disk must not end the pod.
    let _ = writeln!(std::io::stderr(), "{:.3} {text}", Timestamp::now());
}

/// Sends libcontainer's errors to the log from now on.
pub(super) fn keep_errors() {
    let file = rustix::stdio::stderr().try_clone_to_owned().map(File::from);
    // Without it the shim works all the same.
    let _ = file.map(|file| tracing::subscriber::set_global_default(Errors(file)));
}

struct Errors(File);

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{:.3} libcontainer:", Timestamp::now()));
        event.record(&mut line);
        line.0.push('\n');
        let _ = (&self.0).write_all(line.0.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string can't fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
