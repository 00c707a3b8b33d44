//! The numbers of the page as Markdown, for documents. Knows tables, not what is in them.

use super::group::Group;
use super::table::plain;
use super::{pairs, tables};
use std::fmt::Write;

/// Last mIoU and pixel accuracy of each network and the paired differences, one row per group.
pub(super) fn document(groups: &[Group<'_>]) -> String {
    let mut text = String::new();
    for warning in tables::warnings(groups) {
        let _ = writeln!(text, "> **{}**\n", plain(&warning));
    }
    for note in tables::notes(groups) {
        let _ = writeln!(text, "{}\n", plain(&note));
    }
    for (name, table) in tables::scores(groups) {
        let _ = writeln!(text, "{name}:\n\n{}", table.markdown());
    }
    if let Some(table) = pairs::table(groups) {
        let _ = writeln!(text, "{}\n\n{}", plain(&pairs_text(groups)), table.markdown());
    }
    // One line break at the end.
    format!("{}\n", text.trim_end())
}

/// What the numbers of paired differences are.
pub(super) fn pairs_text(groups: &[Group<'_>]) -> String {
    let first = groups.first().map_or("", |group| &group.label);
    format!(
        "Last mIoU in points minus that of {first} with the same seed: mean over the pairs ± standard error of the mean. \
         Networks: the group's own − that of {first}."
    )
}
