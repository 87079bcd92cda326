//! The shim's one loop: waits for whatever may be ready, handles it without ever blocking for long, and sends what is
//! to be said.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::connection::{Closed, Connection, Received};
use super::containers::{self, Containers, failure};
use super::exec::{self, Execs, Task};
use super::journal::log;
use super::options::Options;
use super::protocol::{self, Answer, Call, Event, ExecRequest, Failure, FailureKind, Request, Said};
use crate::container::runtime::Pod;
use crate::{pidfd, sys};

/// An engine and a few tools; whoever comes beyond that is turned away.
const MAX_CONNECTIONS: usize = 16;

type ConnectionKey = u64;

/// Who asked, and the number of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    connection: ConnectionKey,
    call: u64,
}

/// What is to be sent.
pub(super) enum Outgoing {
    Answer(Caller, Answer),
    Event(Event),
}

/// What may be ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    Connection(ConnectionKey),
    Container(containers::Key, containers::Part),
    Exec(exec::Key),
    Children,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Serving,
    /// Waits for the containers to end, to answer then.
    ShuttingDown(Caller),
    ShutDown,
}

pub(super) struct Server {
    listener: UnixListener,
    children: File,
    connections: BTreeMap<ConnectionKey, Connection>,
    next_connection: ConnectionKey,
    containers: Containers,
    execs: Execs,
    life: Life,
}

