//! What the server counts, for Prometheus.
//!
//! Fed by the events that the operator's observer is told too. No label holds anything that a client
//! chose, so there is a bounded number of time series: methods and paths that mean nothing are `other`.
//!
//! Source: OpenMetrics 1.0, which Prometheus reads; names follow Prometheus' "Metric and label naming".

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::access::audit::AuditedAction;
use crate::event::{Event, Observer};
use crate::exchange::Exchange;

/// The media type of what [`Metrics::text`] gives.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets for durations, in seconds: from a cached manifest to a large disk.
const DURATIONS: [f64; 12] = [0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0];

/// All counters of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    received_bytes: Counter,
    sent_bytes: Counter,
    connections: Gauge,
    connections_refused: Counter,
    handshakes_failed: Counter,
    accepts_failed: Counter,
    logins_failed: Counter,
    uploads_open: Gauge,
    uploads_expired: Counter,
    blobs_pushed: Counter,
    storage_errors: Counter,
    gc_cycles: Counter,
    gc_closed: Counter,
    gc_deleted: Counter,
    gc_freed_bytes: Counter,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    route: &'static str,
}

/// What was asked for, and the status of the answer; 0 where there was none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: &'static str,
    status: u16,
}

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Metrics {
    /// Counters of a server that starts at `now`.
    pub(crate) fn new(now: SystemTime) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            handshakes_failed: Counter::default(),
            accepts_failed: Counter::default(),
            logins_failed: Counter::default(),
            uploads_open: Gauge::default(),
            uploads_expired: Counter::default(),
            blobs_pushed: Counter::default(),
            storage_errors: Counter::default(),
            gc_cycles: Counter::default(),
            gc_closed: Counter::default(),
            gc_deleted: Counter::default(),
            gc_freed_bytes: Counter::default(),
        };
        metrics.register(now);
        metrics
    }

    fn register(&mut self, now: SystemTime) {
        let started = ConstGauge::new(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let all = &mut self.registry;
        all.register_with_unit("process_start_time", "When the server started", Unit::Seconds, started);
        let ours = all.sub_registry_with_prefix("hull_registry");
        ours.register("requests", "Requests; status 0: the client went away", self.requests.clone());
        let help = "From a request's head to the end of its answer";
        ours.register_with_unit("request_duration", help, Unit::Seconds, self.durations.clone());
        for (name, help, counter) in [
            ("received", "Bytes of requests' bodies", &self.received_bytes),
            ("sent", "Bytes of answers' bodies", &self.sent_bytes),
            ("gc_freed", "Bytes that garbage collection freed", &self.gc_freed_bytes),
        ] {
            ours.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        for (name, help, counter) in [
            (
                "connections_refused",
                "Connections from addresses that had too many",
                &self.connections_refused,
            ),
            ("handshakes_failed", "Connections that TLS did not come about on", &self.handshakes_failed),
            ("accepts_failed", "Connections that could not be accepted", &self.accepts_failed),
            ("logins_failed", "Logins that were wrong, or too many", &self.logins_failed),
            ("uploads_expired", "Uploads that were abandoned and forgotten", &self.uploads_expired),
            ("blobs_pushed", "Blobs that were pushed or mounted", &self.blobs_pushed),
            ("storage_errors", "Requests and other work that failed in the storage", &self.storage_errors),
            ("gc_cycles", "Cycles of garbage collection", &self.gc_cycles),
            ("gc_closed_generations", "Generations of blobs closed for deletion", &self.gc_closed),
            ("gc_deleted_generations", "Generations of blobs deleted", &self.gc_deleted),
        ] {
            ours.register(name, help, counter.clone());
        }
        ours.register("connections", "Open connections", self.connections.clone());
        ours.register("uploads_open", "Uploads that this server holds open", self.uploads_open.clone());
    }

    /// Everything, as Prometheus reads it. `uploads_open` is counted elsewhere.
    pub(crate) fn text(&self, uploads_open: usize) -> String {
        self.uploads_open.set(uploads_open.try_into().unwrap_or(i64::MAX));
        let mut written = String::new();
        text::encode(&mut written, &self.registry).expect("a string takes all that is written to it");
        written
    }

    /// Counts a connection.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    fn count(&self, event: &Event<'_>) {
        match event {
            Event::RequestAnswered { request } => self.answered(request),
            Event::RequestFailed { .. } | Event::ExpiryFailed { .. } | Event::CollectionFailed { .. } => {
                count(&self.storage_errors, 1);
            }
            Event::AcceptFailed { .. } => count(&self.accepts_failed, 1),
            Event::ConnectionRefused { .. } => count(&self.connections_refused, 1),
            Event::HandshakeFailed { .. } => count(&self.handshakes_failed, 1),
            Event::Audit(audit) => {
                if audit.action == AuditedAction::LogIn {
                    count(&self.logins_failed, 1);
                }
            }
            Event::Scrubbed { .. } => {}
            Event::UploadsExpired { count: expired } => count(&self.uploads_expired, *expired as u64),
            Event::GarbageCollected { collected } => {
                count(&self.gc_cycles, 1);
                count(&self.storage_errors, collected.damaged.len() as u64);
                count(&self.gc_closed, collected.closed_generations);
                count(&self.gc_deleted, collected.deleted_generations);
                count(&self.gc_freed_bytes, collected.freed_bytes);
            }
        }
    }

    fn answered(&self, request: &Exchange) {
        let (method, route) = (known(request.method()), request.route());
        let status = request.status().unwrap_or(0);
        count(&self.requests.get_or_create(&Answered { method, route, status }), 1);
        let seconds = request.duration().as_secs_f64();
        self.durations.get_or_create(&Asked { method, route }).observe(seconds);
        count(&self.received_bytes, request.received_bytes());
        count(&self.sent_bytes, request.sent_bytes());
        if request.has_pushed_blob() {
            count(&self.blobs_pushed, 1);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts what is observed, and passes it on.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Observer for Counted {
    fn observe(&self, event: &Event<'_>) {
        self.metrics.count(event);
        self.observer.observe(event);
    }
}

fn count(counter: &Counter, more: u64) {
    counter.inc_by(more);
}

/// The method as a label; clients may make up others.
fn known(method: &Method) -> &'static str {
    const KNOWN: [(Method, &str); 6] = [
        (Method::GET, "GET"),
        (Method::HEAD, "HEAD"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
    ];
    KNOWN.iter().find(|(known, _)| known == method).map_or("other", |(_, label)| label)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use http::Request;

    use super::*;
    use crate::lifecycle::Collected;

    /// Reads the text format, and fails at whatever its specification does not allow.
    fn parse(text: &str) -> HashMap<String, f64> {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with an EOF line");
        let (mut kinds, mut samples) = (HashMap::new(), HashMap::new());
        let mut family = "";
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let [what, name, rest] = comment.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                    panic!("`{line}` says nothing")
                };
                match what {
                    "HELP" => assert!(!kinds.contains_key(name), "`{name}` comes twice"),
                    "TYPE" => assert!(kinds.insert(name, rest).is_none(), "`{name}` has two types"),
                    "UNIT" => assert!(name.ends_with(rest), "`{name}` is not in {rest}"),
                    _ => panic!("`{line}` is no comment of the format"),
                }
                family = name;
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let name = &series[..series.find('{').unwrap_or(series.len())];
            assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "`{name}`");
            let suffix = name.strip_prefix(family).expect("samples follow their family");
            let suffixes: &[&str] = match kinds[family] {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                kind => panic!("`{kind}` is no type"),
            };
            assert!(suffixes.contains(&suffix), "`{name}` is no sample of a {}", kinds[family]);
            if let Some(labels) = series[name.len()..].strip_prefix('{') {
                for label in labels.strip_suffix('}').expect("labels are closed").split(',') {
                    let (_, value) = label.split_once("=\"").expect("a label has a value");
                    assert!(value.strip_suffix('"').is_some_and(|value| !value.contains('"')), "{label}");
                }
            }
            let value: f64 = value.parse().expect("a value is a number");
            assert!(samples.insert(series.to_owned(), value).is_none(), "`{series}` comes twice");
        }
        samples
    }

    #[test]
    fn everything_is_counted_and_the_text_is_right() {
        let metrics = Metrics::new(UNIX_EPOCH + std::time::Duration::from_secs(1_000));
        let request = Request::builder().method("BREW").uri("/x\"y").body(()).unwrap();
        let request = Exchange::begin(String::new(), "192.0.2.1:1".parse().unwrap(), &request);
        request.received(7);
        metrics.count(&Event::RequestAnswered { request: &request });
        metrics.count(&Event::RequestAnswered { request: &request });
        metrics.count(&Event::UploadsExpired { count: 3 });
        let collected = &Collected {
            closed_generations: 4,
            deleted_generations: 5,
            freed_bytes: 6,
            ..Collected::default()
        };
        metrics.count(&Event::GarbageCollected { collected });
        let open = metrics.connection();
        let samples = parse(&metrics.text(9));
        for (series, want) in [
            ("process_start_time_seconds", 1_000.0),
            ("hull_registry_requests_total{method=\"other\",route=\"other\",status=\"0\"}", 2.0),
            ("hull_registry_request_duration_seconds_count{method=\"other\",route=\"other\"}", 2.0),
            (
                "hull_registry_request_duration_seconds_bucket{le=\"+Inf\",method=\"other\",route=\"other\"}",
                2.0,
            ),
            ("hull_registry_received_bytes_total", 14.0),
            ("hull_registry_uploads_expired_total", 3.0),
            ("hull_registry_uploads_open", 9.0),
            ("hull_registry_connections", 1.0),
            ("hull_registry_gc_cycles_total", 1.0),
            ("hull_registry_gc_closed_generations_total", 4.0),
            ("hull_registry_gc_deleted_generations_total", 5.0),
            ("hull_registry_gc_freed_bytes_total", 6.0),
        ] {
            assert_eq!(samples.get(series), Some(&want), "{series}\n{}", metrics.text(9));
        }
        drop(open);
        assert_eq!(parse(&metrics.text(0))["hull_registry_connections"], 0.0);
    }
}
