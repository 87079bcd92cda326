//! What the user sees: lines on standard output, complaints on standard error, progress where there is a terminal.

use std::io::Write;

/// One line of result or progress.
pub(crate) fn line(text: &str) {
    // A reader that went away does not stop the work.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A failure with its causes, each on a line of its own.
pub(crate) fn failure(error: &anyhow::Error) {
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "error: {error}");
    for cause in error.chain().skip(1) {
        let _ = writeln!(stderr, "  caused by: {cause}");
    }
}
