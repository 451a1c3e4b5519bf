//! `swarmdex get`: into a file, a folder, or a stream.

mod stream;

use std::path::{Path, PathBuf};
use std::time::Duration;

use stream::Stream;

use super::{Context, Verb};
use crate::cli::backend::TemporaryFolder;
use crate::cli::interrupt::{Rest, with_node};
use crate::cli::output::{self, Bar, note, size};
use crate::cli::settings::NodeArgs;
use crate::cli::shown::Shown;
use crate::cli::{Failure, absolute, summary};
use crate::node::{Api, FailedFile, GetOptions, GetReport, GetRequest, GotFile, Progress};

/// Longest time that can be given.
const MAX_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Download a file, or with --recursive all files below a prefix
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Get {
    /// Name of the file, or prefix of names
    name: String,
    /// File or folder to write; a slash at its end makes a folder, - is standard output [default: the current folder]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Download every name below NAME
    #[arg(short, long)]
    pub(in crate::cli) recursive: bool,
    /// Bring copies up to date: what changed is replaced, unless it was changed here as well
    #[arg(short, long)]
    update: bool,
    /// With --recursive: also remove copies of what is gone, unless they were changed here
    #[arg(long, requires = "recursive")]
    delete: bool,
    /// Leave the executable bit and the time of files to the system
    #[arg(long)]
    no_preserve: bool,
    /// Do not wait until what came is on disk: faster on a slow one, and a power cut takes some of it
    #[arg(long)]
    no_sync: bool,
    /// Wait so long for owners that are away, and for names that nobody has yet: 90s, 10m, 2h
    /// [default: longer than a lease, once something has come]
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "no_wait")]
    wait: Option<Duration>,
    /// Do not wait for an owner that is away
    #[arg(long)]
    no_wait: bool,
}

impl Get {
    fn options(&self) -> GetOptions {
        let wait = if self.no_wait { Some(Duration::ZERO) } else { self.wait };
        GetOptions {
            wait_seconds: wait.map(|wait| wait.as_secs_f64()),
            preserve: !self.no_preserve,
            update: self.update || self.delete,
            delete: self.delete,
            fleeting: false,
            no_sync: self.no_sync,
        }
    }

    /// Where it goes if nothing else is said: a prefix into a folder of its own, everything else here.
    fn output(&self) -> PathBuf {
        let last = self.name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        match &self.output {
            Some(path) => path.clone(),
            None if self.recursive && !matches!(last, "" | "." | "..") => PathBuf::from(last),
            None => PathBuf::from("."),
        }
    }
}

