//! How things are with the tailnet and the mesh, for Prometheus, in the text format of OpenMetrics.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use decide::mesh::Standing;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::{mesh, tailnet};

/// What there is to show; empty if it can't be written.
#[must_use]
pub fn written(tailnet: &tailnet::Handle, mesh: Option<&mesh::Handle>) -> String {
    let mut registry = Registry::default();
    let seen = mesh.map(mesh::Handle::seen);
    registry.register_collector(Box::new(Moment { tailnet: tailnet.state(), seen }));
    let mut written = String::new();
    match text::encode(&mut written, &registry) {
        Ok(()) => written,
        Err(_) => String::new(),
    }
}

#[derive(Debug)]
struct Moment {
    tailnet: tailnet::State,
    seen: Option<mesh::Seen>,
}

impl Collector for Moment {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(runs) = self.tailnet.daemon_runs {
            let help = "Whether Tailscale's daemon runs here and is on the tailnet.";
            let mut gauge = encoder.encode_descriptor("segue_tailnet_daemon_runs", help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&f64::from(u8::from(runs)))?;
        }
        let reasons =
            self.tailnet.reasons.iter().map(|(reason, count)| (("reason", (*reason).to_owned()), *count as f64));
        let help = "Services and Ingresses that have to do with the tailnet, by the reason in their condition.";
        gauges(&mut encoder, "segue_tailnet_exposures", help, reasons)?;
        let help = "Changes of the daemon's serve configuration.";
        let mut writes = encoder.encode_descriptor("segue_tailnet_serve_writes", help, None, MetricType::Counter)?;
        writes.encode_counter::<NoLabelSet, _, f64>(&self.tailnet.writes, None)?;
        let Some(seen) = &self.seen else { return Ok(()) };
        let mut standings: BTreeMap<&str, f64> = BTreeMap::new();
        for machine in &seen.machines {
            *standings.entry(word(machine.known.standing)).or_default() += 1.0;
        }
        let standings = standings.into_iter().map(|(standing, count)| (("standing", standing.to_owned()), count));
        gauges(
            &mut encoder,
            "segue_mesh_machines",
            "Other machines of the mesh, by how they are thought of.",
            standings,
        )?;
        let way = |machine: &mesh::SeenMachine| {
            Some((
                ("machine", machine.known.name.clone()),
                machine.round_trip.map(|time: Duration| time.as_secs_f64())?,
            ))
        };
        let help = "How long a message to another machine and back takes.";
        gauges(&mut encoder, "segue_mesh_round_trip_seconds", help, seen.machines.iter().filter_map(way))?;
        let help = "Services that would have no ready pod without this machine.";
        let mut alone = encoder.encode_descriptor("segue_mesh_only_here", help, None, MetricType::Gauge)?;
        alone.encode_gauge(&(seen.depend_on_this.len() as f64))
    }
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ((&'static str, String), f64)>,
) -> fmt::Result {
    let mut gauges = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (label, value) in values {
        gauges.encode_family(&[label])?.encode_gauge(&value)?;
    }
    Ok(())
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Ready => "ready",
        Standing::Draining => "draining",
        Standing::SetAside => "set-aside",
    }
}
