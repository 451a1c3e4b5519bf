//! The last steps of the demo: without the master, and with it again.

use std::path::Path;
use std::time::Instant;

use super::StepResult;
use super::processes::Stage;
use super::steps::{get, read_error, text, until};
use crate::node::{Api, GetRequest, MasterState, Source, Standing};

/// A name that nobody has before the master is killed.
const NEW: &str = "made-meanwhile.txt";
const NEW_TEXT: &str = "Written while the master was away.\n";

pub(super) async fn kill_master(stage: &mut Stage) -> StepResult {
    let begin = Instant::now();
    stage.take("master")?.kill().await?;
    for name in ["ben", "cleo"] {
        let client = &stage.node(name)?.client;
        until("a peer misses the master", async || {
            matches!(client.status().await, Ok(status) if matches!(status.master, MasterState::Unreachable { .. }))
        })
        .await?;
    }
    let noticed = begin.elapsed();
    let cleo = stage.node("cleo")?;
    let asked = Instant::now();
    let found = cleo.client.lookup("lab/readme.txt").await.map_err(|error| text(&error))?;
    let answered = asked.elapsed();
    if found.source != Source::Dht || !found.certified || found.entry.owner != stage.node("ben")?.ready.peer_id {
        return Err(format!("unexpected answer: {found:?}"));
    }
    let entries = cleo.client.search("readme", 10).await.map_err(|error| text(&error))?;
    if entries.len() != 1 {
        return Err(format!("the search found {} names, not 1", entries.len()));
    }
    let output = cleo.files().join("from-ben.txt");
    let request = GetRequest { name: "lab/readme.txt".to_owned(), output: output.clone(), recursive: false };
    get(stage, "cleo", &request).await.map_err(|error| text(&error))?;
    let got = std::fs::read_to_string(&output).map_err(read_error(&output))?;
    if got != "not what Anna has" {
        return Err(format!("the download has {got:?}"));
    }
    Ok(format!(
        "The peers noticed within {} ms. Cleo's lookup was answered by the DHT in {} ms, with the master's signature; \
         she searched, and downloaded the file from Ben.",
        noticed.as_millis(),
        answered.as_millis()
    ))
}

async fn share_new(stage: &Stage, who: &str, content: &str) -> Result<Option<Standing>, String> {
    let path = stage.node(who)?.files().join(NEW);
    std::fs::write(&path, content).map_err(read_error(&path))?;
    let report = stage.node(who)?.client.share(vec![path], None).outcome().await.map_err(|error| text(&error))?;
    Ok(report.entries.into_iter().next().map(|entry| entry.standing))
}

pub(super) async fn claim(stage: &mut Stage) -> StepResult {
    match share_new(stage, "cleo", NEW_TEXT).await? {
        Some(Standing::Claimed) => {}
        other => return Err(format!("unexpected answer: {other:?}")),
    }
    let ben = &stage.node("ben")?.client;
    let found = ben.lookup(NEW).await.map_err(|error| text(&error))?;
    if found.certified || found.source != Source::Dht {
        return Err(format!("unexpected answer: {found:?}"));
    }
    let cleo = stage.node("cleo")?.ready.peer_id;
    match share_new(stage, "ben", "Ben's own").await? {
        Some(Standing::Conflict { conflict_owner }) if conflict_owner == cleo => {}
        other => return Err(format!("unexpected answer: {other:?}")),
    }
    Ok(format!("{NEW} is Cleo's by a claim that the DHT holds; Ben finds it, and may not have the name."))
}

pub(super) async fn master_returns(stage: &mut Stage, address: &str) -> StepResult {
    let begin = Instant::now();
    stage.start("master", &["--role", "master", "--listen", without_peer(address)]).await?;
    let cleo = &stage.node("cleo")?.client;
    until("the claim is certified", async || {
        let shared = cleo.shared().await.unwrap_or_default();
        shared.iter().any(|shared| shared.entry.name.as_str() == NEW && shared.standing == Standing::Certified)
    })
    .await?;
    let found = stage.node("master")?.client.lookup(NEW).await.map_err(|error| text(&error))?;
    if !found.certified || found.entry.owner != stage.node("cleo")?.ready.peer_id {
        return Err(format!("unexpected answer: {found:?}"));
    }
    let path = stage.node("ben")?.files().join(NEW);
    if !Path::new(&path).exists() {
        return Err("Ben lost his file".to_owned());
    }
    Ok(format!(
        "{:.1} s after its start the peers are back, and the name is certified to Cleo.",
        begin.elapsed().as_secs_f64()
    ))
}

fn without_peer(address: &str) -> &str {
    address.split("/p2p/").next().unwrap_or(address)
}
