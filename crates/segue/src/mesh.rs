//! `segue drain` and `segue mesh`: this machine among those that cover for each other.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use decide::mesh::{Known, Said, Standing};
use network::mesh::{Seen, SeenMachine};

use crate::cli::{DataDirectory, Drain, Output};
use crate::engine_socket::{self, Order};
use crate::settings::Directories;
use crate::{preflight, show as shown};

/// Hands everything over to other machines, and stops everything here.
#[tokio::main]
pub(crate) async fn drain(options: &Drain) -> anyhow::Result<()> {
    let directories = running(&options.directory)?;
    let order = Order::Drain { force: options.force };
    engine_socket::order(&directories.engine_socket(), &order, shown::line).await?;
    shown::line("this machine is out of service; `segue up` brings it back");
    Ok(())
}

/// Shows how this machine sees the others.
#[tokio::main]
pub(crate) async fn show(directory: &DataDirectory, output: Output) -> anyhow::Result<()> {
    let directories = running(directory)?;
    let seen = engine_socket::ask_mesh(&directories.engine_socket()).await?;
    match output {
        Output::Json => shown::line(&serde_json::to_string(&seen)?),
        Output::Text => text(&seen).iter().for_each(|line| shown::line(line)),
    }
    Ok(())
}

fn running(directory: &DataDirectory) -> anyhow::Result<Directories> {
    let directories = Directories::find(&directory.data_dir)?;
    preflight::is_running(&directories)
        .then_some(())
        .with_context(|| format!("no engine runs on {}: `segue up --mesh` starts one", directories.data.display()))?;
    Ok(directories)
}

fn text(seen: &Seen) -> Vec<String> {
    let own = seen.name.clone().unwrap_or_else(|| "this machine, which is not in the mesh".to_owned());
    let state = if seen.said.draining { "draining" } else { "ready" };
    let mut machines = vec![["MACHINE", "STATE", "VERSION", "ROUND TRIP"].map(str::to_owned)];
    machines.push([format!("{own} (here)"), state.to_owned(), seen.said.version.clone(), String::new()]);
    machines.extend(seen.machines.iter().map(row));
    let mut lines = table(&machines);
    let mut services: Vec<[String; 2]> = vec![["SERVICE", "READY"].map(str::to_owned)];
    services.extend(ready(seen, &own));
    if services.len() > 1 {
        lines.push(String::new());
        lines.extend(table(&services));
    }
    if !seen.depend_on_this.is_empty() {
        let depend: Vec<&str> = seen.depend_on_this.iter().map(String::as_str).collect();
        lines.extend([String::new(), format!("Only here: {}", depend.join(", "))]);
    }
    lines
}

fn row(SeenMachine { known, round_trip }: &SeenMachine) -> [String; 4] {
    let state = match (known.standing, &known.said) {
        (Standing::Ready, _) => "ready",
        (Standing::Draining, _) => "draining",
        (Standing::SetAside, Some(_)) => "set aside",
        (Standing::SetAside, None) => "not heard",
    };
    let version = known.said.as_ref().map(|said| said.version.clone()).unwrap_or_default();
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    [known.name.clone(), state.to_owned(), version, round_trip.map(milliseconds).unwrap_or_default()]
}

/// Each Service of the mesh, with the ready pods of each machine.
fn ready(seen: &Seen, own: &str) -> Vec<[String; 2]> {
    let others = seen.machines.iter().filter_map(|machine| {
        let Known { name, said, .. } = &machine.known;
        Some((name.as_str(), said.as_ref()?))
    });
    let all: Vec<(&str, &Said)> = std::iter::once((own, &seen.said)).chain(others).collect();
    let services: BTreeSet<&String> = all.iter().flat_map(|(_, said)| said.services.keys()).collect();
    let pods = |said: &Said, service: &String| {
        said.services.get(service).map(|ports| ports.iter().map(|port| port.ready).min().unwrap_or_default())
    };
    let on_each = |service: &String| {
        let machines = all.iter().filter_map(|(name, said)| Some(format!("{name} {}", pods(said, service)?)));
        machines.collect::<Vec<_>>().join(", ")
    };
    services.into_iter().map(|service| [service.clone(), on_each(service)]).collect()
}

/// Columns that are as wide as what is in them.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let widths: Vec<usize> =
        (0..COLUMNS).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default()).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use decide::mesh::Port;

    use super::*;

    #[test]
    fn machines_and_services_are_shown_in_columns() {
        let said = |ready: u32| Said {
            version: "0.1.0".to_owned(),
            services: [("production/web".to_owned(), vec![Port { port: 80, ready }])].into(),
            ..Said::default()
        };
        let machine = |name: &str, standing, said, milliseconds: Option<u64>| SeenMachine {
            known: Known { name: name.to_owned(), address: [100, 64, 0, 2].into(), standing, said },
            round_trip: milliseconds.map(Duration::from_millis),
        };
        let seen = Seen {
            name: Some("a.example.ts.net".to_owned()),
            said: said(2),
            machines: vec![
                machine("b.example.ts.net", Standing::Ready, Some(said(0)), Some(3)),
                machine("c.example.ts.net", Standing::SetAside, None, None),
            ],
            depend_on_this: ["production/web".to_owned()].into(),
        };
        let expected = "\
MACHINE                  STATE      VERSION  ROUND TRIP
a.example.ts.net (here)  ready      0.1.0
b.example.ts.net         ready      0.1.0    3.0 ms
c.example.ts.net         not heard

SERVICE         READY
production/web  a.example.ts.net 2, b.example.ts.net 0

Only here: production/web";
        assert_eq!(text(&seen).join("\n"), expected);
    }
}
