//! Runs that differ in the seed alone, as one column of the page. Knows runs and names of folders, not how
//! they are drawn.

use super::run::{NETWORKS, Run, Start, Validation, distinct};
use super::stats::Sample;
use std::path::Path;

/// Keys in which runs of one group may differ: the seed, and what changes neither training nor validation.
/// `run.val_every` is not one of them, as the best validation is one of those that were made.
pub(super) const MAY_DIFFER: [&str; 5] =
    ["schedule.seed", "run.checkpoint_every", "run.log_every", "run.pictures", "run.tensorboard"];

/// What stands between the parts of a folder's name.
const SEPARATORS: [char; 5] = ['-', '_', '.', '=', ' '];

/// Runs of the same settings and numbers of images, each with another seed.
pub(super) struct Group<'a> {
    /// Its name on the page: what the names of its folders have in common.
    pub label: String,
    /// Its runs in the order in which they were given; at least one.
    pub runs: Vec<&'a Run>,
}

/// Puts runs into groups, which are in the order of their first runs. A run whose seed a group has already is
/// of another group of the same settings, so that no seed counts twice in a mean, and runs of two versions of
/// the program can be compared.
pub(super) fn group(runs: &[Run]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for run in runs {
        let fits = |g: &usize| groups[*g].same_settings(run) && !groups[*g].has_seed(run.seed());
        let fitting: Vec<usize> = (0..groups.len()).filter(fits).collect();
        // Of several, the one whose folders are named alike, else the newest.
        let stem = |run: &Run| run.folder.with_file_name(without_seed(&run.name(), run.seed()));
        let alike = fitting.iter().find(|&&g| stem(groups[g].runs[0]) == stem(run));
        match alike.or(fitting.last()) {
            Some(&g) => groups[g].runs.push(run),
            None => groups.push(Group { label: String::new(), runs: vec![run] }),
        }
    }
    let names: Vec<(String, String)> = groups.iter().map(|g| names(&g.runs)).collect();
    groups.iter_mut().zip(distinct(&names)).for_each(|(group, label)| group.label = label);
    groups
}

impl<'a> Group<'a> {
    fn same_settings(&self, run: &Run) -> bool {
        fn decides(run: &Run) -> impl Iterator<Item = (&String, &String)> {
            run.keys.iter().filter(|(key, _)| !MAY_DIFFER.contains(&key.as_str()))
        }
        // A run that has not written its first record has no numbers yet that could be of other images.
        let known = |run: &'a Run| (!run.is_empty()).then_some(&run.start);
        let same_images = match self.runs.iter().find_map(|r| known(r)) {
            Some(start) => run.is_empty() || *start == run.start,
            None => true,
        };
        same_images && decides(self.runs[0]).eq(decides(run))
    }

    fn has_seed(&self, seed: u64) -> bool {
        self.runs.iter().any(|run| run.seed() == seed)
    }

    /// Whether it is of more than one run, so that its numbers are means.
    pub fn is_mean(&self) -> bool {
        self.runs.len() > 1
    }

    /// Names the group and, where it has several runs, the one that a picture is of.
    pub(super) fn caption(&self, run: &Run) -> String {
        match self.is_mean() {
            true => format!("{} (run {}, seed {})", self.label, run.label, run.seed()),
            false => self.label.clone(),
        }
    }