/// A time as people write it: a number, of seconds unless a unit follows.
fn parse_time(text: &str) -> Result<Duration, String> {
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err("a number and ms, s, m, h or d is wanted, as in 90s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "a number is wanted, as in 90s".to_owned())?;
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    if time > MAX_WAIT { Err("30 days at most".to_owned()) } else { Ok(time) }
}

impl Verb for Get {
    const SHOWN: Shown = Shown { verbose: true, ..Shown::ASKS };

    async fn run(self, context: &Context) -> Result<(), Failure> {
        let get = self;
        let (args, json, verbose) = (&context.node, context.output.json, context.output.verbose);
        let output = get.output();
        if let Some(stream) = Stream::of(&output) {
            if get.recursive || get.update {
                return Err(Failure::Stream("one file goes to a stream: --recursive, --update and --delete do not"));
            }
            return into_stream(args, get, &output, stream, json).await;
        }
        let mut place = absolute(&output)?;
        // A folder is meant, and the dot is gone by now.
        if ["/.", "/.."].iter().any(|end| output.as_os_str().as_encoded_bytes().ends_with(end.as_bytes())) {
            place.push("");
        }
        let request = GetRequest { name: get.name.clone(), output: place, recursive: get.recursive };
        let options = get.options();
        let report = with_node(args, Rest::GoesOn, async |api| download(api, request, options).await).await?;
        if json && get.recursive {
            output::json(&report.files)?;
        } else if json {
            output::json(&report.files.first())?;
        } else {
            print(&report, &get, verbose)?;
        }
        // What was changed here is each user's own to look at.
        summary::note_each(&report.kept, verbose, "kept", |kept| format!("{}: {}", kept.path.display(), kept.reason));
        if json {
            summary::note_each(&report.deleted, verbose, "removed", |path| path.display().to_string());
        }
        fail_for(&report.failed, verbose)
    }
}

/// Downloads, and says how far it is and for whom it waits.
async fn download(api: &dyn Api, request: GetRequest, options: GetOptions) -> Result<GetReport, Failure> {
    let (mut bar, mut waiting) = (Bar::new(), Waiting::default());
    let mut operation = api.get_with(request, options);
    let report = operation.follow(|progress| {
        waiting.say(&progress, &bar);
        bar.show(&progress);
    });
    let report = report.await;
    bar.finish();
    Ok(report?)
}

/// What the user was last told that the command waits for.
#[derive(Debug, Default)]
struct Waiting(Option<String>);

impl Waiting {
    fn say(&mut self, progress: &Progress, bar: &Bar) {
        if progress.waiting == self.0 {
            return;
        }
        match &progress.waiting {
            Some(waiting) => bar.aside(waiting),
            None => bar.aside("it goes on"),
        }
        self.0.clone_from(&progress.waiting);
    }
}

/// Downloads a file, and passes it on once all of it is here and verified.
async fn into_stream(args: &NodeArgs, get: Get, output: &Path, stream: Stream, json: bool) -> Result<(), Failure> {
    let options = GetOptions { fleeting: true, ..get.options() };
    let to_stdout = stream.is_stdout();
    let got = with_node(args, Rest::Nothing, async |api| {
        // Whoever reads a named pipe is there from the start, and sees its end if the download fails.
        let opening = tokio::task::spawn_blocking(move || stream.open());
        let folder = TemporaryFolder::in_folder(&room(args), "swarmdex-stream")?;
        let request = GetRequest { name: get.name.clone(), output: folder.path().join("file"), recursive: false };
        let report = download(api, request, options).await?;
        let Some(got) = report.files.into_iter().next() else { return Err(Failure::Node(crate::node::Error::Answer)) };
        let file = std::fs::File::open(&got.path).map_err(|error| Failure::Path(got.path.clone(), error))?;
        // From here on it is this process's alone, and gone with it.
        drop(folder);
        let opened = opening.await.map_err(|_| Failure::Node(crate::node::Error::Bug))?;
        let writer = opened.map_err(|error| Failure::Write(output.to_owned(), error))?;
        let passing = tokio::task::spawn_blocking(move || stream::pass_on(&file, &writer));
        match passing.await.map_err(|_| Failure::Node(crate::node::Error::Bug))? {
            Ok(()) => Ok(GotFile { path: output.to_owned(), ..got }),
            // Whoever read it has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
            Err(error) => Err(Failure::Write(output.to_owned(), error)),
        }
    })
    .await?;
    match (json, to_stdout) {
        // What was asked for is all that standard output gets.
        (true, true) => output::json_aside(&got)?,
        (true, false) => output::json(&got)?,
        (false, true) => {}
        (false, false) => print_file(&got)?,
    }
    Ok(())
}

/// Where a file is kept on its way to a stream: where the node keeps its own, which is a disk and not memory.
fn room(args: &NodeArgs) -> PathBuf {
    let data_dir = args.data_dir().ok().filter(|folder| folder.is_dir());
    data_dir.unwrap_or_else(std::env::temp_dir)
}

fn print(report: &GetReport, get: &Get, verbose: bool) -> Result<(), Failure> {
    if !get.recursive {
        return report.files.iter().try_for_each(print_file);
    }
    // Of an update only what it did is news.
    let is_news = |file: &&GotFile| !(get.update || get.delete) || is_fetched(file);
    for file in report.files.iter().filter(is_news).filter(|_| verbose) {
        print_file(file)?;
    }
    let (deleted, left) = summary::listed(&report.deleted, verbose);
    for path in deleted {
        output::line(&format!("{}  removed", path.display()))?;
    }
    if left > 0 {
        output::line(&format!("{left} more removed; --verbose names them"))?;
    }
    let bytes: u64 = report.files.iter().map(|file| file.bytes).sum();
    let folder = absolute(&get.output())?;
    let mut sum = format!("{}, {}, in {}", summary::files(report.files.len()), size(bytes), folder.display());
    if get.update || get.delete {
        let fetched = report.files.iter().filter(|file| is_fetched(file)).count();
        sum = format!("{sum}: {fetched} fetched, {} kept, {} removed", report.kept.len(), report.deleted.len());
    }
    output::line(&sum)
}

/// Whether a file was not in place already. An empty one comes from nobody.
fn is_fetched(file: &GotFile) -> bool {
    !file.sources.is_empty()
}

/// Says which files failed; the exit code is that of the first.
fn fail_for(failed: &[FailedFile], verbose: bool) -> Result<(), Failure> {
    let (some, left) = summary::listed(failed, verbose);
    for file in some {
        note(&format!("{}: {}", file.name, file.message));
    }
    if left > 0 {
        note(&format!("{left} more files failed; --verbose names them"));
    }
    failed.first().map_or(Ok(()), |file| Err(Failure::Said(file.kind)))
}

fn print_file(file: &GotFile) -> Result<(), Failure> {
    output::line(&format!("{}  {}  {:.2} s", file.path.display(), size(file.bytes), file.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_write_them() {
        for (text, milliseconds) in [
            ("90", 90_000),
            ("1.5s", 1500),
            ("10m", 600_000),
            ("2 h", 7_200_000),
            ("1d", 86_400_000),
            ("5ms", 5),
            ("0", 0),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1", "1x", "nan", "inf", "1e9", "31d", "1..2s"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
