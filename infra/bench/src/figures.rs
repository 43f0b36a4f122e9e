//! The figures, and their targets.

use serde::Serialize;

use crate::latency::TlsStarts;
use crate::report::{NotMeasured, PeerResults, Results, number, resident_mb, table};
use crate::routing::Routing;
use crate::rush::Rush;
use crate::samples::Samples;

/// The figures. Field names are the members of the JSON output.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    cached_over_floor: f64,
    handler_over_floor: f64,
    one_write_over_floor: f64,
    one_write_less_engine_over_floor: f64,
    start_over_floor: f64,
    init_tls_read_over_floor: Option<f64>,
    zip_mb: f64,
    rss_mb: f64,
    requests_per_call_hot: f64,
    requests_per_call_zipf: f64,
    routing: Vec<Routing>,
    rush: Rush,
    node: Option<Ratios>,
    python: Option<Ratios>,
    floor_us: f64,
    cached_us: f64,
    handler_us: f64,
    one_write_us: f64,
    one_write_less_engine_us: f64,
    floor_start_ms: f64,
    start_ms: f64,
    init_tls_read_ms: Option<f64>,
    init_tls_read_until: Option<Until>,
    requests_per_call_cached: f64,
    requests_per_call_one_write: f64,
    write_units_per_1000_hot: f64,
    write_units_per_1000_zipf: f64,
    read_units_per_1000_hot: f64,
    read_units_per_1000_zipf: f64,
}

/// A peer's medians, divided by Tollgate's.
#[derive(Debug, Clone, Copy, Serialize)]
struct Ratios {
    start_ratio: f64,
    warm_ratio: f64,
    rss_ratio: f64,
}

/// Bound of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {}", number(*bound)),
            Self::AtLeast(bound) => write!(f, "≥ {}", number(*bound)),
        }
    }
}

/// Header of a table of [`line()`]s.
pub(crate) const HEADER: [&str; 4] = ["figure", "measured", "target", "result"];

/// Returns a table row: the figure's name, its value, its target, and whether the target is met.
pub(crate) fn line(name: &str, value: Option<f64>, target: Option<Target>) -> [String; 4] {
    let result = match (value, target) {
        (Some(value), Some(target)) if target.is_met(value) => "met",
        (Some(_), Some(_)) => "**missed**",
        _ => "",
    };
    [
        name.to_owned(),
        value.map_or("not measured".to_owned(), number),
        target.map_or(String::new(), |target| target.to_string()),
        result.to_owned(),
    ]
}

impl Figures {
    pub(crate) fn of(results: &Results) -> Self {
        let (floor, ours) = (&results.floor, &results.ours);
        let (hot, zipf) = (&results.hot, &results.zipf);
        let (floor_us, cached_us) = (
            floor.warm.latency.median_us(),
            ours.warm.latency.median_us(),
        );
        let one_write_us = results.one_write.latency.median_us();
        let one_write_less_engine_us = results.one_write.less_engine.median_us();
        let ratios = |peer: &Result<PeerResults, NotMeasured>| {
            let peer = &peer.as_ref().ok()?.measured;
            Some(Ratios {
                start_ratio: rounded(peer.start.median_us() / ours.start.median_us()),
                warm_ratio: rounded(peer.warm.latency.median_us() / cached_us),
                rss_ratio: rounded(resident_mb(&peer.warm) / resident_mb(&ours.warm)),
            })
        };
        let handler_us = results.handler.median_us();
        let init = ours.tls.as_ref().ok().map(init);
        let init_ms = init.map(|(_, samples)| samples.median_ms());
        let floor_ms = floor.tls.as_ref().ok().map(|tls| tls.decided.median_ms());
        let init_over_floor = init_ms.zip(floor_ms).map(|(ours, floor)| ours / floor);
        Self {
            cached_over_floor: rounded(cached_us / floor_us),
            handler_over_floor: rounded(handler_us / floor_us),
            one_write_over_floor: rounded(one_write_us / floor_us),
            one_write_less_engine_over_floor: rounded(one_write_less_engine_us / floor_us),
            start_over_floor: rounded(ours.start.median_us() / floor.start.median_us()),
            init_tls_read_over_floor: init_over_floor.map(rounded),
            zip_mb: rounded(results.zip_bytes as f64 / 1e6),
            rss_mb: rounded(resident_mb(&ours.warm)),
            requests_per_call_hot: rounded(hot.requests_per_call()),
            requests_per_call_zipf: rounded(zipf.requests_per_call()),
            routing: results.routing.clone(),
            rush: results.rush.clone(),
            node: ratios(&results.node),
            python: ratios(&results.python),
            floor_us: rounded(floor_us),
            cached_us: rounded(cached_us),
            handler_us: rounded(handler_us),
            one_write_us: rounded(one_write_us),
            one_write_less_engine_us: rounded(one_write_less_engine_us),
            floor_start_ms: rounded(floor.start.median_ms()),
            start_ms: rounded(ours.start.median_ms()),
            init_tls_read_ms: init_ms.map(rounded),
            init_tls_read_until: init.map(|(until, _)| until),
            requests_per_call_cached: rounded(ours.warm.requests_per_call),
            requests_per_call_one_write: rounded(results.one_write.requests_per_call),
            write_units_per_1000_hot: rounded(hot.per_1000(hot.counts.write_units)),
            write_units_per_1000_zipf: rounded(zipf.per_1000(zipf.counts.write_units)),
            read_units_per_1000_hot: rounded(hot.per_1000(hot.counts.read_units)),
            read_units_per_1000_zipf: rounded(zipf.per_1000(zipf.counts.read_units)),
        }
    }

