//! Line charts as SVG, a line per group of runs, with a band where it is a mean. A group has the same colour,
//! dash and mark in every chart. Knows numbers, not what they mean.

use super::html::escape;
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

/// The colour of a group.
pub(super) fn color(group: usize) -> &'static str {
    COLORS[group % COLORS.len()]
}

fn dash(group: usize) -> &'static str {
    // Groups of neighbouring colours, and those of the same one, have different dashes.
    DASHES[(group + group / COLORS.len()) % DASHES.len()]
}

/// One line: the group's number and name, and its points.
pub(super) struct Line {
    /// Number of the group.
    pub group: usize,
    pub label: String,
    /// The points in the order of x.
    pub points: Vec<Point>,
}

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Epoch or step.
    pub x: f64,
    /// The value, or the mean of several.
    pub y: f64,
    /// Half the height of the band around the line, in units of `y`; 0 is none.
    pub deviation: f64,
}

/// A short piece of the group's line, for tables.
pub(super) fn sample(group: usize) -> String {
    format!(
        "<svg class=\"sample\" viewBox=\"0 0 34 10\" aria-hidden=\"true\"><path d=\"M1 5H33\" stroke=\"{}\" \
         stroke-width=\"2.5\" stroke-dasharray=\"{}\"/></svg>",
        color(group),
        dash(group)
    )
}

/// A chart with its title; nothing where no line has a point.
pub(super) fn chart(title: &str, x_label: &str, lines: &[Line]) -> Option<String> {
    let points = || lines.iter().flat_map(|l| &l.points);
    points().next()?;
    let x = Axis::over(points().map(|p| p.x));
    let y = Axis::over(points().flat_map(|p| [p.y - p.deviation, p.y + p.deviation]));
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
    let lines: Vec<(&Line, Vec<Point>)> =
        lines.iter().filter(|l| !l.points.is_empty()).map(|l| (l, thin(&l.points))).collect();
    // Bands first, so that none covers a line.
    for (line, points) in &lines {
        // Rounding leaves a deviation of equal numbers, such as a schedule's.
        if points.iter().all(|p| p.deviation <= 1e-9 * p.y.abs()) {
            continue;
        }
        let upper = points.iter().map(|p| at((p.x, p.y + p.deviation)));
        let lower = points.iter().rev().map(|p| at((p.x, p.y - p.deviation)));
        let _ = write!(svg, "<polygon class=\"band\" fill=\"{}\" points=\"", color(line.group));
        for (px, py) in upper.chain(lower) {
            let _ = write!(svg, "{px:.1},{py:.1} ");
        }
        svg += "\"/>";
    }
    for (line, points) in &lines {
        let mut path = String::new();
        for (i, point) in points.iter().enumerate() {
            let (px, py) = at((point.x, point.y));
            let _ = write!(path, "{}{px:.1} {py:.1}", if i == 0 { "M" } else { "L" });
        }
        let _ = write!(
            svg,
            "<path class=\"line\" d=\"{path}\" stroke=\"{}\" stroke-dasharray=\"{}\"><title>{}</title></path>",
            color(line.group),
            dash(line.group),
            escape(&line.label)
        );
        for point in points.iter().filter(|_| points.len() <= MARKED) {
            let (px, py) = at((point.x, point.y));
            let spread = match point.deviation > 0.0 {
                true => format!(" ± {}", number(point.deviation)),
                false => String::new(),
            };
            let _ = write!(
                svg,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2.6\" fill=\"{}\"><title>{}: {}{spread} at {x_label} {}</title></circle>",
                color(line.group),
                escape(&line.label),
                number(point.y),
                number(point.x)
            );
        }
    }
    svg += "</svg></figure>";
    Some(svg)
}

/// Every n-th point, and the last.
fn thin(points: &[Point]) -> Vec<Point> {
    let stride = points.len().div_ceil(POINTS).max(1);
    let last = points.len() - 1;
    points.iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last).map(|(_, p)| *p).collect()
}

/// A number in four digits at most, without zeros behind.
pub(super) fn number(v: f64) -> String {
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

    fn line(group: usize, label: &str, points: &[(f64, f64, f64)]) -> Line {
        let points = points.iter().map(|&(x, y, deviation)| Point { x, y, deviation }).collect();
        Line { group, label: label.into(), points }
    }

    #[test]
    fn charts_name_their_groups_and_need_points() {
        assert_eq!(chart("t", "epoch", &[line(0, "a", &[])]), None);
        let many: Vec<_> = (0..1000).map(|i| (f64::from(i), 1.0, 0.0)).collect();
        let svg =
            chart("m & n", "epoch", &[line(0, "a<b", &many), line(1, "c", &[(5.0, 0.5, 0.0)])]).unwrap();
        assert!(svg.contains("m &amp; n") && svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        assert!(svg.contains(color(0)) && svg.contains(color(1)));
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.matches('L').count() <= POINTS);
        assert!(!svg.contains("polygon"), "no line is a mean");
    }

    #[test]
    fn bands_are_one_deviation_to_each_side() {
        let svg = chart("t", "epoch", &[line(0, "a", &[(1.0, 5.0, 1.0), (2.0, 6.0, 2.0)])]).unwrap();
        let band = svg.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
        let corners: Vec<(f64, f64)> = band
            .split_whitespace()
            .map(|p| p.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        let [(x0, upper0), (x1, upper1), (x2, lower1), (x3, lower0)] = corners[..] else { panic!("{band}") };
        assert!(x0 == x3 && x1 == x2 && x0 < x1, "{band}");
        // 6 and 4, 8 and 4: the upper edge of the first is halfway up the second's.
        assert!((lower0 - lower1).abs() < 0.11 && upper1 < upper0, "{band}");
        assert!(((lower1 - upper1) / (lower0 - upper0) - 2.0).abs() < 0.01, "{band}");
        assert!(svg.contains("a: 6 ± 2 at epoch 2"), "{svg}");
    }
}
