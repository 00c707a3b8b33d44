//! Chooses which images of a set are labelled so that every class keeps its share: iterative stratification (Sechidis et al.,
//! "On the stratification of multi-label data", 2011) into two parts. Knows counts only.

use crate::rng::{Domain, Key};

/// Chooses `wanted` of the images, of which `has[i]` says which classes image i has; a pure function of its arguments. The result
/// is in ascending order.
///
/// The class with the fewest images left is dealt out first, each of its images to the part that lacks most of that class.
pub fn stratified(has: &[Vec<bool>], wanted: usize, seed: u64) -> Vec<usize> {
    let (n, classes) = (has.len(), has.first().map_or(0, Vec::len));
    let wanted = wanted.min(n);
    let mut order: Vec<usize> = (0..n).collect();
    Key::new(seed, Domain::Shuffle, 0).stream().shuffle(&mut order);

    let share = wanted as f64 / n.max(1) as f64;
    let shares = [share, 1.0 - share];
    // What each part still lacks: of each class, and in all.
    let count = |class: usize| has.iter().filter(|h| h[class]).count();
    let mut lacks: Vec<[f64; 2]> = (0..classes).map(|c| shares.map(|s| s * count(c) as f64)).collect();
    let mut room = [wanted, n - wanted];
    let mut chosen = Vec::with_capacity(wanted);
    while !order.is_empty() {
        let left = |class: usize| order.iter().filter(|&&i| has[i][class]).count();
        let rarest =
            (0..classes).map(|c| (left(c), c)).filter(|(left, _)| *left > 0).min().map(|(_, class)| class);
        let (dealt, rest): (Vec<usize>, Vec<usize>) =
            order.iter().partition(|&&i| rarest.is_none_or(|class| has[i][class]));
        for i in dealt {
            let lack = |part: usize| rarest.map_or(0.0, |class| lacks[class][part]);
            let part = match room {
                [0, _] => 1,
                [_, 0] => 0,
                _ if lack(0) != lack(1) => usize::from(lack(1) > lack(0)),
                [first, second] => usize::from(second > first),
            };
            room[part] -= 1;
            for (class, lacks) in lacks.iter_mut().enumerate() {
                lacks[part] -= f64::from(u8::from(has[i][class]));
            }
            if part == 0 {
                chosen.push(i);
            }
        }
        order = rest;
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images with classes of very different frequencies.
    fn images(n: usize) -> Vec<Vec<bool>> {
        let mut rng = Key::new(9, Domain::Bench, 0).stream();
        (0..n).map(|_| [0.9, 0.5, 0.2, 0.05, 0.02].map(|p| rng.chance(p)).to_vec()).collect()
    }

    #[test]
    fn classes_keep_their_share() {
        let has = images(600);
        for wanted in [30, 75, 300] {
            let chosen = stratified(&has, wanted, 1);
            assert_eq!(chosen.len(), wanted);
            assert!(chosen.windows(2).all(|p| p[0] < p[1]));
            for class in [0, 1, 2, 3, 4] {
                let expected = has.iter().filter(|h| h[class]).count() as f64 * wanted as f64 / 600.0;
                let got = chosen.iter().filter(|&&i| has[i][class]).count() as f64;
                // Rare classes are dealt out first and exactly; common ones take what is left.
                let slack = if class >= 3 { 1.0 } else { 1.0 + 0.05 * wanted as f64 };
                assert!((got - expected).abs() <= slack, "{wanted}, class {class}: {expected}");
            }
        }
    }

    #[test]
    fn seeds_decide() {
        let has = images(200);
        assert_eq!(stratified(&has, 40, 3), stratified(&has, 40, 3));
        assert_ne!(stratified(&has, 40, 3), stratified(&has, 40, 4));
    }

    #[test]
    fn ends_are_all_or_nothing() {
        let has = images(20);
        assert_eq!(stratified(&has, 0, 1), Vec::<usize>::new());
        assert_eq!(stratified(&has, 99, 1), (0..20).collect::<Vec<_>>());
        assert_eq!(stratified(&[], 3, 1), Vec::<usize>::new());
        // Images without any class fill up what is wanted.
        assert_eq!(stratified(&vec![vec![false; 3]; 9], 4, 1).len(), 4);
    }
}
