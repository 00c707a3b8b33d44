//! The page: its parts in order, and their style.

use super::curves::{self, charts};
use super::group::Group;
use super::heat::Heat;
use super::html::escape;
use super::markdown::pairs_text;
use super::pictures::{self, Cells};
use super::run::Run;
use super::{pairs, tables, unlabeled};
use crate::Result;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The whole page about `groups` of runs.
///
/// # Errors
/// Those of pictures.
pub(super) fn page(groups: &[Group<'_>]) -> Result<String> {
    let names: Vec<String> = groups.iter().map(|g| escape(&g.label)).collect();
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head><body><main><h1>{0}</h1>\n",
        names.join(", ")
    );
    for warning in tables::warnings(groups) {
        let _ = writeln!(html, "<p class=\"warning\" role=\"alert\">{}</p>", escape(&warning));
    }
    let mut section = |title: &str, body: Option<String>, missing: &str| {
        let body = body.unwrap_or_else(|| format!("<p class=\"missing\">{missing}</p>"));
        let _ = writeln!(html, "<section><h2>{title}</h2>{body}</section>");
    };
    let notes: String = tables::notes(groups).iter().map(|note| format!("<p>{}</p>", escape(note))).collect();
    section("Runs", Some(notes + &tables::overview(groups).html()), "");
    if groups.len() > 1 {
        let text = escape(&pairs_text(groups));
        let pairs = pairs::table(groups).map(|table| format!("<p>{text}</p>{}", table.html()));
        section(
            "Differences paired by seed",
            pairs,
            "No run shares its seed with one of the first column where both have ended.",
        );
    }
    section("mIoU", curves::miou(groups), "No run has been validated yet.");
    section("Training", curves::training(groups), "No run has finished an epoch yet.");
    let missing = match groups.iter().flat_map(|g| &g.runs).any(|run| run.last().is_some()) {
        true => "No run of a column of several has ended yet.",
        false => "No run has been validated yet.",
    };
    section("IoU by class", tables::classes(groups).map(|table| table.html()), missing);
    section("Confidence", confidence(groups)?, "No run has pseudo labels.");
    let crops = unlabeled::gallery(groups)?;
    let pictures = gallery(groups)?.into_iter().chain(crops).reduce(|all, more| all + &more);
    section("Pictures", pictures, "No run has pictures (run.pictures sets how many a validation writes).");
    let title = if groups.len() > 1 { "Settings that differ" } else { "Settings other than the defaults" };
    section(title, tables::settings(groups)?.map(|table| table.html()), "None.");
    html += "</main></body></html>\n";
    Ok(html)
}

/// Confidence of the first run of each group that has any.
fn confidence(groups: &[Group<'_>]) -> Result<Option<String>> {
    let heats = groups.iter().filter_map(|group| {
        let has = |run: &&&Run| run.epochs.iter().any(|e| e.confidence_histogram.is_some());
        let run = group.runs.iter().find(has)?;
        let epochs = || run.epochs.iter().filter_map(|e| Some((e.epoch, e.confidence_histogram.as_deref()?)));
        let bins = epochs().map(|(_, counts)| counts.len()).max().unwrap_or(0);
        let epochs = epochs().filter(|(_, counts)| counts.len() == bins).collect();
        Some(Heat { label: &group.caption(run), epochs, threshold: run.threshold() }.svg())
    });
    let figures = charts(heats.collect::<Result<Vec<_>>>()?.into_iter());
    let several = match groups.iter().any(Group::is_mean) {
        true => " Of runs that share a column, the first.",
        false => "",
    };
    let text = format!(
        "<p>Share of pixels by the ensemble's confidence, epoch by epoch; darker is more. Pixels above the dashed \
         line become pseudo labels.{several}</p>"
    );
    Ok(figures.map(|figures| format!("{text}{figures}")))
}

/// Pictures of the first run of each group that has any.
fn gallery(groups: &[Group<'_>]) -> Result<Option<String>> {
    let mut all: Vec<(String, Vec<Cells>)> = Vec::new();
    for group in groups {
        if let Some(run) = group.runs.iter().find(|run| run.picture.is_some()) {
            let cells = run.picture.as_deref().map_or(Ok(Vec::new()), pictures::read)?;
            all.push((escape(&group.caption(run)), cells));
        }
    }
    let most = all.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let mut html = String::new();
    for number in 0..most {
        for (label, cells) in &all {
            let Some(cell) = cells.get(number) else { continue };
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
