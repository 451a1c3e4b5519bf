//! `swarmdex demo`: a master and three peers as real processes, what they can do together, and what the
//! peers can do alone.

mod outage;
mod processes;
mod steps;

use std::time::Instant;

use processes::Stage;

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::{Rest, interruptible};
use crate::cli::output::lines;
use crate::cli::shown::Shown;

/// Why a step failed, for people.
type StepResult = Result<String, String>;

/// Show it all on this machine: share, search, download, conflict, revocation, eviction
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Demo;

impl Verb for Demo {
    const SHOWN: Shown = Shown::NOTHING;

    /// Runs every step; the first that fails ends it. What was started is ended, and what was written removed.
    async fn run(self, _: &Context) -> Result<(), Failure> {
        interruptible(Rest::CleanedUp, play()).await
    }
}

async fn play() -> Result<(), Failure> {
    let begin = Instant::now();
    let mut stage = Stage::new()?;
    lines(&format!("swarmdex demo: a master and three peers on this machine, in {}", stage.folder().display()))?;
    macro_rules! step {
        ($number:literal, $title:literal, $step:path $(, $argument:expr)?) => {
            let started = Instant::now();
            lines(&format!("\n{}. {}", $number, $title))?;
            match $step(&mut stage $(, $argument)?).await {
                Ok(told) => lines(&format!("   {told}\n   ({:.2} s)", started.elapsed().as_secs_f64()))?,
                Err(error) => {
                    return Err(Failure::Demo(format!(
                        "step {} of the demo failed: {error}\n{}",
                        $number,
                        stage.logs()
                    )));
                }
            }
        };
    }
    step!(1, "Start a master, and three peers that join it by its address.", steps::start);
    step!(2, "Anna shares a folder of small files and one file of 256 MiB.", steps::share);
    step!(3, "Ben searches.", steps::search);
    step!(4, "Ben looks one name up: the answer is signed by the master.", steps::lookup);
    step!(5, "Ben downloads the big file straight from Anna.", steps::get_large);
    step!(6, "Cleo downloads the whole folder.", steps::get_folder);
    step!(7, "Ben tries to share another file under a name of Anna's.", steps::conflict);
    step!(8, "Anna revokes a name, and Ben takes it.", steps::revoke);
    step!(9, "Anna's process is killed. The master notices, and frees her names.", steps::evict);
    let address = steps::address(&stage).map_err(Failure::Demo)?;
    step!(10, "The master's process is killed. Search, lookup and download go on.", outage::kill_master);
    step!(11, "Without the master Cleo claims a new name, and Ben wants it too.", outage::claim);
    step!(12, "The master comes back.", outage::master_returns, &address);
    step!(13, "Everybody leaves.", steps::leave);
    lines(&format!(
        "\nEverything worked, in {:.1} s. The temporary folder is removed.",
        begin.elapsed().as_secs_f64()
    ))?;
    Ok(())
}
