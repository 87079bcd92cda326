//! What was counted, for Prometheus, in the text format of OpenMetrics.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use objects::traffic::{Cell, ConnectionClass, Counts, LATENCY_LIMITS, Series, SeriesKey};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpStream;

use super::balancer::Balancer;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Answers once on a connection: whoever kept it would go on asking a proxy that was replaced.
pub(crate) async fn serve(stream: TcpStream, balancer: Arc<Balancer>) {
    let answers = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &balancer);
        async move { Ok::<_, Infallible>(answer) }
    });
    if let Err(error) = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answers).await {
        tracing::trace!("a connection for metrics ended: {error}");
    }
}

fn answer(request: &Request<Incoming>, balancer: &Balancer) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match written(balancer) {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned()),
    };
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    if status == StatusCode::OK {
        answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    }
    answer
}

fn written(balancer: &Balancer) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Counted {
        series: balancer.counts(),
        version: balancer.drains().0,
        left_out: balancer.access_log().left_out(),
        refused: balancer.clients().refused(),
    }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// A moment's counts.
#[derive(Debug)]
struct Counted {
    series: Vec<Series>,
    version: u64,
    left_out: u64,
    refused: u64,
}

type Label = (&'static str, String);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.counters(
            &mut encoder,
            "segue_requests",
            "Requests to a Service that are over, by pod, method and outcome.",
            |cell| {
                let Cell::Requests(method, outcome) = cell else { return None };
                Some(vec![("method", method.word().to_owned()), ("outcome", outcome.word().to_owned())])
            },
        )?;
        let same = |wanted: Cell| move |cell: Cell| (cell == wanted).then(Vec::new);
        let help = "Requests that the pod did not answer and another was asked.";
        self.counters(&mut encoder, "segue_retries", help, same(Cell::Retries))?;
        let help = "Bytes of bodies and opaque connections that clients sent.";
        self.counters(&mut encoder, "segue_received_bytes", help, same(Cell::BytesFromClients))?;
        let help = "Bytes of bodies and opaque connections that clients were sent.";
        self.counters(&mut encoder, "segue_sent_bytes", help, same(Cell::BytesToClients))?;
        let opened = |cell: Cell| {
            let Cell::Opened(class) = cell else { return None };
            Some(vec![("class", class.word().to_owned())])
        };
        self.counters(&mut encoder, "segue_connections", "Connections that were opened, by class.", opened)?;
        self.open_connections(&mut encoder)?;
        self.latencies(&mut encoder)?;
        self.drains(&mut encoder)?;
        let help = "The configuration in force.";
        let version = encoder.encode_descriptor("segue_configuration_version", help, None, MetricType::Gauge)?;
        encode_gauge(version, self.version as f64)?;
        let help = "Lines that the access log left out, since requests don't wait for it.";
        let mut left_out = encoder.encode_descriptor("segue_access_log_left_out", help, None, MetricType::Counter)?;
        left_out.encode_counter::<NoLabelSet, _, f64>(&self.left_out, None)?;
        let help = "Connections that were closed at once, since their client had too many.";
        let mut refused = encoder.encode_descriptor("segue_refused_connections", help, None, MetricType::Counter)?;
        refused.encode_counter::<NoLabelSet, _, f64>(&self.refused, None)
    }
}

fn encode_gauge(mut encoder: MetricEncoder<'_>, value: f64) -> fmt::Result {
    encoder.encode_gauge(&value)
}

impl Counted {
    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        labels: impl Fn(Cell) -> Option<Vec<Label>>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for series in &self.series {
            for (cell, number) in series.counts.iter() {
                if let Some(more) = labels(cell) {
                    let labels = all_labels(&series.key, more);
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&number, None)?;
                }
            }
        }
        Ok(())
    }

    fn open_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections that are open, by class.";
        let mut family = encoder.encode_descriptor("segue_open_connections", help, None, MetricType::Gauge)?;
        for Series { key, counts, .. } in &self.series {
            for class in ConnectionClass::all() {
                let opened = counts.get(Cell::Opened(class));
                if opened > 0 {
                    let open = opened.saturating_sub(counts.get(Cell::Closed(class))) as f64;
                    let labels = all_labels(key, vec![("class", class.word().to_owned())]);
                    family.encode_family(&labels)?.encode_gauge(&open)?;
                }
            }
        }
        Ok(())
    }

    fn latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How long requests took, from their head to the end of their answer.";
        let name = "segue_request_duration";
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for Series { key, counts, .. } in &self.series {
            let buckets = buckets(counts);
            let total = buckets.iter().map(|(_, number)| number).sum();
            if total > 0 {
                let sum = counts.get(Cell::LatencySum) as f64 / 1e6;
                let labels = all_labels(key, Vec::new());
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, total, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn drains(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "How long the pod was drained, by whether its last work was waited for.";
        let mut family =
            encoder.encode_descriptor("segue_drain_duration", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for Series { key, drain, .. } in &self.series {
            if let Some(drain) = drain {
                let end = if drain.requests + drain.long == 0 { "idle" } else { "cut-off" };
                let labels = all_labels(key, vec![("end", end.to_owned())]);
                family.encode_family(&labels)?.encode_gauge(&(drain.milliseconds as f64 / 1000.0))?;
            }
        }
        Ok(())
    }
}

/// Not cumulated, as the encoder wants them.
fn buckets(counts: &Counts) -> Vec<(f64, u64)> {
    let limits = LATENCY_LIMITS.iter().map(|limit| limit.as_secs_f64()).chain([f64::MAX]);
    limits.enumerate().map(|(class, limit)| (limit, counts.get(Cell::Latency(class as u8)))).collect()
}

fn all_labels(key: &SeriesKey, more: Vec<Label>) -> Vec<Label> {
    let mut labels = vec![
        ("namespace", key.namespace.clone()),
        ("service", key.service.clone()),
        ("port", key.port.to_string()),
        ("pod", key.pod.clone()),
        ("version", key.version.clone()),
    ];
    labels.extend(more);
    labels
}
