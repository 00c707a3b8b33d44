//! The page's tables: groups at a glance, IoU of each class, settings that differ. Knows groups, not how
//! tables are drawn.

use super::chart::number;
use super::group::{Group, twins};
use super::run::{NETWORKS, Run, Validation};
use super::stats::Sample;
use super::table::{Cell, NONE, Table};
use crate::Result;
use crate::config::RunConfig;
use crate::config::flatten;
use std::collections::{BTreeMap, BTreeSet};

/// A share in percent.
fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// Shares of a group's runs in percent.
fn percents(group: &Group<'_>, sample: Option<Sample>) -> Cell {
    Cell::mean(sample, group.runs.len(), percent)
}

/// A score of a network in a validation.
type Score = fn(&Validation, &str) -> Option<f64>;

fn miou(validation: &Validation, network: &str) -> Option<f64> {
    validation.miou.get(network).copied()?
}

fn pixel_accuracy(validation: &Validation, network: &str) -> Option<f64> {
    validation.pixel_accuracy.get(network).copied()?
}

/// Groups at a glance.
pub(super) fn overview(groups: &[Group<'_>]) -> Table {
    let mut table = Table::new(groups, 0);
    let mut row = |name: &str, cell: &dyn Fn(&Group<'_>) -> Cell| table.row(name, groups.iter().map(cell));
    let means = groups.iter().any(Group::is_mean);
    if means {
        row("runs", &ended);
    }
    for network in NETWORKS {
        let best = |run: &Run| run.best(network);
        if groups.iter().flat_map(|g| &g.runs).all(|run| best(run).is_none()) {
            continue;
        }
        row(&format!("mIoU % of {}: last", title(network)), &|group| {
            percents(group, group.last(|v| miou(v, network)))
        });
        let epoch = if groups.iter().all(Group::is_mean) { "" } else { " (epoch)" };
        row(&format!("mIoU % of {}: best{epoch}", title(network)), &|group| match group.runs[..] {
            [run] => match best(run) {
                Some((miou, epoch)) => format!("{} ({epoch})", percent(miou)).into(),
                None => Cell::none(),
            },
            _ => percents(group, Sample::of(group.counted().filter_map(|run| Some(best(run)?.0)))),
        });
    }
    for network in networks(groups) {
        row(&format!("pixel accuracy % of {}: last", title(network)), &|group| {
            percents(group, group.last(|v| pixel_accuracy(v, network)))
        });
    }
    row("epochs", &|group| {
        let done = || group.runs.iter().map(|run| run.epochs.last().map_or(0, |e| e.epoch));
        let (least, most) = (done().min().unwrap_or(0), done().max().unwrap_or(0));
        let done = if least == most { most.to_string() } else { format!("{least} to {most}") };
        format!("{done} of {}", group.runs[0].planned_epochs()).into()
    });
    row(if means { "time, mean of runs that ended" } else { "time" }, &|group| {
        Sample::of(group.counted().map(Run::seconds)).map_or(Cell::none(), |s| duration(s.mean).into())
    });
    row("images a second, last epoch", &|group| {
        let rates = group.counted().filter_map(|run| run.epochs.last()?.images_per_second);
        Sample::of(rates).map_or(Cell::none(), |s| number(s.mean).into())
    });
    row("peak memory of the process, MiB", &|group| {
        let epochs = group.runs.iter().flat_map(|run| &run.epochs);
        epochs.filter_map(|e| e.memory_mib).max().map_or(Cell::none(), |v| v.to_string().into())
    });
    let values = |group: &Group<'_>, key: &str| match group.values(key) {
        values if values.is_empty() => Cell::none(),
        values => values.join(", ").into(),
    };
    row("algorithm", &|group| values(group, "method.algorithm"));
    row("network", &|group| values(group, "model.name"));
    row("data set", &|group| {
        let preset = values(group, "data.preset");
        if preset == Cell::none() { "folder".to_string().into() } else { preset }
    });
    row("labelled + unlabelled images", &|group| match group.start() {
        Some(start) => format!("{} + {}", start.labeled, start.unlabeled).into(),
        None => Cell::none(),
    });
    row("labelled list", &|group| {
        let known = group.runs.iter().find(|run| run.start.is_some());
        known.unwrap_or(&group.runs[0]).protocol().into()
    });
    row(if means { "seeds" } else { "seed" }, &seeds);
    row(if means { "folders" } else { "folder" }, &|group| {
        group.runs.iter().map(|r| r.folder.display().to_string()).collect::<Vec<_>>().join(", ").into()
    });
    table
}

/// How many of its runs ended.
fn ended(group: &Group<'_>) -> Cell {
    let (ended, all) = (group.ended(), group.runs.len());
    format!("{ended} of {all} {} ended", if all == 1 { "run" } else { "runs" }).into()
}

fn seeds(group: &Group<'_>) -> Cell {
    group.runs.iter().map(|run| run.seed().to_string()).collect::<Vec<_>>().join(", ").into()
}

/// Networks of which some group has a last validation.
fn networks(groups: &[Group<'_>]) -> impl Iterator<Item = &'static str> {
    NETWORKS.into_iter().filter(|network| groups.iter().any(|group| group.has(network)))
}

/// Last mIoU and pixel accuracy of each network, as documents show them.
pub(super) fn scores(groups: &[Group<'_>]) -> Vec<(&'static str, Table)> {
    let table = |score: Score| {
        let mut table = Table::new(groups, 0);
        table.row("runs", groups.iter().map(ended));
        table.row("seeds", groups.iter().map(seeds));
        for network in networks(groups) {
            let cells = groups.iter().map(|g| percents(g, g.last(|v| score(v, network))));
            table.row(title(network), cells);
        }
        table
    };
    vec![
        ("mIoU % of the last validation", table(miou)),
        ("Pixel accuracy % of the last validation", table(pixel_accuracy)),
    ]
}

/// Sentences that say what columns and numbers are.
pub(super) fn notes(groups: &[Group<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    if groups.iter().any(Group::is_mean) {
        notes.push(
            "Runs that differ in the seed alone share a column. Its scores are mean ± sample standard deviation of the runs that \
             ended; n is their number where it is not that of all its runs."
                .into(),
        );
    }
    for (a, b) in twins(groups) {
        notes.push(format!(
            "{a} and {b} have the same settings and a seed in common, so their runs are not counted together."
        ));
    }
    notes
}

/// Sentences that stand between groups and a comparison of their numbers.
pub(super) fn warnings(groups: &[Group<'_>]) -> Vec<String> {
    let mut warnings = Vec::new();
    let starts = || groups.iter().filter_map(Group::start);
    let families: BTreeSet<String> = starts().filter_map(|s| Some(s.voc_family?.to_string())).collect();
    if families.len() > 1 {
        warnings.push(format!(
            "The runs' labelled lists are of different families of VOC lists: {}. The same method differs by 2 to 3 points of \
             mIoU between them, so these numbers must not be compared.",
            families.into_iter().collect::<Vec<_>>().join("; ")
        ));
    }
    // A run that has just begun says nothing of its number of images yet.
    let sizes: BTreeSet<usize> = starts().map(|s| s.val).collect();
    let validated = |group: &Group<'_>| {
        ["data.preset", "data.dir", "data.val", "data.num_classes"]
            .map(|key| group.runs[0].keys.get(key).cloned())
    };
    if sizes.len() > 1 || groups.windows(2).any(|pair| validated(&pair[0]) != validated(&pair[1])) {
        warnings.push(
            "The runs were validated on different images or classes, so their mIoU cannot be compared."
                .into(),
        );
    }
    warnings
}

/// IoU of each class in the last validations of each group's main network, and the difference to the first
/// group's.
pub(super) fn classes(groups: &[Group<'_>]) -> Option<Table> {
    let of = |group: &Group<'_>, class: usize| {
        let network = group.main_network();
        group.last(|v| v.iou.get(network)?.get(class).copied()?)
    };
    let count = |group: &Group<'_>| {
        let network = group.main_network();
        group.counted().filter_map(|run| Some(run.last()?.iou.get(network)?.len())).max()
    };
    let classes = groups.iter().filter_map(count).max().filter(|&n| n > 0)?;
    let mut table = Table::new(groups, 0);
    table.corner = "class";
    table.row(
        "of",
        groups.iter().map(|group| match group.counted().find_map(Run::last) {
            Some(last) => format!("{}, epoch {}", title(group.main_network()), last.epoch).into(),
            None => Cell::none(),
        }),
    );
    let palette = groups[0].runs[0].palette();
    for class in 0..classes {
        let samples: Vec<Option<Sample>> = groups.iter().map(|group| of(group, class)).collect();
        let best = samples.iter().flatten().map(|s| s.mean).max_by(f64::total_cmp);
        let cell = |(i, group): (usize, &Group<'_>)| {
            let mut cell = percents(group, samples[i]);
            let Some(sample) = samples[i] else { return cell };
            cell.bold = groups.len() > 1 && Some(sample.mean) == best;
            match samples[0].filter(|_| i > 0) {
                Some(first) => cell.note(format!("{:+.1}", 100.0 * (sample.mean - first.mean))),
                None => cell,
            }
        };
        let name = palette.names.get(class).map_or(class.to_string(), ToString::to_string);
        table.row(name, groups.iter().enumerate().map(cell));
    }
    Some(table)
}

/// Settings in which groups differ; of one group, those that differ from the defaults.
///
/// # Errors
/// A configuration that TOML cannot hold.
pub(super) fn settings(groups: &[Group<'_>]) -> Result<Option<Table>> {
    let defaults: BTreeMap<String, String> = flatten(&RunConfig::default())?;
    let keys: BTreeSet<&String> =
        groups.iter().flat_map(|g| &g.runs).flat_map(|run| run.keys.keys()).chain(defaults.keys()).collect();
    let mut table = Table::new(groups, 0);
    (table.corner, table.numbers) = ("key", false);
    for key in keys {
        let values: Vec<Vec<&str>> = groups.iter().map(|group| group.values(key)).collect();
        let sets = values.iter().map(|v| v.iter().copied().collect::<BTreeSet<_>>());
        let mut sets: Vec<BTreeSet<&str>> = sets.collect();
        if let [_] = groups {
            sets.push(defaults.get(key).map(String::as_str).into_iter().collect());
        }
        if sets.iter().all(|set| *set == sets[0]) {
            continue;
        }
        let text = |v: &Vec<&str>| if v.is_empty() { NONE.to_string() } else { v.join(", ") };
        table.row(key.as_str(), values.iter().map(|v| text(v).into()));
    }
    Ok((!table.is_empty()).then_some(table))
}

/// A network in words.
pub(super) fn title(network: &str) -> &str {
    match network {
        "teacher1" => "teacher 1",
        "teacher2" => "teacher 2",
        other => other,
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::group;
    use super::super::testing::{Made, Scores, runs};
    use super::*;

    #[test]
    fn durations_have_two_units() {
        assert_eq!([8.6, 61.0, 7260.0].map(duration), ["9 s", "1 min 1 s", "2 h 1 min"]);
    }

    /// Two seeds of the method and one of it on a faster schedule, all with numbers that are easy to follow.
    fn made<'a>(scores: &'a [&'a [Scores<'a>]; 3]) -> [Made<'a>; 3] {
        let other = "[optim]\nlr = 0.5\n";
        [
            Made { name: "m-1", seed: 1, scores: scores[0], ..Made::default() },
            Made { name: "m-2", seed: 2, scores: scores[1], ..Made::default() },
            Made { name: "fast-1", seed: 1, scores: scores[2], config: other, ..Made::default() },
        ]
    }

    #[test]
    fn cells_are_means_of_runs() {
        let dir = tempfile::tempdir().unwrap();
        let scores: [&[Scores<'_>]; 3] = [
            &[&[("student", Some(0.5))], &[("student", Some(0.4))]],
            &[&[("student", Some(0.1))], &[("student", Some(0.2))]],
            &[&[("student", Some(0.7))], &[("student", Some(0.25))]],
        ];
        let runs = runs(dir.path(), &made(&scores));
        let groups = group(&runs);
        let html = overview(&groups).html();
        // Last 40 and 20: 30, sqrt(200) = 14.1. Best 50 and 20: 35, sqrt(450) = 21.2.
        for cells in [
            "<th>runs</th><td>2 of 2 runs ended</td><td>1 of 1 run ended</td>".to_string(),
            "student: last</th><td>30.0 ± 14.1</td><td>25.0</td>".to_string(),
            format!(
                "student: best (epoch)</th><td>35.0 ± 21.2</td><td>70.0 ({})</td>",
                runs[0].planned_epochs() - 1
            ),
            "pixel accuracy % of student: last</th><td>30.0 ± 14.1</td><td>25.0</td>".to_string(),
            "<th>time, mean of runs that ended</th><td>3 s</td><td>3 s</td>".to_string(),
            "<th>seeds</th><td>1, 2</td><td>1</td>".to_string(),
            "m <small>2 seeds</small></th>".to_string(),
        ] {
            assert!(html.contains(&cells), "no {cells} in {html}");
        }
        assert!(!html.contains("ensemble"), "{html}");
        let html = classes(&groups).unwrap().html();
        assert!(html.contains("<td><b>30.0 ± 14.1</b></td><td>25.0 <small>-5.0</small></td>"), "{html}");
        let html = settings(&groups).unwrap().unwrap().html();
        assert!(html.contains("<th>optim.lr</th>") && html.contains("<td>1, 2</td><td>1</td>"), "{html}");
        assert_eq!(html.matches("<tr>").count(), 3, "{html}");
        assert_eq!((notes(&groups).len(), warnings(&groups)), (1, Vec::<String>::new()));
    }

    #[test]
    fn unfinished_runs_and_scores_that_are_not_there_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let scores: [&[Scores<'_>]; 3] = [
            &[&[("ensemble", Some(0.5)), ("student", None)]],
            &[&[("ensemble", Some(0.75)), ("student", Some(0.25))]],
            &[&[("ensemble", None)]],
        ];
        let mut all = made(&scores);
        all[2] = Made { name: "m-3", seed: 3, missing: 4, config: "", ..all[2] };
        let runs = runs(dir.path(), &all);
        let groups = group(&runs);
        assert_eq!(groups.len(), 1);
        let html = overview(&groups).html();
        for cells in [
            "<td>2 of 3 runs ended</td>",
            "ensemble: last</th><td>62.5 ± 17.7 <small>n = 2</small></td>",
            "student: last</th><td>25.0 <small>n = 1</small></td>",
        ] {
            assert!(html.contains(cells), "no {cells} in {html}");
        }
        assert!(classes(&groups).unwrap().html().contains("<td>62.5 ± 17.7 <small>n = 2</small></td>"));
        // None has ended: no mean, nor a class.
        let unfinished = [0, 1].map(|i| Made { missing: 2, ..made(&scores).into_iter().nth(i).unwrap() });
        let runs = super::super::testing::runs(dir.path(), &unfinished);
        let groups = group(&runs);
        let html = overview(&groups).html();
        assert!(
            html.contains("<td>0 of 2 runs ended</td>") && html.contains("ensemble: last</th><td>–</td>")
        );
        assert!(classes(&groups).is_none() && pixel_rows(&html) == 0, "{html}");
    }

    fn pixel_rows(html: &str) -> usize {
        html.matches("pixel accuracy").count()
    }
}
