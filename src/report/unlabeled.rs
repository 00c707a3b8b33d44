//! Unlabelled crops on the page, with the pseudo labels of the newest picture of a run.

use super::group::Group;
use super::html::escape;
use super::pictures;
use crate::Result;
use std::fmt::Write;

/// Rows of the newest picture of the first run of each group that has one, with what they show.
///
/// # Errors
/// Those of pictures.
pub(super) fn gallery(groups: &[Group<'_>]) -> Result<Option<String>> {
    let mut html = String::new();
    for group in groups {
        let picture = group.runs.iter().find_map(|run| Some((run, run.unlabeled_picture.as_ref()?)));
        if let Some((run, path)) = picture {
            html += &rows(&group.caption(run), &pictures::read(path)?);
        }
    }
    let text = "<p>Unlabelled crops of the epoch's last batch. The true label is black where none is known, and nothing learns \
                from it; the pseudo label is black where the confidence does not reach the threshold.</p>";
    Ok((!html.is_empty()).then(|| format!("{text}{html}")))
}

/// A heading and a row of figures for each crop of the run `label`.
fn rows(label: &str, crops: &[pictures::Cells]) -> String {
    let label = escape(label);
    let mut html = String::new();
    for (number, crop) in crops.iter().enumerate() {
        let number = number + 1;
        let epoch = escape(&crop.epoch);
        let _ = write!(html, "<h3>{label}, unlabelled crop {number}, epoch {epoch}</h3><div class=\"row\">");
        for (what, uri) in [
            ("crop", &crop.image),
            ("true label", &crop.truth),
            ("pseudo label", &crop.prediction),
            ("its confidence", &crop.confidence),
        ] {
            let _ = write!(
                html,
                "<figure><img src=\"{uri}\" alt=\"{what} of unlabelled crop {number}, {label}\">\
                 <figcaption>{what}</figcaption></figure>"
            );
        }
        html += "</div>";
    }
    html
}
