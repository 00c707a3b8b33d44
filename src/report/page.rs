//! The page: its parts in order, their style, and what text and pictures need to stand in HTML.

use super::chart::{Line, chart};
use super::heat::Heat;
use super::pictures::{self, Cells};
use super::run::{Epoch, NETWORKS, Run, Step, Validation};
use super::{tables, unlabeled};
use crate::Result;
use crate::method::Algorithm;
use base64::Engine;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// Text as HTML has it, in elements and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// A file within the page.
pub fn data_uri(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// The whole page about `runs`.
///
/// # Errors
/// Those of pictures.
pub fn page(runs: &[Run]) -> Result<String> {
    let names: Vec<String> = runs.iter().map(|r| escape(&r.label)).collect();
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head><body><main><h1>{0}</h1>\n",
        names.join(", ")
    );
    for warning in tables::warnings(runs) {
        let _ = writeln!(html, "<p class=\"warning\" role=\"alert\">{}</p>", escape(&warning));
    }
    let mut section = |title: &str, body: Option<String>, missing: &str| {
        let body = body.unwrap_or_else(|| format!("<p class=\"missing\">{missing}</p>"));
        let _ = writeln!(html, "<section><h2>{title}</h2>{body}</section>");
    };
    section("Runs", Some(tables::overview(runs)), "");
    section("mIoU", miou_charts(runs), "No run has been validated yet.");
    section("Training", training_charts(runs), "No run has finished an epoch yet.");
    section("IoU by class", tables::classes(runs), "No run has been validated yet.");
    section("Confidence", confidence(runs)?, "No run has pseudo labels.");
    let pictures =
        gallery(runs)?.into_iter().chain(unlabeled::gallery(runs)?).reduce(|all, more| all + &more);
    section("Pictures", pictures, "No run has pictures (run.pictures sets how many a validation writes).");
    let title = if runs.len() > 1 { "Settings that differ" } else { "Settings other than the defaults" };
    section(title, tables::settings(runs)?, "None.");
    html += "</main></body></html>\n";
    Ok(html)
}

/// A line a run of what `points` finds in it.
fn lines<'a>(runs: &'a [Run], points: impl Fn(&Run) -> Vec<(f64, f64)>) -> Vec<Line<'a>> {
    let line = |(run, r): (usize, &'a Run)| Line { run, label: &r.label, points: points(r) };
    runs.iter().enumerate().map(line).collect()
}

fn charts(charts: impl Iterator<Item = Option<String>>) -> Option<String> {
    let charts: String = charts.flatten().collect();
    (!charts.is_empty()).then(|| format!("<div class=\"charts\">{charts}</div>"))
}

fn miou_charts(runs: &[Run]) -> Option<String> {
    charts(NETWORKS.iter().map(|network| {
        let points = |run: &Run| {
            let of = |v: &Validation| Some((v.epoch as f64, 100.0 * v.miou.get(*network).copied()??));
            run.validations.iter().filter_map(of).collect()
        };
        chart(&format!("mIoU %, {}", tables::title(network)), "epoch", &lines(runs, points))
    }))
}

fn training_charts(runs: &[Run]) -> Option<String> {
    // A run without unlabelled images records zeros of what it does not have.
    let semi = |run: &Run, v: Option<f64>| v.filter(|_| run.config.method.algorithm != Algorithm::Supervised);
    let epoch = |title: &str, of: &dyn Fn(&Run, &Epoch) -> Option<f64>| {
        let points =
            |run: &Run| run.epochs.iter().filter_map(|e| Some((e.epoch as f64, of(run, e)?))).collect();
        chart(title, "epoch", &lines(runs, points))
    };
    let step = |title: &str, of: &dyn Fn(&Run, &Step) -> Option<f64>| {
        let points =
            |run: &Run| run.steps.iter().filter_map(|s| Some((s.step as f64, of(run, s)?))).collect();
        chart(title, "step", &lines(runs, points))
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

fn confidence(runs: &[Run]) -> Result<Option<String>> {
    let heats = runs.iter().map(|run| {
        let epochs = || run.epochs.iter().filter_map(|e| Some((e.epoch, e.confidence_histogram.as_deref()?)));
        let bins = epochs().map(|(_, counts)| counts.len()).max().unwrap_or(0);
        let epochs = epochs().filter(|(_, counts)| counts.len() == bins).collect();
        Heat { label: &run.label, epochs, threshold: run.config.method.threshold }.svg()
    });
    let figures = charts(heats.collect::<Result<Vec<_>>>()?.into_iter());
    let text = "<p>Share of pixels by the ensemble's confidence, epoch by epoch; darker is more. Pixels above the dashed \
                line become pseudo labels.</p>";
    Ok(figures.map(|figures| format!("{text}{figures}")))
}

fn gallery(runs: &[Run]) -> Result<Option<String>> {
    let cells = |run: &Run| run.picture.as_deref().map_or(Ok(Vec::new()), pictures::read);
    let runs: Vec<(&Run, Vec<Cells>)> =
        runs.iter().map(|run| Ok((run, cells(run)?))).collect::<Result<_>>()?;
    let most = runs.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let mut html = String::new();
    for number in 0..most {
        for (run, cells) in &runs {
            let Some(cell) = cells.get(number) else { continue };
            let label = escape(&run.label);
            let _ = write!(
                html,
                "<h3>{label}, image {}, epoch {}</h3><div class=\"row\">",
                number + 1,
                escape(&cell.epoch)
            );
            let pictures = [
                ("image", &cell.image),
                ("truth", &cell.truth),
                ("prediction", &cell.prediction),
                ("overlay", &cell.overlay),
                ("confidence", &cell.confidence),
            ];
            for (what, uri) in pictures {
                let _ = write!(
                    html,
                    "<figure><img src=\"{uri}\" alt=\"{what} of image {}, {label}\"><figcaption>{what}</figcaption></figure>",
                    number + 1
                );
            }
            html += "</div>";
        }
    }
    Ok((!html.is_empty()).then_some(html))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_given_becomes_markup() {
        assert_eq!(escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
        assert_eq!(data_uri("image/png", &[0, 255, 16]), "data:image/png;base64,AP8Q");
    }
}
