//! The kernels that the build embedded in the program: one fat binary for each file of `kernels/`. Must not
//! know the driver.

/// The compiled kernels of one file.
pub(super) struct Module {
    /// Name of the file, without `.cu`.
    pub(super) file: &'static str,
    /// Its fat binary.
    pub(super) image: &'static [u8],
}

/// The driver reads words of eight bytes from an image.
#[cfg_attr(not(has_kernels), expect(dead_code))]
#[repr(C, align(16))]
struct Aligned<T>(T);

// MODULES, TOOLKIT, TARGETS, MISSING.
include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// What ptxas reported of each kernel, one line each: file, kernel, target, registers, bytes of static shared
/// memory, of stack, of spill stores and of spill loads, separated by tabs. Empty where the build had no
/// nvcc.
pub const RESOURCES: &str = include_str!(concat!(env!("OUT_DIR"), "/resources.tsv"));

/// The kernels of `kernels/<file>.cu`.
pub(super) fn module(file: &str) -> Option<&'static Module> {
    MODULES.iter().find(|m| m.file == file)
}

/// Version of the toolkit that compiled the kernels; `None` where the build had no nvcc.
pub fn toolkit() -> Option<(u32, u32)> {
    TOOLKIT
}

/// Targets that the program has code for: `80`, `90a`, and `compute_90` for PTX.
pub fn targets() -> &'static [&'static str] {
    TARGETS
}

/// Why the program has no kernels and how to get them; `None` where it has them.
pub fn missing() -> Option<String> {
    TOOLKIT.is_none().then(|| {
        format!(
            "this program has no kernels for GPUs, as {MISSING}; run tools/install_nvcc.sh in the sources (or set \
             CUDA_HOME to a CUDA toolkit) and build again"
        )
    })
}

/// The kind of code that the program has for a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Machine code.
    Binary,
    /// PTX alone, which the driver translates.
    Ptx,
}

/// The program's code for a card of this compute capability; `None` where it has none.
pub(super) fn code_for(capability: (u32, u32)) -> Option<Code> {
    code_among(TARGETS, capability)
}

fn code_among(targets: &[&str], capability: (u32, u32)) -> Option<Code> {
    let covers = |ptx| targets.iter().any(|t| is_ptx(t) == ptx && target_covers(t, capability));
    if covers(false) { Some(Code::Binary) } else { covers(true).then_some(Code::Ptx) }
}

fn is_ptx(target: &str) -> bool {
    target.starts_with("compute_")
}

/// Code for a real architecture runs on cards of the same generation that are at least as new, that of a
/// target with `a` on its own architecture only, PTX on every later card.
fn target_covers(target: &str, (major, minor): (u32, u32)) -> bool {
    let (ptx, digits) = (is_ptx(target), target.trim_start_matches("compute_"));
    let Ok(number) = digits.trim_end_matches('a').parse::<u32>() else { return false };
    let (of_major, of_minor) = (number / 10, number % 10);
    match (ptx, digits.ends_with('a')) {
        (_, true) => (of_major, of_minor) == (major, minor),
        (true, false) => (of_major, of_minor) <= (major, minor),
        (false, false) => of_major == major && of_minor <= minor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_on_its_generation_and_ptx_on_later_ones() {
        assert!(target_covers("80", (8, 0)) && target_covers("80", (8, 9)));
        assert!(!target_covers("86", (8, 0)) && !target_covers("80", (9, 0)));
        assert!(target_covers("90a", (9, 0)) && !target_covers("90a", (10, 0)));
        assert!(target_covers("100", (10, 3)) && target_covers("120", (12, 1)));
        assert!(target_covers("compute_90", (12, 0)) && !target_covers("compute_90", (8, 9)));
    }

    #[test]
    fn machine_code_comes_before_ptx() {
        let code = |capability| code_among(&["80", "90a", "compute_90"], capability);
        assert_eq!((code((8, 6)), code((9, 0))), (Some(Code::Binary), Some(Code::Binary)));
        assert_eq!((code((10, 0)), code((12, 0)), code((7, 5))), (Some(Code::Ptx), Some(Code::Ptx), None));
        assert_eq!(code_among(&["compute_90"], (9, 0)), Some(Code::Ptx));
    }
}
