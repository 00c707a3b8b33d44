//! The examples that `--help` of each subcommand ends with. A test parses every one.

/// Examples of `bench`.
pub const BENCH: &str = "\
Examples:
  psmt-lab bench step --device cuda --model r50 --crop 512 --batch 8 --json step.json
  psmt-lab bench kernels --device cuda --filter conf_ce
  psmt-lab bench floor --model r101";

/// Examples of `bench step`.
pub const BENCH_STEP: &str = "\
Examples:
  psmt-lab bench step --device cuda --model r50 --crop 512 --batch 8 --json step.json
  psmt-lab bench step --model tiny --tvat finite-difference";

/// Examples of `bench forward`.
pub const BENCH_FORWARD: &str = "\
Examples:
  psmt-lab bench forward --model r101";

/// Examples of `bench tvat`.
pub const BENCH_TVAT: &str = "\
Examples:
  psmt-lab bench tvat --tvat finite-difference";

/// Examples of `bench loss`.
pub const BENCH_LOSS: &str = "\
Examples:
  psmt-lab bench loss --classes 19 --crop 256";

/// Examples of `bench layers`.
pub const BENCH_LAYERS: &str = "\
Examples:
  psmt-lab bench layers --device cuda --cache cold --json layers.json
  psmt-lab bench layers --filter 3x3";

/// Examples of `bench kernels`.
pub const BENCH_KERNELS: &str = "\
Examples:
  psmt-lab bench kernels --device cuda --filter conf_ce";

/// Examples of `bench floor`.
pub const BENCH_FLOOR: &str = "\
Examples:
  psmt-lab bench floor --model r101";

/// Examples of `bench tiles`.
pub const BENCH_TILES: &str = "\
Examples:
  psmt-lab bench tiles";

/// Examples of `op`.
pub const OP: &str = "\
Examples:
  psmt-lab op --check tests/fixtures/conf_ce_0.safetensors
  psmt-lab op --check --device cuda --precision bf16 tests/fixtures/conv2d_0.safetensors";

/// Examples of `gradcheck`.
pub const GRADCHECK: &str = "\
Examples:
  psmt-lab gradcheck
  psmt-lab gradcheck --device cuda";

/// Examples of `selftest`.
pub const SELFTEST: &str = "\
Examples:
  psmt-lab selftest --device cuda
  psmt-lab selftest --device emulated --json selftest.json";

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::{CommandFactory, Parser};

    /// The command lines of a help text: a line that ends in a backslash goes on in the next.
    fn command_lines(help: &str) -> Vec<String> {
        let joined = help.replace("\\\n", " ");
        joined.lines().map(str::trim).filter(|line| line.starts_with("psmt-lab ")).map(String::from).collect()
    }

    /// Parses a line without what a shell takes for itself.
    fn parse(line: &str) {
        psmt_fast::cli::device::add_devices(&crate::cli::DEVICES);
        let own = line.split(" > ").next().unwrap_or_default();
        let own = own.split(" #").next().unwrap_or_default();
        if let Err(e) = Cli::try_parse_from(own.split_whitespace()) {
            panic!("{line}\n{e}");
        }
    }

    #[test]
    fn commands_of_the_documents_parse() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let mut found = 0;
        for path in docs.chain([root.join("README.md")]) {
            let text = std::fs::read_to_string(&path).unwrap();
            let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
            // Dots stand for what the reader puts there.
            let lines = blocks.flat_map(command_lines).filter(|l| !l.contains('…') && !l.contains("..."));
            for line in lines {
                parse(&line);
                found += 1;
            }
        }
        assert!(found > 0, "no commands");
    }

    /// Checks the examples of a command's subcommands, and of theirs; `path` is what calls it.
    fn examples_parse(command: &clap::Command, path: &str) {
        for command in command.get_subcommands() {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = command_lines(&help);
            assert!(!lines.is_empty(), "{path} has no example");
            for line in lines {
                assert!(line == path || line.starts_with(&format!("{path} ")), "{line} is no {path}");
                parse(&line);
            }
            examples_parse(command, &path);
        }
    }

    #[test]
    fn every_subcommand_has_examples_that_parse() {
        // Examples of psmt-fast name that program.
        for own in ["bench", "op", "gradcheck", "selftest"] {
            let command = Cli::command();
            let command = command.find_subcommand(own).expect("a subcommand");
            let all = clap::Command::new("psmt-lab").subcommand(command.clone());
            examples_parse(&all, "psmt-lab");
        }
    }
}
