//! The examples do what they say.

use std::path::Path;
use std::process::Command;

/// Each checks by itself what comes of it.
#[test]
fn the_examples_run() {
    let built = Path::new(env!("CARGO_BIN_EXE_swarmdex")).parent().unwrap().join("examples");
    for example in ["share_and_get", "stream"] {
        let output = Command::new(built.join(example)).output().unwrap();
        assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
