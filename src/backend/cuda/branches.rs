//! Branches of a step that may run concurrently: on which branch work is, and from when on memory that it
//! frees is free for all of them. Plain bookkeeping; must not know devices.

/// A fork or join in a step's sequence of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// What follows is the first of several branches.
    Fork,
    /// What follows is the next branch: it depends on none before it.
    Next,
    /// What follows depends on all of them.
    Join,
}

/// A position among branches: of each open fork, outermost first, its number and that of the branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(Vec<(u32, u32)>);

impl Place {
    /// Whether work here and work there may run concurrently.
    pub(super) fn concurrent_with(&self, other: &Place) -> bool {
        self.0.iter().zip(&other.0).find(|(a, b)| a != b).is_some_and(|(a, b)| a.0 == b.0)
    }

    /// Whether all forks of `outer` are open here too, on the same branches.
    fn within(&self, outer: &Place) -> bool {
        self.0.starts_with(&outer.0)
    }

    /// Whether no fork is open.
    pub(super) fn is_trunk(&self) -> bool {
        self.0.is_empty()
    }
}

/// Follows a step through its forks, and holds back things that were freed on one branch while others may use
/// them.
#[derive(Debug)]
pub(super) struct Branches<T> {
    place: Place,
    forks: u32,
    /// Freed things that other branches may still use, with the place of their allocation.
    held: Vec<(Place, T)>,
}

impl<T> Default for Branches<T> {
    fn default() -> Branches<T> {
        Branches { place: Place::default(), forks: 0, held: Vec::new() }
    }
}

impl<T> Branches<T> {
    /// The current place.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Forks, goes on to the next branch, or joins. Returns what was held back and is free from here on.
    pub(super) fn turn(&mut self, branch: Branch) -> Vec<T> {
        match branch {
            Branch::Fork => {
                self.place.0.push((self.forks, 0));
                self.forks += 1;
                Vec::new()
            }
            Branch::Next => {
                if let Some((_, number)) = self.place.0.last_mut() {
                    *number += 1;
                }
                Vec::new()
            }
            Branch::Join => {
                self.place.0.pop();
                let ended = self.held.extract_if(.., |(born, _)| born.within(&self.place));
                ended.map(|(_, thing)| thing).collect()
            }
        }
    }

    /// Frees something that was allocated at `born`. Returns it if it is free at once, as what this branch
    /// allocated is; what comes from outside is held until the join, as other branches may still use it.
    pub(super) fn give_back(&mut self, born: &Place, thing: T) -> Option<T> {
        if born.within(&self.place) {
            return Some(thing);
        }
        self.held.push((born.clone(), thing));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place after these turns.
    fn after(turns: &[Branch]) -> Place {
        let mut branches = Branches::<()>::default();
        turns.iter().for_each(|&turn| drop(branches.turn(turn)));
        branches.place().clone()
    }

    #[test]
    fn branches_of_one_fork_are_concurrent() {
        use Branch::*;
        let (trunk, first, second) = (after(&[]), after(&[Fork]), after(&[Fork, Next]));
        let inner = after(&[Fork, Fork, Next]);
        let later = after(&[Fork, Next, Join, Fork, Next]);
        assert!(
            first.concurrent_with(&second)
                && second.concurrent_with(&first)
                && inner.concurrent_with(&second)
        );
        assert!(inner.concurrent_with(&after(&[Fork, Fork])));
        for (a, b) in
            [(&trunk, &first), (&first, &first), (&inner, &first), (&later, &first), (&later, &second)]
        {
            assert!(!a.concurrent_with(b) && !b.concurrent_with(a), "{a:?} {b:?}");
        }
        assert!(trunk.is_trunk() && after(&[Fork, Join]).is_trunk() && !inner.is_trunk());
    }

    #[test]
    fn what_comes_from_outside_a_branch_is_held_until_the_join() {
        use Branch::*;
        let mut branches = Branches::default();
        let trunk = branches.place().clone();
        branches.turn(Fork);
        let first = branches.place().clone();
        assert_eq!(branches.give_back(&first, "own"), Some("own"));
        branches.turn(Fork);
        assert_eq!(branches.give_back(&trunk, "input"), None);
        assert_eq!(branches.give_back(&first, "outer"), None);
        assert!(branches.turn(Next).is_empty());
        assert_eq!(branches.turn(Join), ["outer"]);
        assert!(branches.turn(Next).is_empty());
        assert_eq!(branches.turn(Join), ["input"]);
        assert_eq!(branches.give_back(&first, "result"), Some("result"));
    }
}
