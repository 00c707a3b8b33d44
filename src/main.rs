//! The `psmt-fast` program: everything is in the library, `main` only turns the result into an exit code.

fn main() -> std::process::ExitCode {
    psmt_fast::cli::main()
}
