//! The `psmt-lab` program.

fn main() -> std::process::ExitCode {
    psmt_lab::cli::main()
}
