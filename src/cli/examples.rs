//! The examples that `--help` of each subcommand ends with. Knows command lines only; a test parses every
//! one.

pub(crate) const TRAIN: &str = "\
Examples:
  psmt-fast train
  psmt-fast train --data DIR --labeled labeled.txt --unlabeled unlabeled.txt --val val.txt --num-classes 11 \\
      --model resnet50 --pretrained resnet50.pth --crop 321 --out runs/mine
  psmt-fast train --recipe voc-1323 --data VOC --labeled 1323.txt --unlabeled rest.txt --val val.txt \\
      --model resnet101 --pretrained resnet101.pth --device cuda --batch-size 8 --accumulate 4
  psmt-fast train --config runs/mine/config.toml --seed 2 --set method.gamma=0.6 --out runs/mine-2
  psmt-fast train --dry-run --device auto --model resnet50 --crop 512
  psmt-fast train --resume runs/mine";

pub(crate) const REPORT: &str = "\
Examples:
  psmt-fast report runs/supervised runs/ps-mt --out compared.html
  psmt-fast report runs/ps-mt --out ps-mt.html";

pub(crate) const EVAL: &str = "\
Examples:
  psmt-fast eval runs/mine
  psmt-fast eval runs/mine --network ensemble --scales 0.75,1,1.25 --flip --json scores.json
  psmt-fast eval runs/mine/checkpoints/best.safetensors --data DIR --val test.txt --window 800";

pub(crate) const PREDICT: &str = "\
Examples:
  psmt-fast predict --checkpoint runs/mine --out predicted photo.jpg
  psmt-fast predict --checkpoint runs/mine --out predicted --recursive --outputs index,overlay photos
  psmt-fast predict --checkpoint runs/mine --out predicted --network student --scales 0.5,1,1.5 --flip photos";

pub(crate) const EXPORT: &str = "\
Examples:
  psmt-fast export --checkpoint runs/mine --out model.onnx --fold-batch-norm
  psmt-fast export --checkpoint runs/mine --out model.onnx --input normalized --output logits --network student
  psmt-fast export --checkpoint runs/mine --out model.safetensors --format pth-names --dtype f16";

pub(crate) const INSPECT: &str = "\
Examples:
  psmt-fast inspect resnet50.pth
  psmt-fast inspect --all runs/mine/checkpoints/best.safetensors";

pub(crate) const PRESETS: &str = "\
Examples:
  psmt-fast presets";

pub(crate) const CHECK_DATA: &str = "\
Examples:
  psmt-fast check-data --data DIR --num-classes 11 --labeled labeled.txt --unlabeled unlabeled.txt --val val.txt
  psmt-fast check-data --preset cityscapes --data CITYSCAPES --labeled train.txt --val val.txt";

pub(crate) const SPLIT: &str = "\
Examples:
  psmt-fast split --data DIR --num-classes 11 --list train.txt --labeled 1/8 --out splits/8
  psmt-fast split --preset voc --data VOC --list train_aug.txt --labeled 662 --seed 3 --out splits/662-3";

pub(crate) const DOCTOR: &str = "\
Examples:
  psmt-fast doctor
  psmt-fast doctor --json";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  psmt-fast completions bash > ~/.local/share/bash-completion/completions/psmt-fast
  psmt-fast completions fish > ~/.config/fish/completions/psmt-fast.fish";

pub(crate) const MAN: &str = "\
Examples:
  psmt-fast man ~/.local/share/man/man1";

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::{CommandFactory, Parser};

    /// The command lines of a help text: a line that ends in a backslash goes on in the next.
    fn command_lines(help: &str) -> Vec<String> {
        let joined = help.replace("\\\n", " ");
        joined
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("psmt-fast "))
            .map(String::from)
            .collect()
    }

    /// Parses a line without what a shell takes for itself.
    fn parse(line: &str) {
        let own = line.split(" > ").next().unwrap_or_default();
        let own = own.split(" #").next().unwrap_or_default();
        if let Err(e) = Cli::try_parse_from(own.split_whitespace()) {
            panic!("{line}\n{e}");
        }
    }

    #[test]
    fn commands_of_the_documents_parse() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
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
        assert!(found > 20, "{found} commands");
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
        examples_parse(&Cli::command(), "psmt-fast");
    }
}