impl Server {
    pub(super) fn new(
        options: &Options,
        pod: Pod,
        listener: UnixListener,
        leading_args: Vec<OsString>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener,
            children: File::from(sys::watch_children()?),
            connections: BTreeMap::new(),
            next_connection: 0,
            containers: Containers::new(options.pod_uid.clone(), pod),
            execs: Execs::new(leading_args),
            life: Life::Serving,
        })
    }

    /// Serves until the pod is shut down.
    pub(super) fn run(mut self) -> io::Result<()> {
        while self.life != Life::ShutDown {
            for source in self.wait()? {
                self.handle(source);
            }
            self.execs.give_up(Instant::now());
            self.reap();
            self.send_outgoing();
            self.finish_shutdown();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) =
            self.sources().into_iter().map(|(source, fd, flags)| (source, PollFd::from_borrowed_fd(fd, flags))).unzip();
        let left = self.execs.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut sources = vec![
            (Source::Listener, self.listener.as_fd(), PollFlags::IN),
            (Source::Children, self.children.as_fd(), PollFlags::IN),
        ];
        sources.extend(self.connections.iter().map(|(key, connection)| {
            let writes = if connection.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            (Source::Connection(*key), connection.as_fd(), PollFlags::IN | writes)
        }));
        let containers = self.containers.parts().into_iter();
        sources.extend(containers.map(|(key, part, fd)| (Source::Container(key, part), fd, PollFlags::IN)));
        let execs = self.execs.outputs().into_iter();
        sources.extend(execs.map(|(key, fd)| (Source::Exec(key), fd, PollFlags::IN)));
        sources
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Connection(key) => self.receive(key),
            Source::Container(key, part) => self.containers.handle(key, part),
            Source::Exec(key) => self.execs.read_output(key),
            Source::Children => self.forget_signals(),
        }
    }

    /// The children themselves are reaped after the round; which signal stood for whom doesn't matter.
    fn forget_signals(&mut self) {
        let mut signals = [0; 1024];
        // Nothing to read is fine: the next round asks again.
        let _ = self.children.read(&mut signals);
    }

    fn accept(&mut self) {
        let accepted = self.listener.accept().and_then(|(stream, _)| Connection::new(stream));
        match accepted {
            Ok(connection) if self.connections.len() < MAX_CONNECTIONS => {
                self.connections.insert(self.next_connection, connection);
                self.next_connection += 1;
            }
            Ok(_) => log("a connection is turned away: there are too many"),
            Err(error) => log(&format!("cannot accept a connection: {error}")),
        }
    }

    fn receive(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let received = match connection.flush().and_then(|()| connection.receive()) {
            Ok(received) => received,
            Err(Closed) => {
                self.connections.remove(&key);
                return;
            }
        };
        for one in received {
            match one {
                Received::Call(Call { id, request }) => {
                    self.perform(request, Caller { connection: key, call: id });
                }
                Received::Unknown { id, message } => {
                    let refused = Answer::Failed(failure(FailureKind::Invalid, message));
                    self.send(key, &Said::Answer { id, answer: refused });
                }
            }
        }
    }

    fn perform(&mut self, request: Request, caller: Caller) {
        let performed = match request {
            _ if self.is_refused_now(&request) => {
                let message = "the pod is being shut down".to_owned();
                Err(failure(FailureKind::WrongState, message))
            }
            Request::Create(config) => self.containers.create(*config).map(Some),
            Request::Start { container } => self.containers.start(&container, caller).map(|()| None),
            Request::Signal { container, signal } => self.containers.signal(&container, signal.as_deref()).map(Some),
            Request::KillAll => self.containers.kill_all().map(Some),
            Request::Remove { container } => self.containers.remove(&container, caller),
            Request::Exec(request) => self.exec(request, caller).map(|()| None),
            Request::State => Ok(Some(Answer::State(self.containers.state()))),
            Request::ReopenLogs => self.containers.reopen_logs().map(Some),
            Request::Shutdown => self.shut_down(caller).map(|()| None),
        };
        // Events of the same request come first: whoever has the answer has the state.
        self.send_outgoing();
        let answer = performed.unwrap_or_else(|failure| Some(Answer::Failed(failure)));
        if let Some(answer) = answer {
            self.send(caller.connection, &Said::Answer { id: caller.call, answer });
        }
    }

    fn is_refused_now(&self, request: &Request) -> bool {
        matches!(self.life, Life::ShuttingDown(_)) && !matches!(request, Request::State)
    }

    fn exec(&mut self, request: ExecRequest, caller: Caller) -> Result<(), Failure> {
        let ExecRequest { container, args, timeout_ms, streams } = request;
        let joining = self.containers.joining(&container, args)?;
        self.execs.start(&Task { joining, timeout_ms, streams }, caller)
    }

    fn shut_down(&mut self, caller: Caller) -> Result<(), Failure> {
        self.containers.kill_all()?;
        self.life = Life::ShuttingDown(caller);
        Ok(())
    }

    fn finish_shutdown(&mut self) {
        let Life::ShuttingDown(caller) = self.life else { return };
        if !self.containers.have_all_exited() {
            return;
        }
        let (life, answer) = match self.containers.destroy() {
            Ok(answer) => (Life::ShutDown, answer),
            Err(failure) => (Life::Serving, Answer::Failed(failure)),
        };
        self.life = life;
        self.send(caller.connection, &Said::Answer { id: caller.call, answer });
    }

    /// Takes the exit codes of all children that have ended, those of failed attempts to start one included.
    fn reap(&mut self) {
        while let Some((pid, ended)) = pidfd::reap_any() {
            if let Some((caller, answer)) = self.execs.handle_ended(pid) {
                self.send(caller.connection, &Said::Answer { id: caller.call, answer });
            } else {
                self.containers.handle_ended(pid, ended);
            }
        }
    }

    fn send_outgoing(&mut self) {
        for outgoing in self.containers.take_outgoing() {
            match outgoing {
                Outgoing::Answer(caller, answer) => {
                    self.send(caller.connection, &Said::Answer { id: caller.call, answer });
                }
                Outgoing::Event(event) => {
                    let keys: Vec<ConnectionKey> = self.connections.keys().copied().collect();
                    let said = Said::Event(event);
                    keys.into_iter().for_each(|key| self.send(key, &said));
                }
            }
        }
    }

    fn send(&mut self, key: ConnectionKey, said: &Said) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let sent = match protocol::encode(said) {
            Ok(frame) => connection.send(&frame),
            Err(error) => {
                log(&error.to_string());
                Err(Closed)
            }
        };
        if sent.is_err() {
            self.connections.remove(&key);
        }
    }
}