    /// The runs whose numbers stand for it: of several those that ended, which are all at the same epoch; a
    /// single one as far as it is.
    pub fn counted(&self) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().copied().filter(|run| !self.is_mean() || run.ended())
    }

    /// Number of runs that ended.
    pub fn ended(&self) -> usize {
        self.runs.iter().filter(|run| run.ended()).count()
    }

    /// What `of` finds in the last validation of each run that counts.
    pub fn last(&self, of: impl Fn(&Validation) -> Option<f64>) -> Option<Sample> {
        Sample::of(self.counted().filter_map(|run| of(run.last()?)))
    }

    /// Whether a last validation that counts has scores of this network.
    pub fn has(&self, network: &str) -> bool {
        self.counted().any(|run| run.last().is_some_and(|v| v.miou.contains_key(network)))
    }

    /// The network whose scores stand for the group.
    pub fn main_network(&self) -> &'static str {
        NETWORKS.into_iter().find(|network| self.has(network)).unwrap_or(NETWORKS[0])
    }

    /// What its runs said of their data when they began.
    pub fn start(&self) -> Option<&'a Start> {
        self.runs.iter().find_map(|run| run.start.as_ref())
    }

    /// A setting: its value, or those of its runs, each once.
    pub fn values(&self, key: &str) -> Vec<&'a str> {
        let mut values: Vec<&str> = Vec::new();
        for value in self.runs.iter().filter_map(|run| run.keys.get(key)) {
            if !values.contains(&value.as_str()) {
                values.push(value);
            }
        }
        values
    }
}

/// The pairs of groups that have the same settings and share seeds.
pub(super) fn twins<'g>(groups: &'g [Group<'_>]) -> Vec<(&'g str, &'g str)> {
    let mut twins = Vec::new();
    for (i, a) in groups.iter().enumerate() {
        for b in groups[i + 1..].iter().filter(|b| a.same_settings(b.runs[0])) {
            if b.runs.iter().any(|run| a.has_seed(run.seed())) {
                twins.push((a.label.as_str(), b.label.as_str()));
            }
        }
    }
    twins
}

/// A short and a long name of runs: what the names of their folders have in common, and that with the folder
/// around it.
fn names(runs: &[&Run]) -> (String, String) {
    let [first, others @ ..] = runs else { return Default::default() };
    if others.is_empty() {
        return (first.name(), first.folder.display().to_string());
    }
    let stripped: Vec<String> = runs.iter().map(|run| stem(run)).collect();
    let short = match stripped.iter().all(|name| *name == stripped[0]) {
        true => stripped[0].clone(),
        false => common(&stripped).unwrap_or_else(|| format!("{} and {} more", first.name(), others.len())),
    };
    let parent = first.folder.parent().unwrap_or(Path::new(""));
    let together = runs.iter().all(|run| run.folder.parent() == Some(parent));
    let long = if together { parent.join(&short).display().to_string() } else { short.clone() };
    (short, long)
}

/// The folder's name without the seed; of a folder that is named by the seed alone, the name of the folder
/// around it.
fn stem(run: &Run) -> String {
    let name = without_seed(&run.name(), run.seed());
    let around = || Some(run.folder.parent()?.file_name()?.to_string_lossy().into_owned());
    if name.is_empty() { around().unwrap_or_else(|| run.name()) } else { name }
}

/// A name without the last number that is the seed, and without `seed` or `s` before it.
fn without_seed(name: &str, seed: u64) -> String {
    let digits = |c: char| c.is_ascii_digit();
    let mut found = None;
    let mut at = 0;
    while let Some(start) = name[at..].find(digits).map(|i| at + i) {
        let end = name[start..].find(|c: char| !digits(c)).map_or(name.len(), |i| start + i);
        if name[start..end].parse() == Ok(seed) {
            found = Some((start, end));
        }
        at = end;
    }
    let Some((start, end)) = found else { return name.to_string() };
    let mut before = name[..start].trim_end_matches(SEPARATORS);
    for word in ["seed", "s"] {
        if let Some(rest) = before.strip_suffix(word)
            && !rest.ends_with(char::is_alphanumeric)
        {
            before = rest.trim_end_matches(SEPARATORS);
            break;
        }
    }
    let after = name[end..].trim_start_matches(SEPARATORS);
    let between = if before.is_empty() || after.is_empty() { "" } else { "-" };
    format!("{before}{between}{after}")
}

