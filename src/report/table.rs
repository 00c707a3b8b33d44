//! Tables of one column per group, as HTML and, turned so that groups are rows, as Markdown. Knows text, not
//! what it says.

use super::chart::sample;
use super::group::Group;
use super::html::escape;
use super::stats::Sample;
use std::fmt::Write;

/// Stands for what is not there.
pub(super) const NONE: &str = "–";

/// What stands in a table: text, and short remarks after it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell {
    /// The text, without markup.
    pub text: String,
    /// Remarks, drawn smaller.
    pub notes: Vec<String>,
    /// Drawn bold.
    pub bold: bool,
}

impl Cell {
    /// The cell of what is not there.
    pub fn none() -> Cell {
        NONE.to_string().into()
    }

    /// With a remark more.
    pub fn note(mut self, note: impl Into<String>) -> Cell {
        self.notes.push(note.into());
        self
    }

    /// The mean of `sample`, as `text` writes it, with the deviation where there are several values. Says the
    /// number of values where it is not `expected`, the number of runs.
    pub fn mean(sample: Option<Sample>, expected: usize, text: impl Fn(f64) -> String) -> Cell {
        let Some(sample) = sample else { return Cell::none() };
        let cell = Cell::from(match sample.deviation {
            Some(deviation) => format!("{} ± {}", text(sample.mean), text(deviation)),
            None => text(sample.mean),
        });
        if sample.n == expected { cell } else { cell.note(format!("n = {}", sample.n)) }
    }

    fn html(&self) -> String {
        let text = escape(&self.text);
        let mut html = if self.bold { format!("<b>{text}</b>") } else { text };
        for note in &self.notes {
            let _ = write!(html, " <small>{}</small>", escape(note));
        }
        html
    }

    fn markdown(&self) -> String {
        let text = plain(&self.text);
        let text = if self.bold { format!("**{text}**") } else { text };
        match self.notes.is_empty() {
            true => text,
            false => format!("{text} ({})", plain(&self.notes.join(", "))),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, ..Cell::default() }
    }
}

/// A table with one column per group.
pub(super) struct Table {
    /// What stands over the names of the rows.
    pub corner: &'static str,
    /// Whether cells are numbers, which stand to the right.
    pub numbers: bool,
    columns: Vec<Column>,
    rows: Vec<(String, Vec<Cell>)>,
}

struct Column {
    /// Number of the group, for its colour.
    group: usize,
    label: String,
    runs: usize,
}

impl Table {
    /// A table without rows, of the groups from number `from` on.
    pub fn new(groups: &[Group<'_>], from: usize) -> Table {
        let column =
            |(group, g): (usize, &Group<'_>)| Column { group, label: g.label.clone(), runs: g.runs.len() };
        let columns = groups.iter().enumerate().skip(from).map(column).collect();
        Table { corner: "", numbers: true, columns, rows: Vec::new() }
    }

    /// Adds a row, with one cell per column.
    pub fn row(&mut self, name: impl Into<String>, cells: impl Iterator<Item = Cell>) {
        self.rows.push((name.into(), cells.collect()));
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table with a column per group, each with its line.
    pub fn html(&self) -> String {
        let class = if self.numbers { " class=\"numbers\"" } else { "" };
        let mut html =
            format!("<div class=\"scroll\"><table{class}><thead><tr><th>{}</th>", escape(self.corner));
        for Column { group, label, runs } in &self.columns {
            let _ = write!(html, "<th>{}{}", sample(*group), escape(label));
            if *runs > 1 {
                let _ = write!(html, " <small>{runs} seeds</small>");
            }
            html += "</th>";
        }
        html += "</tr></thead><tbody>";
        for (name, cells) in &self.rows {
            let _ = write!(html, "<tr><th>{}</th>", escape(name));
            for cell in cells {
                let _ = write!(html, "<td>{}</td>", cell.html());
            }
            html += "</tr>";
        }
        html + "</tbody></table></div>"
    }

    /// The table with a row per group, which documents have more room for.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| ");
        if !self.corner.is_empty() {
            let _ = write!(text, "{} ", plain(self.corner));
        }
        for (name, _) in &self.rows {
            let _ = write!(text, "| {} ", plain(name));
        }
        text += "|\n| --- ";
        text += &(if self.numbers { "| ---: " } else { "| --- " }).repeat(self.rows.len());
        text += "|\n";
        for (i, column) in self.columns.iter().enumerate() {
            let _ = write!(text, "| {} ", plain(&column.label));
            for (_, cells) in &self.rows {
                let _ = write!(text, "| {} ", cells.get(i).unwrap_or(&Cell::none()).markdown());
            }
            text += "|\n";
        }
        text
    }
}

/// Text as Markdown has it, in tables too.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '|' | '<' | '>' | '&' | '*' | '_' | '[' | ']' | '`' | '#' | '~' | '$' => {
                out.extend(['\\', c]);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_say_what_they_are_of() {
        let text = |v: f64| format!("{v:.1}");
        let cell = |values: &[f64], expected| Cell::mean(Sample::of(values.iter().copied()), expected, text);
        assert_eq!(cell(&[], 3), Cell::none());
        assert_eq!(cell(&[2.0], 1), "2.0".to_string().into());
        assert_eq!(cell(&[2.0], 3), Cell::from("2.0".to_string()).note("n = 1"));
        assert_eq!(cell(&[1.0, 2.0, 3.0], 3), "2.0 ± 1.0".to_string().into());
    }

    #[test]
    fn markdown_has_groups_as_rows_and_no_markup_of_names() {
        let mut table = Table { corner: "", numbers: true, columns: Vec::new(), rows: Vec::new() };
        for (group, label) in ["a|b", "<c>"].into_iter().enumerate() {
            table.columns.push(Column { group, label: label.into(), runs: 1 + group });
        }
        table.row(
            "m_x",
            [Cell::from("1".to_string()).note("n = 2"), Cell { bold: true, ..Cell::none() }].into_iter(),
        );
        assert_eq!(
            table.markdown(),
            "| | m\\_x |\n| --- | ---: |\n| a\\|b | 1 (n = 2) |\n| \\<c\\> | **–** |\n"
        );
        let html = table.html();
        assert!(html.contains("&lt;c&gt; <small>2 seeds</small>") && !html.contains("1 seeds"), "{html}");
        assert!(html.contains("<td>1 <small>n = 2</small></td><td><b>–</b></td>"), "{html}");
    }
}
