//! Curves of groups: of one run its own, of several their mean with the deviation around it. Knows runs, not
//! how lines are drawn.

use super::chart::{Line, Point, chart};
use super::group::Group;
use super::run::{Epoch, NETWORKS, Run, Step, Validation};
use super::stats::Sample;
use super::tables::title;
use std::collections::BTreeMap;

/// Charts that are there, next to each other.
pub(super) fn charts(charts: impl Iterator<Item = Option<String>>) -> Option<String> {
    let charts: String = charts.flatten().collect();
    (!charts.is_empty()).then(|| format!("<div class=\"charts\">{charts}</div>"))
}

/// mIoU of each network by epoch.
pub(super) fn miou(groups: &[Group<'_>]) -> Option<String> {
    charts(NETWORKS.iter().map(|network| {
        let points = |run: &Run| {
            let of = |v: &Validation| Some((v.epoch, 100.0 * v.miou.get(*network).copied()??));
            run.validations.iter().filter_map(of).collect()
        };
        chart(&format!("mIoU %, {}", title(network)), "epoch", &lines(groups, points))
    }))
}

/// What runs recorded while they trained, by epoch and by step.
pub(super) fn training(groups: &[Group<'_>]) -> Option<String> {
    let semi = |run: &Run, v: Option<f64>| v.filter(|_| run.uses_unlabeled());
    let epoch = |title: &str, of: &dyn Fn(&Run, &Epoch) -> Option<f64>| {
        let points = |run: &Run| run.epochs.iter().filter_map(|e| Some((e.epoch, of(run, e)?))).collect();
        chart(title, "epoch", &lines(groups, points))
    };
    let step = |title: &str, of: &dyn Fn(&Run, &Step) -> Option<f64>| {
        let points = |run: &Run| run.steps.iter().filter_map(|s| Some((s.step, of(run, s)?))).collect();
        chart(title, "step", &lines(groups, points))
    };
    let all = [
        epoch("supervised loss", &|_, e| e.loss_sup),
        epoch("unsupervised loss, weighted", &|run, e| semi(run, e.loss_unsup)),
        epoch("pixels that pass the threshold, %", &|_, e| Some(100.0 * e.pass_rate?)),
        epoch("student agrees with pseudo labels, %", &|_, e| Some(100.0 * e.pseudo_agreement?)),
        epoch("mIoU of pseudo labels that pass, %", &|_, e| Some(100.0 * e.pseudo_label_miou?)),
        epoch("pseudo labels that pass and are right, %", &|_, e| Some(100.0 * e.pseudo_label_accuracy?)),
        epoch("images a second", &|_, e| e.images_per_second),
        step("learning rate", &|_, s| s.lr),
        step("weight of the unsupervised loss", &|run, s| semi(run, s.unsup_weight)),
    ];
    charts(all.into_iter())
}

/// One line per group of what `points` finds in its runs.
fn lines(groups: &[Group<'_>], points: impl Fn(&Run) -> Vec<(u64, f64)>) -> Vec<Line> {
    let line = |(number, group): (usize, &Group<'_>)| {
        let runs: Vec<BTreeMap<u64, f64>> = group
            .runs
            .iter()
            .map(|run| points(run).into_iter().collect::<BTreeMap<_, _>>())
            .filter(|points| !points.is_empty())
            .collect();
        let all = group.runs.len();
        let label = match runs.len() {
            _ if all == 1 => group.label.clone(),
            n if n == all => format!("{}, mean of {n} runs", group.label),
            n => format!("{}, mean of {n} of {all} runs", group.label),
        };
        Line { group: number, label, points: mean(&runs) }
    };
    groups.iter().enumerate().map(line).collect()
}

/// The mean of `runs`, values by epoch or step, wherever all have a value: with fewer, a curve would jump
/// where a run ends.
fn mean(runs: &[BTreeMap<u64, f64>]) -> Vec<Point> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    let point = |(x, value): (&u64, &f64)| {
        let others = others.iter().map(|run| run.get(x).copied()).collect::<Option<Vec<_>>>()?;
        let sample = Sample::of(others.into_iter().chain([*value])).filter(|s| s.n == runs.len())?;
        Some(Point { x: *x as f64, y: sample.mean, deviation: sample.deviation.unwrap_or(0.0) })
    };
    first.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_where_all_runs_have_a_value() {
        let run = |points: &[(u64, f64)]| points.iter().copied().collect::<BTreeMap<_, _>>();
        let (a, b) = (run(&[(1, 1.0), (2, 2.0), (3, 3.0)]), run(&[(1, 3.0), (3, 9.0), (4, 0.0)]));
        let point = |x, y, deviation: f64| Point { x, y, deviation };
        assert_eq!(mean(&[a.clone(), b]), [point(1.0, 2.0, 2f64.sqrt()), point(3.0, 6.0, 18f64.sqrt())]);
        assert_eq!(mean(&[a])[1], point(2.0, 2.0, 0.0));
        assert_eq!(mean(&[]), []);
    }
}
