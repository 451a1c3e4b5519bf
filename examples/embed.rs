//! A peer inside another program: it joins the network that a master keeps, shares a folder, and prints what happens until Ctrl-C.
//!
//! ```text
//! cargo run --example embed -- /ip4/10.0.0.1/tcp/4747 ~/shared
//! ```
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::PathBuf;

use swarmdex::config::{Config, Role};
use swarmdex::node::Node;

async fn run(master: &str, folder: PathBuf) -> Result<(), Box<dyn Error>> {
    let data_dir = std::env::temp_dir().join("swarmdex-embed");
    let config = Config::new(Role::Peer, data_dir).with_master(vec![master.parse()?]);
    let node = Node::start(config).await?;
    let mut events = node.events(Some(0));
    let (mut share, mut is_over) = (node.share(vec![folder], None), false);
    loop {
        tokio::select! {
            outcome = share.outcome(), if !is_over => {
                is_over = true;
                match outcome {
                    Ok(report) => println!("{} files are shared", report.entries.len()),
                    Err(error) => println!("nothing is shared: {}", error.describe()),
                }
            }
            told = events.next() => match told {
                Some(told) => println!("{told:?}"),
                None => break,
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    node.shutdown().await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // Before anything else runs.
    swarmdex::tune();
    let mut arguments = std::env::args().skip(1);
    let (Some(master), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("the address of a master and a folder are wanted".into());
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(swarmdex::worker_threads()).enable_all().build()?;
    runtime.block_on(run(&master, std::path::absolute(folder)?))
}
