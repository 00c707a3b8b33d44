//! The launches since the last successful synchronisation: a GPU reports a fault at some later call, and
//! these may have caused it.

use super::super::driver::{Kernel, Launch};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// How many launches are kept.
const KEPT: usize = 8;

/// The last launches.
#[derive(Default)]
pub(super) struct Recent {
    launches: VecDeque<(Arc<Kernel>, Launch)>,
    /// Launches since the last success, also those no longer kept.
    count: usize,
}

impl Recent {
    pub(super) fn push(&mut self, kernel: Arc<Kernel>, launch: Launch) {
        if self.launches.len() == KEPT {
            self.launches.pop_front();
        }
        self.launches.push_back((kernel, launch));
        self.count += 1;
    }

    /// All of them succeeded.
    pub(super) fn clear(&mut self) {
        self.launches.clear();
        self.count = 0;
    }
}

/// The sentence that ends a fault's message.
impl fmt::Display for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.count, self.launches.back()) {
            (0, _) | (_, None) => write!(f, "no kernel ran since the device was last well"),
            (1, Some((kernel, launch))) => write!(f, "in {}", Described(kernel, launch)),
            (count, Some(_)) => {
                write!(
                    f,
                    "in one of the last {count} kernels (PSMT_CUDA_BLOCKING=1 tells which), latest first: "
                )?;
                for (i, (kernel, launch)) in self.launches.iter().rev().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { "; " }, Described(kernel, launch))?;
                }
                Ok(())
            }
        }
    }
}

/// A kernel with its launch plan.
pub(super) struct Described<'a>(pub(super) &'a Kernel, pub(super) &'a Launch);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Launch { grid: [gx, gy, gz], block: [bx, by, bz], shared } = self.1;
        write!(
            f,
            "{} (grid {gx}x{gy}x{gz}, block {bx}x{by}x{bz}, {shared} bytes of dynamic shared memory)",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_latest_suspects_first() {
        let mut recent = Recent::default();
        assert!(recent.to_string().contains("no kernel"));
        for i in 0..20 {
            let kernel = Kernel { file: "pool", name: format!("k{i}") };
            recent.push(Arc::new(kernel), Launch::new(i + 1, 64));
            if i == 0 {
                assert!(recent.to_string().starts_with("in k0 of kernels/pool.cu (grid 1x1x1, block 64x1x1"));
            }
        }
        let text = recent.to_string();
        assert!(text.contains("last 20 kernels") && text.contains("PSMT_CUDA_BLOCKING"), "{text}");
        assert!(text.find("k19").unwrap() < text.find("k12").unwrap() && !text.contains("k11 "), "{text}");
        recent.clear();
        assert!(recent.to_string().contains("no kernel"));
    }
}
