//! Branches of a step that may run at the same time: where a piece of work stands among them, and from when on the memory
//! that it gives back is free for all of them. Plain bookkeeping; knows no devices.

/// A turn of a program that forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// What follows is the first of several branches.
    Fork,
    /// What follows is the next branch: it needs nothing of those before it.
    Next,
    /// What follows needs all of them.
    Join,
}

/// Where work stands: the number of each fork that is open there, outermost first, and of the branch it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place(Vec<(u32, u32)>);

impl Place {
    /// Whether work here and work there may run at the same time.
    pub fn beside(&self, other: &Place) -> bool {
        self.0.iter().zip(&other.0).find(|(a, b)| a != b).is_some_and(|(a, b)| a.0 == b.0)
    }

    /// Whether all forks of `outer` are open here too, on the same branches.
    fn within(&self, outer: &Place) -> bool {
        self.0.starts_with(&outer.0)
    }

    /// Whether no fork is open.
    pub fn is_trunk(&self) -> bool {
        self.0.is_empty()
    }
}

/// Follows a program through its forks, and with it things that were given back on one branch while others may use them.
#[derive(Debug)]
pub struct Branches<T> {
    place: Place,
    forks: u32,
    /// Given back where their birthplace's other branches may still use them, with that place.
    held: Vec<(Place, T)>,
}

impl<T> Default for Branches<T> {
    fn default() -> Branches<T> {
        Branches { place: Place::default(), forks: 0, held: Vec::new() }
    }
}

impl<T> Branches<T> {
    /// Where the program stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The program turns. Returns what is free from here on, of what was held back.
    pub fn turn(&mut self, branch: Branch) -> Vec<T> {
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

    /// Something that was taken at `born` is given back. Returns it if it is free at once, which on this branch it is; what
    /// comes from outside the branch is held until the join, as other branches may still use it.
    pub fn give_back(&mut self, born: &Place, thing: T) -> Option<T> {
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
    fn branches_of_one_fork_are_beside_each_other() {
        use Branch::*;
        let (trunk, first, second) = (after(&[]), after(&[Fork]), after(&[Fork, Next]));
        let inner = after(&[Fork, Fork, Next]);
        let later = after(&[Fork, Next, Join, Fork, Next]);
        assert!(first.beside(&second) && second.beside(&first) && inner.beside(&second));
        assert!(inner.beside(&after(&[Fork, Fork])));
        for (a, b) in
            [(&trunk, &first), (&first, &first), (&inner, &first), (&later, &first), (&later, &second)]
        {
            assert!(!a.beside(b) && !b.beside(a), "{a:?} {b:?}");
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
