//! The steps of the demo. Each returns what to tell.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::Rng;

use super::StepResult;
use super::processes::{Actor, Stage};
use crate::cli::output::size;
use crate::node::{Api, ErrorKind, GetReport, GetRequest, MasterState, ShareReport, Standing};

/// Size of the large file, in bytes.
const LARGE: usize = 256 << 20;
/// Small files: name below the folder, and text.
const SMALL: [(&str, &str); 4] = [
    ("readme.txt", "What is in this folder: results of 2024.\n"),
    ("results/climate-2024.csv", "year,mean\n2024,15.1\n"),
    ("results/ocean-2024.csv", "year,mean\n2024,21.0\n"),
    ("results/empty.log", ""),
];
/// How long anything may take that takes moments.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn text(error: &crate::Error) -> String {
    error.describe()
}

pub(super) fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    let path = path.to_owned();
    move |error| format!("{}: {error}", path.display())
}

/// Asks again until it is so.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Result<Duration, String> {
    let begin = Instant::now();
    while !is_so().await {
        if begin.elapsed() > PATIENCE {
            return Err(format!("waited {PATIENCE:?} in vain: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(begin.elapsed())
}

pub(super) async fn start(stage: &mut Stage) -> StepResult {
    let master = stage.start("master", &["--role", "master"]).await?;
    let address = tcp_address(master)?;
    for name in ["anna", "ben", "cleo"] {
        let peer = stage.start(name, &["--role", "peer", "--master", &address]).await?;
        until("the peer joins", async || {
            matches!(peer.client.status().await, Ok(status) if matches!(status.master, MasterState::Joined { .. }))
        })
        .await?;
    }
    let peers = stage.node("master")?.client.peers().await.map_err(|error| text(&error))?;
    if peers.len() != 4 {
        return Err(format!("the master counts {} members", peers.len()));
    }
    Ok(format!("The master listens on {address}; it counts itself and three peers."))
}

fn tcp_address(node: &Actor) -> Result<String, String> {
    let mut addresses = node.ready.listen.iter().map(ToString::to_string);
    addresses.find(|address| address.contains("/tcp/")).ok_or_else(|| "no TCP address".to_owned())
}

/// Where the master listens.
pub(super) fn address(stage: &Stage) -> Result<String, String> {
    tcp_address(stage.node("master")?)
}

pub(super) async fn share(stage: &mut Stage) -> StepResult {
    let anna = stage.node("anna")?;
    let folder = anna.files().join("data");
    for (name, content) in SMALL {
        let path = folder.join(name);
        let parent = path.parent().ok_or("a file without a folder")?;
        std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, content)).map_err(read_error(&path))?;
    }
    let large = anna.files().join("noise.bin");
    let path = large.clone();
    tokio::task::spawn_blocking(move || write_noise(&path)).await.map_err(|error| error.to_string())??;
    let begin = Instant::now();
    share_paths(stage, "anna", vec![folder], Some("lab")).await?;
    let report = share_paths(stage, "anna", vec![large], None).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let content = report.entries.first().ok_or("the large file was not shared")?.entry.content;
    Ok(format!(
        "{} names certified; {} hashed at {}/s. The content id of noise.bin, {}…, is what b3sum prints.",
        SMALL.len() + 1,
        size(LARGE as u64),
        size((LARGE as f64 / seconds) as u64),
        content.to_string().get(..16).unwrap_or_default(),
    ))
}

fn write_noise(path: &Path) -> Result<(), String> {
    let mut file = std::fs::File::create(path).map_err(read_error(path))?;
    let mut block = vec![0; 1 << 20];
    let mut random = rand::rng();
    for _ in 0..LARGE / block.len() {
        random.fill_bytes(&mut block);
        file.write_all(&block).map_err(read_error(path))?;
    }
    Ok(())
}

async fn share_paths(stage: &Stage, who: &str, paths: Vec<PathBuf>, name: Option<&str>) -> Result<ShareReport, String> {
    let client = &stage.node(who)?.client;
    let report = client.share(paths, name.map(str::to_owned)).outcome().await.map_err(|error| text(&error))?;
    match report.entries.iter().find(|entry| entry.standing != Standing::Certified) {
        Some(entry) => Err(format!("{} is {:?}", entry.entry.name, entry.standing)),
        None => Ok(report),
    }
}

pub(super) async fn search(stage: &mut Stage) -> StepResult {
    let ben = &stage.node("ben")?.client;
    let mut told = Vec::new();
    for (query, expected) in [("2024 clim", 1), ("*.csv", 2), ("lab", 4), ("nothing-like-it", 0)] {
        let found = ben.search(query, 100).await.map_err(|error| text(&error))?;
        if found.len() != expected {
            return Err(format!("{query:?} found {} names, not {expected}", found.len()));
        }
        let names: Vec<_> = found.iter().map(|entry| entry.name.as_str()).collect();
        told.push(format!(
            "{query:?} finds {}",
            if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
        ));
    }
    Ok(told.join("\n   "))
}

pub(super) async fn lookup(stage: &mut Stage) -> StepResult {
    let found = stage.node("ben")?.client.lookup("lab/readme.txt").await.map_err(|error| text(&error))?;
    let anna = stage.node("anna")?.ready.peer_id;
    if !found.certified || found.entry.owner != anna || found.holders.first().map(|holder| holder.peer_id) != Some(anna)
    {
        return Err(format!("unexpected answer: {found:?}"));
    }
    Ok(format!("lab/readme.txt belongs to Anna ({anna}), at version {}.", found.entry.version.0))
}

pub(super) async fn get(stage: &Stage, who: &str, request: &GetRequest) -> Result<GetReport, crate::Error> {
    let node = stage.node(who).map_err(|message| crate::Error::Remote { kind: ErrorKind::Other, message })?;
    node.client.get(request.clone()).outcome().await
}

pub(super) async fn get_large(stage: &mut Stage) -> StepResult {
    let output = stage.node("ben")?.files();
    let request = GetRequest { name: "noise.bin".to_owned(), output, recursive: false };
    let report = get(stage, "ben", &request).await.map_err(|error| text(&error))?;
    let file = report.files.first().ok_or("nothing was downloaded")?;
    let (got, original) = (file.path.clone(), stage.node("anna")?.files().join("noise.bin"));
    let same =
        tokio::task::spawn_blocking(move || same_bytes(&got, &original)).await.map_err(|error| error.to_string())??;
    if !same {
        return Err("the copy differs from the original".to_owned());
    }
    let rate = size((file.bytes as f64 / file.seconds) as u64);
    Ok(format!(
        "{} in {:.2} s ({rate}/s), encrypted, every chunk verified; byte for byte the same.",
        size(file.bytes),
        file.seconds
    ))
}

fn same_bytes(a: &Path, b: &Path) -> Result<bool, String> {
    let open = |path: &Path| std::fs::File::open(path).map_err(read_error(path));
    let (mut first, mut second) = (open(a)?, open(b)?);
    let length = |file: &std::fs::File| file.metadata().map(|metadata| metadata.len());
    if length(&first).map_err(read_error(a))? != length(&second).map_err(read_error(b))? {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = first.read(&mut left).map_err(read_error(a))?;
        if count == 0 {
            return Ok(true);
        }
        second.read_exact(&mut right[..count]).map_err(read_error(b))?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

pub(super) async fn get_folder(stage: &mut Stage) -> StepResult {
    let output = stage.node("cleo")?.files().join("lab");
    let request = GetRequest { name: "lab".to_owned(), output: output.clone(), recursive: true };
    let report = get(stage, "cleo", &request).await.map_err(|error| text(&error))?;
    if let Some(failed) = report.failed.first() {
        return Err(format!("{}: {}", failed.name, failed.message));
    }
    for (name, content) in SMALL {
        let path = output.join(name);
        if std::fs::read_to_string(&path).map_err(read_error(&path))? != content {
            return Err(format!("{} differs from the original", path.display()));
        }
    }
    Ok(format!("{} files, each under its path below the prefix, an empty one among them.", report.files.len()))
}

pub(super) async fn conflict(stage: &mut Stage) -> StepResult {
    let path = stage.node("ben")?.files().join("mine.txt");
    std::fs::write(&path, "not what Anna has").map_err(read_error(&path))?;
    let client = &stage.node("ben")?.client;
    let mut call = client.share(vec![path], Some("lab/readme.txt".to_owned()));
    let report = call.outcome().await.map_err(|error| text(&error))?;
    let anna = stage.node("anna")?.ready.peer_id;
    match report.entries.first().map(|entry| &entry.standing) {
        Some(Standing::Conflict { conflict_owner }) if *conflict_owner == anna => {
            Ok("Refused: the name belongs to Anna. On the command line that is exit code 4.".to_owned())
        }
        other => Err(format!("unexpected answer: {other:?}")),
    }
}

pub(super) async fn revoke(stage: &mut Stage) -> StepResult {
    let name = "lab/readme.txt".to_owned();
    let revoked = stage.node("anna")?.client.revoke(vec![name.clone()]).await.map_err(|error| text(&error))?;
    if revoked.iter().any(|name| !name.acknowledged) {
        return Err("the master did not acknowledge the revocation".to_owned());
    }
    match stage.node("cleo")?.client.lookup(&name).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return Err(format!("the name is still found: {other:?}")),
    }
    let path = stage.node("ben")?.files().join("mine.txt");
    share_paths(stage, "ben", vec![path], Some(&name)).await?;
    Ok("At once nobody finds it any more; a moment later it is Ben's.".to_owned())
}

pub(super) async fn evict(stage: &mut Stage) -> StepResult {
    let anna = stage.take("anna")?;
    let id = anna.ready.peer_id;
    anna.kill().await?;
    let cleo = &stage.node("cleo")?.client;
    let waited = until(
        "the names of a dead peer are freed",
        async || matches!(cleo.lookup("noise.bin").await, Err(error) if error.kind() == ErrorKind::NotFound),
    )
    .await?;
    let peers = stage.node("master")?.client.peers().await.map_err(|error| text(&error))?;
    if peers.iter().any(|peer| peer.peer_id == id) {
        return Err("the dead peer is still a member".to_owned());
    }
    Ok(format!(
        "Evicted {:.1} s after the kill (its lease was 3 s); what others share is untouched.",
        waited.as_secs_f64()
    ))
}

pub(super) async fn leave(stage: &mut Stage) -> StepResult {
    for name in ["cleo", "ben", "master"] {
        stage.take(name)?.stop().await?;
    }
    Ok("The peers told the master, and every process ended by itself.".to_owned())
}
