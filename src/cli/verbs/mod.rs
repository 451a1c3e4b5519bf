//! The verbs of the command line: a file each, with its flags, what it does, and what it prints.
//!
//! A new one is a file here, and a `mod` and a line in the list of this one. What it asks a node that nobody asked before is a
//! method of the handle (`node/api.rs`), with a route and its caller (`http/routes.rs`, `http/client.rs`).

mod completions;
mod demo;
mod get;
pub(super) mod help;
mod identity;
mod lookup;
mod ls;
mod peers;
mod revoke;
mod run;
mod search;
mod share;
mod status;
mod unshare;

use super::settings::NodeArgs;
use super::shown::Shown;
use super::{Failure, OutputArgs};
use crate::http::Client;
use crate::log::Program;

/// What every verb is told besides its own flags.
#[derive(Debug)]
pub(super) struct Context {
    /// Which node is meant, or what kind of node to run.
    pub(super) node: NodeArgs,
    /// How to print.
    pub(super) output: OutputArgs,
}

impl Context {
    /// The node that runs in the data directory.
    async fn running(&self) -> Result<Client, Failure> {
        let data_dir = self.node.data_dir()?;
        let flags = || self.node.repeated();
        Client::find(&data_dir).await?.ok_or_else(|| Failure::NotRunning { data_dir, flags: flags() })
    }
}

/// One verb. Its fields are its flags, and its documentation is its help.
trait Verb: clap::Args {
    /// What its help shows of the flags that every verb takes.
    const SHOWN: Shown = Shown::RUNNING;
    /// What kind of program the process is while it does it.
    const PROGRAM: Program = Program::Command;

    /// Does it, and prints what came of it.
    async fn run(self, context: &Context) -> Result<(), Failure>;
}

/// Makes the enum that the command line is parsed into, and passes on to each verb what is its own.
macro_rules! verbs {
    ($($name:literal => $file:ident::$verb:ident,)+) => {
        #[derive(Debug, clap::Subcommand)]
        pub(super) enum Command {
            $(#[command(name = $name)] $verb($file::$verb),)+
        }

        impl Command {
            /// What the help of a verb shows of the flags that every verb takes.
            pub(super) fn shown(name: &str) -> Shown {
                match name {
                    $($name => <$file::$verb as Verb>::SHOWN,)+
                    _ => Shown::RUNNING,
                }
            }

            /// What kind of program the process is while it does it.
            pub(super) fn program(&self) -> Program {
                match self {
                    $(Self::$verb(_) => <$file::$verb as Verb>::PROGRAM,)+
                }
            }

            /// Does it.
            pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
                match self {
                    $(Self::$verb(verb) => verb.run(context).await,)+
                }
            }
        }
    };
}

// In the order in which the help lists them.
verbs! {
    "run" => run::Run,
    "get" => get::Get,
    "search" => search::Search,
    "share" => share::Share,
    "revoke" => revoke::Revoke,
    "unshare" => unshare::Unshare,
    "ls" => ls::Ls,
    "peers" => peers::Peers,
    "status" => status::Status,
    "lookup" => lookup::Lookup,
    "identity" => identity::Identity,
    "demo" => demo::Demo,
    "completions" => completions::Completions,
}

impl Default for Command {
    /// What is meant if none is named.
    fn default() -> Self {
        Self::Run(run::Run)
    }
}
