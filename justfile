# Short names for the commands that tests/run calls, with the same flags. `just` lists them.

# List the recipes
default:
    @just --list

# Every check and test, as before a merge; installs what it needs
all *ARGS:
    bash tests/run {{ ARGS }}

# All checks that run no test
check: fmt-check lint doc deny

# Format the code
fmt:
    cargo fmt --all

# Say what is not formatted
fmt-check:
    cargo fmt --all --check

# Lints, as errors
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# The documentation, with its links checked
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

# Licences, bans and sources of dependencies
deny:
    cargo fetch --locked --quiet
    cargo deny --offline --locked check bans licenses sources

# All tests, or those that a filter names: just test floors
test *ARGS:
    cargo nextest run --workspace --locked --no-fail-fast {{ ARGS }}

# Unit tests of the library alone
unit *ARGS:
    cargo nextest run --workspace --locked --lib {{ ARGS }}

# Examples in the documentation
doctest:
    cargo test --workspace --doc --locked --quiet

# A network on this machine: share, search, fetch, conflict, evict, lose the master
demo:
    cargo run --release --locked -- demo

# What a change of downloads costs: one file of 256 MiB over loopback, three times
bench-small:
    bash benches/loopback 256 3

# Rounds of crashes: for changes of what is on disk, in the index or in the mirror
crash ROUNDS="60":
    cargo build --release --locked
    benches/crash {{ ROUNDS }}
