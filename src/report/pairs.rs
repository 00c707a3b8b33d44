//! Differences to the first group, paired by seed: runs of the same seed share the order of images and every
//! other draw that their settings leave alike, so their difference varies less than their scores do. Knows
//! groups, not how tables are drawn.

use super::group::Group;
use super::run::{NETWORKS, Run};
use super::stats::Sample;
use super::table::{Cell, NONE, Table};
use super::tables::title;

/// A network of a group, and that of the first group from which it is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    /// Position in [`NETWORKS`].
    network: usize,
    /// The same, of the first group.
    first: usize,
}

/// One column per group after the first, one row per pair of networks: mean difference of the last mIoU in
/// points, its standard error, number of pairs. Nothing where no run of the groups shares its seed with an
/// ended one of the first.
pub(super) fn table(groups: &[Group<'_>]) -> Option<Table> {
    let (first, others) = groups.split_first()?;
    let seeds = |other| shared(first, other).map(|(run, _)| run.seed().to_string()).collect::<Vec<_>>();
    if others.iter().all(|other| seeds(other).is_empty()) {
        return None;
    }
    let mut table = Table::new(groups, 1);
    table.row(
        "pairs",
        others.iter().map(|other| match seeds(other) {
            seeds if seeds.is_empty() => Cell::none(),
            seeds => Cell::from(seeds.len().to_string()).note(format!("of seeds {}", seeds.join(", "))),
        }),
    );
    let mut pairs: Vec<Pair> = others.iter().flat_map(|other| networks(first, other)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    for pair in pairs {
        let cell = |other| {
            if !networks(first, other).contains(&pair) {
                return Cell::none();
            }
            cell(difference(first, other, pair), shared(first, other).count())
        };
        table.row(pair.name(), others.iter().map(cell));
    }
    Some(table)
}

impl Pair {
    fn of(network: &str, first: &str) -> Option<Pair> {
        let position = |name: &str| NETWORKS.iter().position(|n| *n == name);
        Some(Pair { network: position(network)?, first: position(first)? })
    }

    fn name(&self) -> String {
        format!("{} − {}", title(NETWORKS[self.network]), title(NETWORKS[self.first]))
    }
}

/// Which networks are compared: those that both have, the two that stand for their groups, and, where the
/// first group has one network alone, as the supervised baseline has, every other network with that.
fn networks(first: &Group<'_>, other: &Group<'_>) -> Vec<Pair> {
    let main = first.main_network();
    let alone = NETWORKS.iter().filter(|n| first.has(n)).count() == 1;
    let mut pairs = Vec::new();
    for network in NETWORKS.into_iter().filter(|n| other.has(n)) {
        let both = first.has(network).then(|| Pair::of(network, network));
        let stands = (alone || network == other.main_network()).then(|| Pair::of(network, main));
        pairs.extend(
            [both, stands].into_iter().flatten().flatten().filter(|pair| first.has(NETWORKS[pair.first])),
        );
    }
    pairs.dedup();
    pairs
}

/// Runs of both groups that ended and have the same seed, the first group's first.
fn shared<'a>(first: &Group<'a>, other: &Group<'a>) -> impl Iterator<Item = (&'a Run, &'a Run)> {
    let ended = |group: &Group<'a>| group.runs.iter().copied().filter(|run| run.ended()).collect::<Vec<_>>();
    let others = ended(other);
    ended(first)
        .into_iter()
        .filter_map(move |run| Some((run, *others.iter().find(|o| o.seed() == run.seed())?)))
}

/// Differences of the last mIoU in points, over the seeds where both runs have one.
fn difference(first: &Group<'_>, other: &Group<'_>, pair: Pair) -> Option<Sample> {
    let miou = |run: &Run, network: usize| run.last()?.miou.get(NETWORKS[network]).copied()?;
    Sample::of(
        shared(first, other)
            .filter_map(|(a, b)| Some(100.0 * (miou(b, pair.network)? - miou(a, pair.first)?))),
    )
}

/// A mean difference with its standard error, which a single pair does not have.
fn cell(sample: Option<Sample>, expected: usize) -> Cell {
    let Some(sample) = sample else { return Cell::none() };
    let error = sample.standard_error().map_or(NONE.into(), |error| format!("{error:.1}"));
    let cell = Cell::from(format!("{:+.1} ± {error}", sample.mean));
    if sample.n == expected { cell } else { cell.note(format!("n = {}", sample.n)) }
}

#[cfg(test)]
mod tests {
    use super::super::group::group;
    use super::super::testing::{Made, Scores, runs};
    use super::*;

    const SUPERVISED: &str = "[method]\nalgorithm = \"supervised\"\n";

    fn markdown(all: &[Made<'_>]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let runs = runs(dir.path(), all);
        Some(table(&group(&runs))?.markdown())
    }

    fn base<'a>(name: &'a str, seed: u64, scores: &'a [Scores<'a>]) -> Made<'a> {
        Made { name, seed, config: SUPERVISED, scores, ..Made::default() }
    }

    fn method<'a>(name: &'a str, seed: u64, scores: &'a [Scores<'a>]) -> Made<'a> {
        Made { name, seed, scores, ..Made::default() }
    }

    #[test]
    fn differences_are_those_of_the_same_seed() {
        let student = |v: f64| [("student", Some(v))];
        let both = |e: f64, s: Option<f64>| [("ensemble", Some(e)), ("student", s)];
        let bases = [0.40, 0.44, 0.30].map(student);
        let bases = [[&bases[0][..]], [&bases[1][..]], [&bases[2][..]]];
        // Seed 3 of the first has no partner, seed 9 of the other none either.
        let methods = [both(0.45, Some(0.43)), both(0.46, None), both(0.99, Some(0.99))];
        let methods = [[&methods[0][..]], [&methods[1][..]], [&methods[2][..]]];
        let mut all =
            vec![base("base-1", 1, &bases[0]), base("base-2", 2, &bases[1]), base("base-3", 3, &bases[2])];
        all.extend([
            method("m-1", 1, &methods[0]),
            method("m-2", 2, &methods[1]),
            method("m-9", 9, &methods[2]),
        ]);
        // +5 and +2: mean 3.5, deviation sqrt(4.5), error 1.5. One of the student's pairs has no score.
        assert_eq!(
            markdown(&all).unwrap(),
            "| | pairs | ensemble − student | student − student |\n| --- | ---: | ---: | ---: |\n\
             | m | 2 (of seeds 1, 2) | +3.5 ± 1.5 | +3.0 ± – (n = 1) |\n"
        );
        // The other way round: networks that both have, and those that stand for the groups.
        all.rotate_left(3);
        assert_eq!(
            markdown(&all).unwrap(),
            "| | pairs | student − ensemble | student − student |\n| --- | ---: | ---: | ---: |\n\
             | base | 2 (of seeds 1, 2) | -3.5 ± 1.5 | -3.0 ± – (n = 1) |\n"
        );
    }

    #[test]
    fn networks_that_both_have_are_compared_with_each_other() {
        let scores: [(&str, Option<f64>); 4] = [
            ("ensemble", Some(0.5)),
            ("teacher1", Some(0.4)),
            ("teacher2", Some(0.3)),
            ("student", Some(0.2)),
        ];
        let first = [&scores[..]];
        let more = scores.map(|(network, v)| (network, v.map(|v| v + 0.01)));
        let more = [&more[..]];
        let mut other = method("n-1", 1, &more);
        other.config = "[optim]\nlr = 0.5\n";
        let text = markdown(&[method("m-1", 1, &first), other]).unwrap();
        let row = "| n-1 | 1 (of seeds 1) | +1.0 ± – | +1.0 ± – | +1.0 ± – | +1.0 ± – |\n";
        assert!(text.ends_with(row) && text.contains("| teacher 2 − teacher 2 |"), "{text}");
    }

    #[test]
    fn without_shared_seeds_of_ended_runs_there_is_nothing() {
        let scores = [("student", Some(0.5))];
        let scores = [&scores[..]];
        let unfinished = Made { missing: 1, ..method("m-1", 1, &scores) };
        for other in [method("m-2", 2, &scores), unfinished] {
            assert_eq!(markdown(&[base("base-1", 1, &scores), other]), None);
        }
        assert_eq!(markdown(&[base("base-1", 1, &scores)]), None);
    }
}
