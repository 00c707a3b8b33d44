//! Line charts as SVG, a line a run. A run has the same colour, dash and mark in every chart. Knows numbers, not what they mean.

use super::page::escape;
use std::fmt::Write;

/// Size of a chart, and the room around its axes.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 38.0;
/// Longer lines are thinned to about this many points.
const POINTS: usize = 300;
/// Lines of fewer points have a mark at each.
const MARKED: usize = 40;
/// Colours that differ in brightness too, after Okabe and Ito.
const COLORS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b6914", "#7f7f7f"];
const DASHES: [&str; 4] = ["", "7 3", "2 3", "9 3 2 3"];

/// How a run is drawn.
pub fn color(run: usize) -> &'static str {
    COLORS[run % COLORS.len()]
}

fn dash(run: usize) -> &'static str {
    // Runs of neighbouring colours, and those of the same one, have different dashes.
    DASHES[(run + run / COLORS.len()) % DASHES.len()]
}

/// One line: the run's number and name, and its points.
pub struct Line<'a> {
    /// Number of the run.
    pub run: usize,
    /// Its name.
    pub label: &'a str,
    /// x and y, in the order of x.
    pub points: Vec<(f64, f64)>,
}

/// A short piece of the run's line, for tables.
pub fn sample(run: usize) -> String {
    format!(
        "<svg class=\"sample\" viewBox=\"0 0 34 10\" aria-hidden=\"true\"><path d=\"M1 5H33\" stroke=\"{}\" \
         stroke-width=\"2.5\" stroke-dasharray=\"{}\"/></svg>",
        color(run),
        dash(run)
    )
}

/// A chart with its title; nothing where no line has a point.
pub fn chart(title: &str, x_label: &str, lines: &[Line<'_>]) -> Option<String> {
    let points = || lines.iter().flat_map(|l| &l.points);
    points().next()?;
    let x = Axis::over(points().map(|p| p.0));
    let y = Axis::over(points().map(|p| p.1));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let at =
        |(px, py): (f64, f64)| (LEFT + x.share(px) * (right - LEFT), bottom - y.share(py) * (bottom - TOP));
    let mut svg = format!(
        "<figure><figcaption>{0}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">",
        escape(title)
    );
    for tick in &y.ticks {
        let (_, py) = at((x.low, *tick));
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {py:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            py + 4.0,
            y.text(*tick)
        );
    }
    for tick in &x.ticks {
        let (px, _) = at((*tick, y.low));
        let _ = write!(
            svg,
            "<path class=\"tick\" d=\"M{px:.1} {bottom}v4\"/><text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 17.0,
            x.text(*tick)
        );
    }
    let _ = write!(
        svg,
        "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (LEFT + right) / 2.0,
        HEIGHT - 5.0,
        escape(x_label)
    );
    for line in lines.iter().filter(|l| !l.points.is_empty()) {
        let points = thin(&line.points);
        let mut path = String::new();
        for (i, &point) in points.iter().enumerate() {
            let (px, py) = at(point);
            let _ = write!(path, "{}{px:.1} {py:.1}", if i == 0 { "M" } else { "L" });
        }
        let _ = write!(
            svg,
            "<path class=\"line\" d=\"{path}\" stroke=\"{}\" stroke-dasharray=\"{}\"><title>{}</title></path>",
            color(line.run),
            dash(line.run),
            escape(line.label)
        );
        for &point in points.iter().filter(|_| points.len() <= MARKED) {
            let (px, py) = at(point);
            let _ = write!(
                svg,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2.6\" fill=\"{}\"><title>{}: {} at {x_label} {}</title></circle>",
                color(line.run),
                escape(line.label),
                number(point.1),
                number(point.0)
            );
        }
    }
    svg += "</svg></figure>";
    Some(svg)
}

/// Every n-th point, and the last.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stride = points.len().div_ceil(POINTS).max(1);
    let last = points.len() - 1;
    points.iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last).map(|(_, p)| *p).collect()
}

/// A number in four digits at most, without zeros behind.
pub fn number(v: f64) -> String {
    if v == 0.0 || (1e-3..1e5).contains(&v.abs()) {
        let digits = if v == 0.0 { 0 } else { (3 - v.abs().log10().floor() as i32).clamp(0, 6) as usize };
        let text = format!("{v:.digits$}");
        return match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
            false => text,
        };
    }
    format!("{v:.1e}")
}

/// An axis with round ticks around all values.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Axis {
        let (mut low, mut high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low == high {
            // A single value stands in the middle.
            let room = if low == 0.0 { 1.0 } else { low.abs() / 2.0 };
            (low, high) = (low - room, high + room);
        }
        let rough = (high - low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= rough).unwrap_or(10.0) * power;
        let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        let room = (high - low) * 0.03;
        Axis {
            low: low - room,
            high: high + room,
            step,
            ticks: (first..=last).map(|i| i as f64 * step).collect(),
        }
    }

    fn share(&self, v: f64) -> f64 {
        (v - self.low) / (self.high - self.low)
    }

    fn text(&self, tick: f64) -> String {
        // What is left of a sum that should be zero.
        number(if tick.abs() < self.step / 1e6 { 0.0 } else { tick })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        for (low, high) in [(0.0, 1.0), (0.312, 0.458), (-3.0, 17.0), (1e-6, 5e-6), (7.0, 7.0), (0.0, 0.0)] {
            let axis = Axis::over([low, high].into_iter());
            assert!((2..=12).contains(&axis.ticks.len()), "{low} to {high}: {:?}", axis.ticks);
            assert!(axis.ticks.iter().all(|t| (axis.low..=axis.high).contains(t)));
            assert!((0.0..=1.0).contains(&axis.share(low)) && (0.0..=1.0).contains(&axis.share(high)));
        }
        assert_eq!(Axis::over([0.0, 1.0].into_iter()).ticks.len(), 6);
    }

    #[test]
    fn numbers_are_short() {
        for (v, text) in [
            (0.0, "0"),
            (0.45678, "0.4568"),
            (12.0, "12"),
            (1234.5, "1234"),
            (1e-5, "1.0e-5"),
            (2.5e7, "2.5e7"),
        ] {
            assert_eq!(number(v), text);
        }
    }

    #[test]
    fn charts_name_their_runs_and_need_points() {
        assert_eq!(chart("t", "epoch", &[Line { run: 0, label: "a", points: vec![] }]), None);
        let lines = [
            Line { run: 0, label: "a<b", points: (0..1000).map(|i| (f64::from(i), 1.0)).collect() },
            Line { run: 1, label: "c", points: vec![(5.0, 0.5)] },
        ];
        let svg = chart("m & n", "epoch", &lines).unwrap();
        assert!(svg.contains("m &amp; n") && svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        assert!(svg.contains(color(0)) && svg.contains(color(1)));
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.matches('L').count() <= POINTS);
    }
}
