//! The page's tables: runs at a glance, IoU of each class, settings that differ. Knows runs, not how they are drawn.

use super::chart::{number, sample};
use super::page::escape;
use super::run::{NETWORKS, Run, flatten};
use crate::Result;
use crate::config::RunConfig;
use crate::eval::Palette;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What is not there.
const NONE: &str = "–";

/// A share in percent.
fn percent(share: Option<f64>) -> String {
    share.map_or(NONE.into(), |v| format!("{:.1}", 100.0 * v))
}

/// Runs' names as columns, each with its line.
fn header(runs: &[Run], first: &str) -> String {
    let mut html = format!("<thead><tr><th>{first}</th>");
    for (i, run) in runs.iter().enumerate() {
        let _ = write!(html, "<th>{}{}</th>", sample(i), escape(&run.label));
    }
    html + "</tr></thead>"
}

/// A table of one column a run; `numbers` are right-aligned.
fn table(runs: &[Run], first: &str, numbers: bool, rows: &[(String, Vec<String>)]) -> String {
    let class = if numbers { " class=\"numbers\"" } else { "" };
    let mut html = format!("<div class=\"scroll\"><table{class}>{}<tbody>", header(runs, first));
    for (name, cells) in rows {
        let _ = write!(html, "<tr><th>{name}</th>");
        for cell in cells {
            let _ = write!(html, "<td>{cell}</td>");
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

/// Runs at a glance.
pub fn overview(runs: &[Run]) -> String {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let mut row = |name: &str, cell: &dyn Fn(&Run) -> String| {
        rows.push((escape(name), runs.iter().map(cell).collect()));
    };
    for network in NETWORKS {
        if runs.iter().all(|run| run.best(network).is_none()) {
            continue;
        }
        row(&format!("mIoU % of {}: last", title(network)), &|run| {
            percent(run.last().and_then(|v| v.miou.get(network).copied().flatten()))
        });
        row(&format!("mIoU % of {}: best (epoch)", title(network)), &|run| match run.best(network) {
            Some((miou, epoch)) => format!("{} ({epoch})", percent(Some(miou))),
            None => NONE.into(),
        });
    }
    row("pixel accuracy %, last", &|run| {
        percent(run.last().and_then(|v| v.pixel_accuracy.get(run.main_network()).copied().flatten()))
    });
    row("epochs", &|run| {
        format!("{} of {}", run.epochs.last().map_or(0, |e| e.epoch), run.config.schedule.train_epochs)
    });
    row("time", &|run| {
        let seconds = run.epochs.iter().filter_map(|e| e.seconds);
        duration(seconds.chain(run.validations.iter().filter_map(|v| v.seconds)).sum())
    });
    row("images a second, last epoch", &|run| {
        run.epochs.last().and_then(|e| e.images_per_second).map_or(NONE.into(), number)
    });
    row("peak memory of the process, MiB", &|run| {
        run.epochs.iter().filter_map(|e| e.memory_mib).max().map_or(NONE.into(), |v| v.to_string())
    });
    let key = |run: &Run, key: &str| run.keys.get(key).map_or(NONE.into(), |v| escape(v));
    row("algorithm", &|run| key(run, "method.algorithm"));
    row("network", &|run| key(run, "model.name"));
    row("data set", &|run| run.keys.get("data.preset").map_or("folder".into(), |v| escape(v)));
    row("labelled + unlabelled images", &|run| match &run.start {
        Some(start) => format!("{} + {}", start.labeled, start.unlabeled),
        None => NONE.into(),
    });
    row("labelled list", &|run| escape(&run.protocol()));
    row("seed", &|run| key(run, "schedule.seed"));
    row("folder", &|run| escape(&run.folder.display().to_string()));
    table(runs, "", true, &rows)
}

/// Sentences that stand between runs and a comparison of their numbers.
pub fn warnings(runs: &[Run]) -> Vec<String> {
    let mut warnings = Vec::new();
    let families: BTreeSet<String> =
        runs.iter().filter_map(|r| Some(r.start.as_ref()?.voc_family?.to_string())).collect();
    if families.len() > 1 {
        warnings.push(format!(
            "The runs' labelled lists are of different families of VOC lists: {}. The same method differs by 2 to 3 points of \
             mIoU between them, so these numbers must not be compared.",
            families.into_iter().collect::<Vec<_>>().join("; ")
        ));
    }
    let validated = |run: &Run| {
        let of = |key: &str| run.keys.get(key).cloned().unwrap_or_default();
        (
            ["data.preset", "data.dir", "data.val", "data.num_classes"].map(of),
            run.start.as_ref().map(|s| s.val),
        )
    };
    if runs.windows(2).any(|pair| validated(&pair[0]) != validated(&pair[1])) {
        warnings.push(
            "The runs were validated on different images or classes, so their mIoU cannot be compared."
                .into(),
        );
    }
    warnings
}

/// IoU of each class in the last validation of each run's main network, and the difference to the first run's.
pub fn classes(runs: &[Run]) -> Option<String> {
    let ious: Vec<&[Option<f64>]> = runs
        .iter()
        .map(|run| run.last().and_then(|v| v.iou.get(run.main_network())).map_or(&[][..], Vec::as_slice))
        .collect();
    let classes = ious.iter().map(|iou| iou.len()).max().filter(|&n| n > 0)?;
    let of = |run: usize, class: usize| ious[run].get(class).copied().flatten();
    let config = &runs[0].config;
    let palette = Palette::new(config.data.preset, config.data.num_classes);
    let row = |class: usize| {
        let name = palette.names.get(class).map_or(class.to_string(), |n| escape(n));
        let best = (0..runs.len()).filter_map(|run| of(run, class)).max_by(f64::total_cmp);
        let cell = |run: usize| {
            let Some(iou) = of(run, class) else { return NONE.to_string() };
            let text = percent(Some(iou));
            let text = if runs.len() > 1 && Some(iou) == best { format!("<b>{text}</b>") } else { text };
            match of(0, class).filter(|_| run > 0) {
                Some(first) => format!("{text} <small>{:+.1}</small>", 100.0 * (iou - first)),
                None => text,
            }
        };
        (name, (0..runs.len()).map(cell).collect())
    };
    let mut rows: Vec<(String, Vec<String>)> = (0..classes).map(row).collect();
    let networks = runs.iter().map(|run| match run.last() {
        Some(last) => format!("{}, epoch {}", title(run.main_network()), last.epoch),
        None => NONE.into(),
    });
    rows.insert(0, ("of".into(), networks.collect()));
    Some(table(runs, "class", true, &rows))
}

/// Settings in which runs differ; of one run, those that differ from the defaults.
///
/// # Errors
/// A configuration that TOML cannot hold.
pub fn settings(runs: &[Run]) -> Result<Option<String>> {
    let defaults = flatten(&RunConfig::default())?;
    let mut all: Vec<&BTreeMap<String, String>> = runs.iter().map(|r| &r.keys).collect();
    if let [_] = runs {
        all.push(&defaults);
    }
    let keys: BTreeSet<&String> = all.iter().flat_map(|keys| keys.keys()).collect();
    let differs = |key: &&String| all.iter().any(|keys| keys.get(*key) != all[0].get(*key));
    let cell = |run: &Run, key: &String| run.keys.get(key).map_or(NONE.into(), |v| escape(v));
    let rows: Vec<(String, Vec<String>)> = keys
        .into_iter()
        .filter(differs)
        .map(|key| (escape(key), runs.iter().map(|run| cell(run, key)).collect()))
        .collect();
    Ok((!rows.is_empty()).then(|| table(runs, "key", false, &rows)))
}

/// A network in words.
pub fn title(network: &str) -> &str {
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
    use super::*;

    #[test]
    fn durations_have_two_units() {
        assert_eq!([8.6, 61.0, 7260.0].map(duration), ["9 s", "1 min 1 s", "2 h 1 min"]);
    }
}
