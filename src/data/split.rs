//! The choice of labelled images such that every class keeps its share: iterative stratification (Sechidis et
//! al., "On the stratification of multi-label data", 2011) into two parts. Works on counts only.

use crate::rng::{Domain, Key};

/// Chooses `wanted` images; `has[i][c]` says whether image i has class c. Returns their indices in ascending
/// order, a pure function of the arguments.
///
/// Images of the class with the fewest images left are distributed first, each to the part that still needs
/// most of that class.
pub fn stratified(has: &[Vec<bool>], wanted: usize, seed: u64) -> Vec<usize> {
    let (n, classes) = (has.len(), has.first().map_or(0, Vec::len));
    let wanted = wanted.min(n);
    let mut order: Vec<usize> = (0..n).collect();
    Key::new(seed, Domain::Shuffle, 0).stream().shuffle(&mut order);

    let share = wanted as f64 / n.max(1) as f64;
    let shares = [share, 1.0 - share];
    // What each part still needs: images of each class, and images in total.
    let count = |class: usize| has.iter().filter(|h| h[class]).count();
    let mut needs: Vec<[f64; 2]> = (0..classes).map(|c| shares.map(|s| s * count(c) as f64)).collect();
    let mut room = [wanted, n - wanted];
    let mut chosen = Vec::with_capacity(wanted);
    while !order.is_empty() {
        let left = |class: usize| order.iter().filter(|&&i| has[i][class]).count();
        let rarest =
            (0..classes).map(|c| (left(c), c)).filter(|(left, _)| *left > 0).min().map(|(_, class)| class);
        let (next, rest): (Vec<usize>, Vec<usize>) =
            order.iter().partition(|&&i| rarest.is_none_or(|class| has[i][class]));
        for i in next {
            let need = |part: usize| rarest.map_or(0.0, |class| needs[class][part]);
            let part = match room {
                [0, _] => 1,
                [_, 0] => 0,
                _ if need(0) != need(1) => usize::from(need(1) > need(0)),
                [first, second] => usize::from(second > first),
            };
            room[part] -= 1;
            for (class, needs) in needs.iter_mut().enumerate() {
                needs[part] -= f64::from(u8::from(has[i][class]));
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
                // Rare classes are distributed first and exactly; common ones by what is left.
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
        // Images without any class are chosen where others are too few.
        assert_eq!(stratified(&vec![vec![false; 3]; 9], 4, 1).len(), 4);
    }
}