    /// Returns a table of the figures with their targets.
    pub(crate) fn table(&self) -> String {
        table(HEADER, &self.lines())
    }

    fn lines(&self) -> Vec<[String; 4]> {
        let at_most = |bound| Some(Target::AtMost(bound));
        let init = match self.init_tls_read_until {
            Some(Until::FirstDecision) => {
                "process start to first decision, with TLS and a read: × floor's (no read before the first event)"
            }
            Some(Until::Ready) | None => {
                "process start to ready, with TLS and a read: × floor's first decision"
            }
        };
        let rush = &self.rush;
        let mut lines = vec![
            line(
                "warm decision, cached and leased: × floor",
                Some(self.cached_over_floor),
                at_most(1.25),
            ),
            line(
                "handler alone: × floor's warm decision",
                Some(self.handler_over_floor),
                at_most(0.15),
            ),
            line(
                "warm decision, one write: × floor",
                Some(self.one_write_over_floor),
                at_most(12.0),
            ),
            line(
                "warm decision, one write, less the DynamoDB engine's time: × floor",
                Some(self.one_write_less_engine_over_floor),
                None,
            ),
            line(
                "process start to first poll: × floor",
                Some(self.start_over_floor),
                at_most(1.6),
            ),
            line(init, self.init_tls_read_over_floor, at_most(4.0)),
            line("zip, MB", Some(self.zip_mb), at_most(2.5)),
            line("resident memory, MB", Some(self.rss_mb), at_most(8.0)),
            line(
                "DynamoDB requests per call, hot",
                Some(self.requests_per_call_hot),
                at_most(0.005),
            ),
            line(
                "DynamoDB requests per call, zipf",
                Some(self.requests_per_call_zipf),
                None,
            ),
        ];
        lines.extend(self.routing.iter().map(|routing| {
            let name = format!(
                "DynamoDB requests per call, routing at {} calls/s",
                routing.per_second
            );
            line(&name, Some(routing.steady.requests_per_call()), None)
        }));
        lines.extend([
            line(
                "rush: slowest decision, ms",
                Some(rush.slowest_ms),
                at_most(1_000.0),
            ),
            line(
                "rush: undecided calls",
                Some(rush.undecided as f64),
                at_most(0.0),
            ),
            line(
                "rush: uncounted calls",
                Some(rush.uncounted as f64),
                at_most(0.0),
            ),
            line(
                "rush: DynamoDB requests per call",
                Some(rush.requests_per_call()),
                None,
            ),
            line(
                "rush: largest item, bytes",
                Some(rush.largest_item_bytes as f64),
                None,
            ),
        ]);
        for (peer, ratios) in [("Node.js", self.node), ("Python", self.python)] {
            let of = |ratio: fn(&Ratios) -> f64| ratios.as_ref().map(ratio);
            let at_least = Some(Target::AtLeast(5.0));
            lines.extend([
                line(
                    &format!("{peer} process start: × Tollgate's"),
                    of(|r| r.start_ratio),
                    at_least,
                ),
                line(
                    &format!("{peer} resident memory: × Tollgate's"),
                    of(|r| r.rss_ratio),
                    at_least,
                ),
                line(
                    &format!("{peer} warm decision: × Tollgate's"),
                    of(|r| r.warm_ratio),
                    None,
                ),
            ]);
        }
        lines
    }
}

/// The end of a measured start with TLS and a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Until {
    Ready,
    FirstDecision,
}