/// The parts with which all names begin, or else those with which they end.
fn common(names: &[String]) -> Option<String> {
    let split: Vec<Vec<&str>> = names.iter().map(|name| name.split(SEPARATORS).collect()).collect();
    let shortest = split.iter().map(Vec::len).min()?;
    let first = &split[0];
    let same = |of: &dyn Fn(&Vec<&str>, usize) -> String| {
        (0..shortest).take_while(|&i| split.iter().all(|parts| of(parts, i) == of(first, i))).count()
    };
    let leading = same(&|parts, i| parts[i].to_string());
    let trailing = same(&|parts, i| parts[parts.len() - 1 - i].to_string());
    let label = match leading {
        0 => first[first.len() - trailing..].join("-"),
        _ => first[..leading].join("-"),
    };
    (!label.is_empty()).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Made, runs};
    use super::*;

    /// Folders of each group, with its label.
    fn grouped(root: &Path, all: &[Made<'_>]) -> Vec<(String, Vec<String>)> {
        let runs = runs(root, all);
        group(&runs).into_iter().map(|g| (g.label, g.runs.iter().map(|r| r.name()).collect())).collect()
    }

    fn names(all: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        all.iter()
            .map(|(label, runs)| (label.to_string(), runs.iter().map(ToString::to_string).collect()))
            .collect()
    }

    #[test]
    fn runs_that_differ_in_the_seed_alone_are_one_group() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name, seed, config| Made { name, seed, config, ..Made::default() };
        let supervised = "[method]\nalgorithm = \"supervised\"\n";
        let all = [
            made("base-1", 1, supervised),
            made("ps-1", 1, ""),
            // What changes neither training nor validation may differ too, validations may not.
            made(
                "base-2",
                2,
                "[method]\nalgorithm = \"supervised\"\n[run]\npictures = 0\nlog_every = 3\n\
                checkpoint_every = 7\ntensorboard = false\n",
            ),
            made("ps-2", 2, ""),
            made("ps-seldom-3", 3, "[run]\nval_every = 2\n"),
        ];
        let want: [(&str, &[&str]); 3] =
            [("base", &["base-1", "base-2"]), ("ps", &["ps-1", "ps-2"]), ("ps-seldom-3", &["ps-seldom-3"])];
        assert_eq!(grouped(dir.path(), &all), names(&want));
    }

    #[test]
    fn other_numbers_of_images_are_another_group() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name, seed, labeled| Made { name, seed, labeled, ..Made::default() };
        let all = [made("a-1", 1, 4), made("a-2", 2, 5), made("a-3", 3, 4), made("a-4", 4, 0)];
        // The last has no record yet, and joins those that are named alike.
        let want: [(&str, &[&str]); 2] = [("a", &["a-1", "a-3", "a-4"]), ("a-2", &["a-2"])];
        assert_eq!(grouped(dir.path(), &all), names(&want));
        let all = [made("a-4", 4, 0), made("a-2", 2, 5), made("a-1", 1, 4)];
        let want: [(&str, &[&str]); 2] = [("a", &["a-4", "a-2"]), ("a-1", &["a-1"])];
        assert_eq!(grouped(dir.path(), &all), names(&want));
    }

    #[test]
    fn no_seed_counts_twice() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name, seed| Made { name, seed, ..Made::default() };
        // The same settings by two versions of the program, in any order.
        for all in [["old-1", "old-2", "new-1", "new-2"], ["old-1", "new-1", "old-2", "new-2"]] {
            let all = all.map(|name| made(name, if name.ends_with('1') { 1 } else { 2 }));
            let want: [(&str, &[&str]); 2] = [("old", &["old-1", "old-2"]), ("new", &["new-1", "new-2"])];
            assert_eq!(grouped(dir.path(), &all), names(&want));
        }
        // A seed that only one has goes to those that are named alike, else to the newest.
        let all =
            [("old-1", 1), ("new-1", 1), ("old-3", 3), ("more-4", 4)].map(|(name, seed)| made(name, seed));
        let want: [(&str, &[&str]); 2] =
            [("old", &["old-1", "old-3"]), ("new-1 and 1 more", &["new-1", "more-4"])];
        assert_eq!(grouped(dir.path(), &all), names(&want));
        let all = runs(dir.path(), &all);
        assert_eq!(twins(&group(&all)), [("old", "new-1 and 1 more")]);
        let all = runs(dir.path(), &[made("x-1", 1), made("x-2", 2)]);
        assert_eq!(twins(&group(&all)), []);
        // Groups of the same name are told apart by the folder around them.
        let all =
            [("p/a-1", 1), ("p/a-2", 2), ("q/a-1", 1), ("q/a-2", 2)].map(|(name, seed)| made(name, seed));
        let labels: Vec<String> = grouped(dir.path(), &all).into_iter().map(|g| g.0).collect();
        assert!(labels[0].ends_with("p/a") && labels[1].ends_with("q/a"), "{labels:?}");
    }

    #[test]
    fn seeds_are_taken_out_of_names() {
        for (name, seed, want) in [
            ("supervised-1", 1, "supervised"),
            ("supervised_seed12", 12, "supervised"),
            ("ps-mt-s3", 3, "ps-mt"),
            ("ps-mt.seed=3", 3, "ps-mt"),
            ("hq-92-1", 1, "hq-92"),
            ("hq-92-1", 92, "hq-1"),
            ("1-base", 1, "base"),
            ("camvid-2-base", 2, "camvid-base"),
            ("runs1", 1, "runs"),
            ("seed-4", 4, ""),
            ("ps-11", 1, "ps-11"),
            ("", 1, ""),
            ("99999999999999999999999", 1, "99999999999999999999999"),
            ("größe-1", 1, "größe"),
        ] {
            assert_eq!(without_seed(name, seed), want, "{name}");
        }
    }

    #[test]
    fn groups_are_named_by_what_their_folders_share() {
        let dir = tempfile::tempdir().unwrap();
        for (folders, want) in [
            (["ps-mt/1", "ps-mt/2"], "ps-mt"),
            (["seed1/base", "seed2/base"], "base"),
            (["base-a", "base-b"], "base"),
            (["first-base", "second-base"], "base"),
            (["one", "other"], "one and 1 more"),
            (["v1-1", "v1-2"], "v1"),
        ] {
            let all = [(folders[0], 1), (folders[1], 2)];
            let all = all.map(|(name, seed)| Made { name, seed, ..Made::default() });
            assert_eq!(grouped(dir.path(), &all)[0].0, want, "{folders:?}");
        }
    }

    #[test]
    fn only_runs_that_ended_count_in_a_mean() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name, seed, scores, missing| Made { name, seed, scores, missing, ..Made::default() };
        let scores: [&[(&str, Option<f64>)]; 3] =
            [&[("student", Some(0.5))], &[("student", Some(0.25))], &[("student", None)]];
        let all = [
            made("a-1", 1, &scores[..1], 0),
            made("a-2", 2, &scores[1..2], 0),
            made("a-3", 3, &scores[..1], 1),
            made("a-4", 4, &scores[2..], 0),
        ];
        let all = runs(dir.path(), &all);
        let student = |g: &Group<'_>| g.last(|v| v.miou["student"]);
        let groups = group(&all);
        assert_eq!((groups.len(), groups[0].ended(), groups[0].main_network()), (1, 3, "student"));
        // 0.5 and 0.25: the third is not at the end, the fourth's score was not finite.
        let sample = student(&groups[0]).unwrap();
        assert_eq!((sample.n, sample.mean), (2, 0.375));
        assert!((sample.deviation.unwrap() - 0.03125f64.sqrt()).abs() < 1e-15);
        // A run by itself counts as far as it is.
        assert_eq!(student(&group(&all[2..3])[0]).unwrap().mean, 0.5);
    }
}
