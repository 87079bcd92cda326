//! What the person at the terminal sees: a live line on a terminal, plain lines elsewhere.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::audience::Census;
use crate::load::Observer;

/// Often enough to look alive.
const REFRESH: Duration = Duration::from_millis(100);

pub(super) enum Screen {
    Terminal(ProgressBar),
    Plain,
}

/// Keeps the live line current until it is dropped.
pub(super) struct Live(Option<JoinHandle<()>>);

impl Screen {
    pub(super) fn detect() -> Screen {
        if !io::stderr().is_terminal() {
            return Screen::Plain;
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(REFRESH);
        Screen::Terminal(bar)
    }

    pub(super) fn say(&self, line: &str) {
        match self {
            Screen::Terminal(bar) => bar.println(line),
            Screen::Plain => self.show(line),
        }
    }

    pub(super) fn show(&self, text: &(impl Display + ?Sized)) {
        // A reader that has gone away changes nothing about the outcome.
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    pub(super) fn follow(&self, load: Observer, census: watch::Receiver<Census>) -> Live {
        let Screen::Terminal(bar) = self else {
            return Live(None);
        };
        let bar = bar.clone();
        Live(Some(tokio::spawn(async move {
            let mut refresh = interval(REFRESH);
            refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                refresh.tick().await;
                bar.set_message(live_line(&load, *census.borrow()));
            }
        })))
    }

    pub(super) fn end(&self) {
        match self {
            Screen::Terminal(bar) => bar.finish_and_clear(),
            Screen::Plain => {}
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(refreshing) = &self.0 {
            refreshing.abort();
        }
    }
}

fn live_line(load: &Observer, census: Census) -> String {
    let report = load.so_far();
    let versions: Vec<_> = report.by_version.iter().map(|(version, count)| format!("{version} {count}")).collect();
    let Census { ready, lowest } = census;
    format!(
        "{} requests, {} failed   {}   ready pods: {ready}, fewest {}",
        report.sent,
        report.failures(),
        versions.join("  "),
        lowest.unwrap_or_default(),
    )
}
