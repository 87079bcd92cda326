//! What the tests of this crate run in containers: one verb each, no shell and no other program needed.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match perform(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(words: &[&str]) -> io::Result<u8> {
    let mut stdout = io::stdout();
    match words {
        ["exit", code] => return Ok(code.parse().unwrap_or(99)),
        ["say", text] => writeln!(stdout, "{text}")?,
        ["complain", text] => writeln!(io::stderr(), "{text}")?,
        ["count", last] => (1..=last.parse().unwrap_or(0)).try_for_each(|n: u32| writeln!(stdout, "{n}"))?,
        ["wait"] => wait_for_ever()?,
        ["tell-and-wait", path] => {
            std::fs::write(path, "joined\n")?;
            wait_for_ever()?;
        }
        ["wait-for-term"] => return wait_for_term(),
        ["hog"] => hog(),
        ["fork-bomb"] => writeln!(stdout, "{}", fork_bomb())?,
        ["listen", port] => listen(port)?,
        ["connect", port] => connect(port)?,
        ["read", path] => stdout.write_all(&std::fs::read(path)?)?,
        ["write", path, text] => std::fs::write(path, text)?,
        ["vsock"] => {
            let vsock = rustix::net::AddressFamily::VSOCK;
            rustix::net::socket(vsock, rustix::net::SocketType::STREAM, None)?;
        }
        ["env"] => std::env::vars().try_for_each(|(name, value)| writeln!(stdout, "{name}={value}"))?,
        ["cwd"] => writeln!(stdout, "{}", std::env::current_dir()?.display())?,
        _ => return Ok(98),
    }
    Ok(0)
}

/// Not by parking, which could return.
fn wait_for_ever() -> io::Result<()> {
    writeln!(io::stdout(), "waiting")?;
    let (mut reader, _writer) = io::pipe()?;
    reader.read_to_end(&mut Vec::new()).map(|_| ())
}

fn wait_for_term() -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        let mut term = tokio::signal::unix::signal(kind)?;
        writeln!(io::stdout(), "waiting")?;
        term.recv().await;
        Ok(7)
    })
}

fn hog() {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(vec![1; 1 << 20]);
    }
}

/// How many children could be started before the kernel refused.
fn fork_bomb() -> usize {
    let spawn = || Command::new("/proc/self/exe").arg("wait").spawn().ok();
    let children: Vec<_> = std::iter::from_fn(spawn).take(1000).collect();
    children.len()
}

fn listen(port: &str) -> io::Result<()> {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    writeln!(io::stdout(), "listening")?;
    let (mut stream, _) = listener.accept()?;
    stream.write_all(b"hello")
}

fn connect(port: &str) -> io::Result<()> {
    let mut text = String::new();
    TcpStream::connect(format!("127.0.0.1:{port}"))?.read_to_string(&mut text)?;
    writeln!(io::stdout(), "{text}")
}
