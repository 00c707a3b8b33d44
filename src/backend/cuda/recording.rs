//! A step's work as a graph: its pieces in the order of the calls, each with those that it depends on. Must
//! not know what runs it.

use super::branches::Branch;
use super::driver::{Args, DevicePtr, Kernel, Launch};

/// A piece of work.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A kernel.
    Launch {
        /// Which.
        kernel: Kernel,
        /// Its blocks.
        launch: Launch,
        /// Its arguments.
        args: Args,
    },
    /// A copy within the device.
    Copy {
        /// Source.
        from: DevicePtr,
        /// Destination.
        to: DevicePtr,
        /// Length.
        bytes: usize,
    },
    /// Bytes set to zero.
    Clear {
        /// First byte.
        ptr: DevicePtr,
        /// Length.
        bytes: usize,
    },
}

impl Work {
    /// Whether the other differs in addresses, sizes and numbers alone.
    pub fn is_like(&self, other: &Work) -> bool {
        match (self, other) {
            (Work::Launch { kernel, .. }, Work::Launch { kernel: other, .. }) => kernel == other,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

/// A piece of work and its dependencies.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is done.
    pub work: Work,
    /// Indices of the nodes that must be done before.
    pub after: Vec<usize>,
}

/// A step's work. Work of one branch is done in order; branches are independent until they join.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    nodes: Vec<Node>,
    /// Dependencies of the next node.
    ends: Vec<usize>,
    forks: Vec<Fork>,
}

/// An open fork.
#[derive(Clone, Debug)]
struct Fork {
    /// Dependencies of the first node of each branch.
    start: Vec<usize>,
    /// Last nodes of its branches so far.
    ends: Vec<usize>,
}

impl Recording {
    /// The work so far.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Appends work to the current branch.
    pub fn push(&mut self, work: Work) {
        let after = std::mem::replace(&mut self.ends, vec![self.nodes.len()]);
        self.nodes.push(Node { work, after });
    }

    /// Forks, goes on to the next branch, or joins.
    pub fn turn(&mut self, branch: Branch) {
        match (branch, self.forks.last_mut()) {
            (Branch::Fork, _) => self.forks.push(Fork { start: self.ends.clone(), ends: Vec::new() }),
            (Branch::Next, Some(fork)) => {
                fork.ends.extend(std::mem::replace(&mut self.ends, fork.start.clone()));
            }
            (Branch::Join, Some(_)) => {
                let Fork { ends, .. } = self.forks.pop().expect("there is a fork");
                self.ends.extend(ends);
                // Empty branches end where the fork began, several of them at the same place.
                self.ends.sort_unstable();
                self.ends.dedup();
            }
            (Branch::Next | Branch::Join, None) => {}
        }
    }

    /// Whether the other has the same pieces of work with the same dependencies, whatever their addresses and
    /// numbers.
    pub fn is_like(&self, other: &[Node]) -> bool {
        let alike = |(a, b): (&Node, &Node)| a.work.is_like(&b.work) && a.after == b.after;
        self.nodes.len() == other.len() && self.nodes.iter().zip(other).all(alike)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clear(bytes: usize) -> Work {
        Work::Clear { ptr: DevicePtr(256), bytes }
    }

    #[test]
    fn branches_wait_for_the_fork_and_the_join_for_branches() {
        let mut r = Recording::default();
        let mut push = |turns: &[Branch]| {
            turns.iter().for_each(|&t| r.turn(t));
            r.push(clear(r.nodes().len()));
        };
        use Branch::*;
        push(&[]);
        push(&[Fork]);
        push(&[]);
        push(&[Next, Fork]);
        push(&[Next]);
        push(&[Join, Next]);
        push(&[Join]);
        // A fork of which one branch is empty.
        push(&[Fork, Next]);
        push(&[Join]);
        let after: Vec<&[usize]> = r.nodes().iter().map(|n| n.after.as_slice()).collect();
        let expected: [&[usize]; 9] = [&[], &[0], &[1], &[0], &[0], &[0], &[2, 3, 4, 5], &[6], &[6, 7]];
        assert_eq!(after, expected);
    }

    #[test]
    fn recordings_are_alike_but_for_numbers() {
        let record = |bytes: usize, kernel: &str, fork: bool| {
            let mut r = Recording::default();
            r.push(clear(bytes));
            if fork {
                r.turn(Branch::Fork);
                r.turn(Branch::Next);
            }
            let kernel = Kernel { file: "pool", name: kernel.into() };
            r.push(Work::Launch { kernel, launch: Launch::new(bytes, 32), args: Args::default() });
            r.push(clear(bytes));
            if fork {
                r.turn(Branch::Join);
            }
            r.push(clear(1));
            r
        };
        let one = record(1, "a", false);
        assert!(one.is_like(record(2, "a", false).nodes()));
        assert!(!one.is_like(record(1, "b", false).nodes()));
        assert!(!one.is_like(record(1, "a", true).nodes()));
        assert!(!one.is_like(&record(1, "a", false).nodes()[..3]));
    }
}