/// Returns the durations of starts that include a TLS connection and a read: until the process is ready, if
/// every start sent a DynamoDB request before that; otherwise until the first decision.
fn init(tls: &TlsStarts) -> (Until, &Samples) {
    if tls.with_request == tls.ready.len() {
        (Until::Ready, &tls.ready)
    } else {
        (Until::FirstDecision, &tls.decided)
    }
}

/// Rounds to four decimals.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_up_to_its_bound() {
        assert!(Target::AtMost(1.4).is_met(1.4));
        assert!(!Target::AtMost(1.4).is_met(1.4001));
        assert!(Target::AtLeast(5.0).is_met(5.0));
        assert!(!Target::AtLeast(5.0).is_met(4.9999));
        assert_eq!(Target::AtMost(0.02).to_string(), "≤ 0.0200");
    }

    fn figures() -> Figures {
        Figures {
            cached_over_floor: 1.2,
            handler_over_floor: 0.14,
            one_write_over_floor: 11.9,
            one_write_less_engine_over_floor: 9.4,
            start_over_floor: 1.5,
            init_tls_read_over_floor: Some(3.9),
            zip_mb: 2.0,
            rss_mb: 7.0,
            requests_per_call_hot: 0.004,
            requests_per_call_zipf: 1.0,
            routing: Vec::new(),
            rush: Rush {
                calls: 500,
                slowest_ms: 999.0,
                undecided: 0,
                uncounted: 0,
                requests: 3_750,
                largest_item_bytes: 1_000,
            },
            node: Some(Ratios {
                start_ratio: 50.0,
                warm_ratio: 20.0,
                rss_ratio: 9.0,
            }),
            python: None,
            floor_us: 70.0,
            cached_us: 84.0,
            handler_us: 9.8,
            one_write_us: 833.0,
            one_write_less_engine_us: 658.0,
            floor_start_ms: 1.4,
            start_ms: 2.1,
            init_tls_read_ms: Some(6.0),
            init_tls_read_until: Some(Until::Ready),
            requests_per_call_cached: 0.01,
            requests_per_call_one_write: 1.0,
            write_units_per_1000_hot: 10.0,
            write_units_per_1000_zipf: 900.0,
            read_units_per_1000_hot: 1.0,
            read_units_per_1000_zipf: 100.0,
        }
    }

    /// Returns the values of the figures that are shown as missed.
    fn missed(figures: &Figures) -> Vec<String> {
        let missed = figures
            .lines()
            .into_iter()
            .filter(|line| line[3].contains("missed"));
        missed.map(|line| line[1].clone()).collect()
    }

    #[test]
    fn a_figure_beyond_its_target_is_shown_as_missed() {
        assert_eq!(missed(&figures()), [""; 0]);
        let worse = Figures {
            cached_over_floor: 1.26,
            handler_over_floor: 0.16,
            one_write_over_floor: 12.1,
            start_over_floor: 1.61,
            init_tls_read_over_floor: Some(4.1),
            zip_mb: 2.51,
            rss_mb: 8.1,
            requests_per_call_hot: 0.0051,
            rush: Rush {
                calls: 500,
                slowest_ms: 1_001.0,
                undecided: 1,
                uncounted: 2,
                requests: 3_750,
                largest_item_bytes: 1_000,
            },
            node: Some(Ratios {
                start_ratio: 4.9,
                warm_ratio: 0.5,
                rss_ratio: 4.8,
            }),
            ..figures()
        };
        let expected = [
            "1.26", "0.16", "12.1", "1.61", "4.10", "2.51", "8.10", "0.0051", "1001", "1", "2",
            "4.90", "4.80",
        ];
        assert_eq!(missed(&worse), expected);
    }

    #[test]
    fn a_figure_that_was_not_measured_is_neither_met_nor_missed() {
        let unknown = Figures {
            init_tls_read_over_floor: None,
            node: None,
            ..figures()
        };
        assert_eq!(missed(&unknown), [""; 0]);
        let lines = unknown.lines();
        let not_measured = lines.iter().filter(|line| line[1] == "not measured");
        assert_eq!(not_measured.count(), 7);
    }

    #[test]
    fn init_ends_when_ready_only_if_every_start_reads() {
        let sample = Samples::from_iter([std::time::Duration::from_millis(1); 2]);
        let starts = |with_request| TlsStarts {
            ready: sample.clone(),
            decided: sample.clone(),
            with_request,
        };
        assert_eq!(init(&starts(2)).0, Until::Ready);
        assert_eq!(init(&starts(1)).0, Until::FirstDecision);
        assert_eq!(init(&starts(0)).0, Until::FirstDecision);
    }
}
