//! Bar charts in SVG.

use std::fmt::Write;

use crate::report::{Measured, NotMeasured, PeerResults, Results, number, resident_mb};

const WIDTH: f64 = 780.0;
/// X coordinate at which bars begin, to the right of their names.
const LEFT: f64 = 236.0;
/// Length of the longest bar.
const LONGEST: f64 = 440.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const TITLE: f64 = 34.0;
const MARGIN: f64 = 20.0;

const OURS: &str = "#0b6e99";
const OTHERS: &str = "#b4bcc4";

/// A chart with bars from zero, on its own linear scale.
struct Chart {
    title: &'static str,
    /// Kind of value, such as `median`.
    kind: &'static str,
    unit: &'static str,
    bars: Vec<Bar>,
}

struct Bar {
    name: &'static str,
    value: f64,
    is_ours: bool,
}

/// Draws process starts, warm decisions and memory of all contenders.
pub(crate) fn svg(results: &Results) -> String {
    let peers = [("Node.js", &results.node), ("Python", &results.python)];
    let start = |measured: &Measured| measured.start.median_ms();
    let warm = |measured: &Measured| measured.warm.latency.median_us();
    let memory = |measured: &Measured| resident_mb(&measured.warm);
    let mut warm_bars = bars(results, &peers, "Tollgate, cached and leased", warm);
    warm_bars.insert(
        2,
        Bar {
            name: "Tollgate, one write",
            value: results.one_write.latency.median_us(),
            is_ours: true,
        },
    );
    draw(&[
        Chart {
            title: "Process start to first poll",
            kind: "median",
            unit: "ms",
            bars: bars(results, &peers, "Tollgate", start),
        },
        Chart {
            title: "Warm decision",
            kind: "median",
            unit: "µs",
            bars: warm_bars,
        },
        Chart {
            title: "Resident memory",
            kind: "after the warm decisions",
            unit: "MB",
            bars: bars(results, &peers, "Tollgate", memory),
        },
    ])
}

fn bars(
    results: &Results,
    peers: &[(&'static str, &Result<PeerResults, NotMeasured>)],
    ours: &'static str,
    value: fn(&Measured) -> f64,
) -> Vec<Bar> {
    let mut bars = vec![
        Bar {
            name: "floor",
            value: value(&results.floor),
            is_ours: false,
        },
        Bar {
            name: ours,
            value: value(&results.ours),
            is_ours: true,
        },
    ];
    for (name, peer) in peers {
        bars.extend(peer.as_ref().ok().map(|peer| Bar {
            name,
            value: value(&peer.measured),
            is_ours: false,
        }));
    }
    bars
}

fn draw(charts: &[Chart]) -> String {
    let mut marks = String::new();
    let mut y = MARGIN;
    for chart in charts {
        y = draw_chart(&mut marks, chart, y) + MARGIN;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" \
         height=\"{y}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1c2126\">\n\
         <title>Authorizer compared with a minimal function and peers; less is better</title>\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#ffffff\"/>\n{marks}</svg>\n"
    )
}

/// Draws a chart from `top` downwards. Returns the y coordinate of its end.
fn draw_chart(marks: &mut String, chart: &Chart, top: f64) -> f64 {
    let Chart {
        title,
        kind,
        unit,
        bars,
    } = chart;
    let greatest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let middle = top + 16.0;
    // Writing to a string does not fail.
    let _ = writeln!(
        marks,
        "<text x=\"{MARGIN}\" y=\"{middle}\" font-size=\"15\" font-weight=\"600\">{title}\
         <tspan font-size=\"12\" font-weight=\"400\" fill=\"#5b6670\" dx=\"8\">{unit}, {kind}; \
         less is better</tspan></text>"
    );
    let mut y = top + TITLE;
    for bar in bars {
        // The shortest bars stay visible.
        let length = (bar.value / greatest * LONGEST).max(1.5);
        let (colour, weight) = if bar.is_ours {
            (OURS, 600)
        } else {
            (OTHERS, 400)
        };
        let baseline = y + 13.5;
        let (name_end, value_start) = (LEFT - 10.0, LEFT + length + 8.0);
        let (name, value) = (bar.name, number(bar.value));
        let _ = writeln!(
            marks,
            "<text x=\"{name_end}\" y=\"{baseline}\" text-anchor=\"end\" font-weight=\"{weight}\">\
             {name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" \
             fill=\"{colour}\"/>\n\
             <text x=\"{value_start:.1}\" y=\"{baseline}\" font-weight=\"{weight}\">{value} \
             {unit}</text>"
        );
        y += STEP;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_lengths_are_proportional_to_values() {
        let bar = |value| Bar {
            name: "a",
            value,
            is_ours: false,
        };
        let mut marks = String::new();
        let chart = Chart {
            title: "t",
            kind: "k",
            unit: "ms",
            bars: vec![bar(10.0), bar(40.0), bar(0.001)],
        };
        draw_chart(&mut marks, &chart, 0.0);
        let widths: Vec<&str> = marks
            .split("width=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(widths, ["110.0", "440.0", "1.5"]);
    }
}
