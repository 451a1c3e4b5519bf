//! Renewals on a stream that stays open: what real nodes say there, and what strangers may.

use std::time::Duration;

use libp2p::identity::Keypair;
use swarmdex_protocols::index::{
    Compare, IndexRequest, IndexResponse, Joined, Refusal, RefusalCode, Renew, Renewed, Session, ShareSum,
};
use swarmdex_protocols::limits::MAX_RENEW_MESSAGE;

use crate::harness::{Process, TestNode};
use crate::stranger::{Conversation, RENEW, Stranger, framed};

fn renewal(session: Session) -> IndexRequest {
    IndexRequest::Renew(Renew { session, held: ShareSum::default(), repaired: 0 })
}

async fn renews(conversation: &mut Conversation, session: Session) -> bool {
    matches!(conversation.ask(&renewal(session)).await.unwrap(), IndexResponse::Renewed(Renewed { agreed: true, .. }))
}

fn refused(response: &IndexResponse) -> Option<RefusalCode> {
    match response {
        IndexResponse::Refused(Refusal { code, .. }) => Some(*code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_carries_many_renewals_of_under_200_bytes() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let Joined { session, .. } = stranger.join(id).await;
    let mut conversation = stranger.open(RENEW, id).await;
    for _ in 0..100 {
        assert!(renews(&mut conversation, session).await);
    }
    assert!(framed(&renewal(Session(u64::MAX))).len() < 200);
    // Two questions at once are answered one after the other.
    conversation.say(&[framed(&renewal(session)), framed(&renewal(Session(7)))].concat()).await.unwrap();
    assert!(matches!(conversation.hear().await.unwrap(), IndexResponse::Renewed(_)));
    assert_eq!(refused(&conversation.hear().await.unwrap()), Some(RefusalCode::NotJoined));
    assert!(renews(&mut conversation, session).await);
    // Whoever opens another stream gives up the one before.
    let mut second = stranger.open(RENEW, id).await;
    assert!(renews(&mut second, session).await);
    assert!(conversation.ask(&renewal(session)).await.is_err());
    assert!(renews(&mut second, session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_renewal_is_refused_and_disturbs_nobody() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let session = stranger.join(id).await.session;
    let (other, _) = Stranger::at(&master).await;
    let theirs = other.join(id).await.session;
    let mut undisturbed = other.open(RENEW, id).await;

    let mut conversation = stranger.open(RENEW, id).await;
    let compare = IndexRequest::Compare(Compare { session, ranges: Vec::new() });
    for request in [IndexRequest::Master, compare] {
        let response = conversation.ask(&request).await.unwrap();
        assert_eq!(refused(&response), Some(RefusalCode::Unsupported));
    }
    assert!(renews(&mut conversation, session).await, "the stream goes on");

    let long = ((MAX_RENEW_MESSAGE + 1) as u32).to_be_bytes();
    for bytes in [&long[..], &[0, 0, 0, 3, 0xff, 0xff, 0xff], &[0xff; 4]] {
        let mut conversation = stranger.open(RENEW, id).await;
        conversation.say(bytes).await.unwrap();
        let refusal = conversation.hear().await.unwrap();
        assert!(
            matches!(refused(&refusal), Some(RefusalCode::Malformed | RefusalCode::Quota | RefusalCode::Unsupported)),
            "{refusal:?}"
        );
        assert!(conversation.hear::<IndexResponse>().await.is_err(), "nothing more is read here");
        assert!(renews(&mut undisturbed, theirs).await);
    }
    // Nothing at all, half a question, and a connection that ends in the middle of one.
    let mut conversation = stranger.open(RENEW, id).await;
    conversation.say(&[0; 4]).await.unwrap();
    assert!(conversation.hear::<IndexResponse>().await.is_err());
    let whole = framed(&renewal(session));
    for cut in 1..whole.len() {
        let mut conversation = stranger.open(RENEW, id).await;
        conversation.say(&whole[..cut]).await.unwrap();
    }
    let mut conversation = stranger.open(RENEW, id).await;
    assert!(renews(&mut conversation, session).await);
    conversation.say(&whole[..9]).await.unwrap();
    stranger.disconnect(id).await;
    assert!(renews(&mut undisturbed, theirs).await);
}

/// What the renewals of ten thousand members at rest cost their master beyond what the pings cost that they take the place
/// of: as many a second, from 200 of them, in turn.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: benches/renewals"]
async fn renewals_of_ten_thousand_members() {
    const MEMBERS: u32 = 200;
    const OF: u32 = 10_000;
    const SECONDS: u32 = 20;
    let mut spent = Vec::new();
    for pings in [true, false] {
        let folder = tempfile::TempDir::new().unwrap();
        let master = Process::start("master", folder.path(), &[]);
        // Of ten thousand members each pings every 10 seconds, or renews every 20, two thirds of a lease.
        let pause = Duration::from_secs(if pings { 10 } else { 20 }) * MEMBERS / OF;
        let interval = if pings { pause } else { Duration::from_secs(3600) };
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            let config = libp2p::ping::Config::new().with_interval(interval);
            let stranger = Stranger::pinging(Keypair::generate_ed25519(), config).await;
            let id = stranger.connect(&master.address().parse().unwrap()).await.unwrap();
            let session = stranger.join(id).await.session;
            let conversation = stranger.open(RENEW, id).await;
            members.push((stranger, conversation, session));
        }
        let begun = tokio::time::Instant::now();
        let end = begun + Duration::from_secs(1) * SECONDS;
        let begin = master.processor();
        let each = members.iter_mut().zip(1..).map(async |((_, conversation, session), number)| {
            let mut next = begun + pause * number / MEMBERS;
            while !pings && next < end {
                tokio::time::sleep_until(next).await;
                assert!(renews(conversation, *session).await);
                next += pause;
            }
        });
        futures::future::join_all(each).await;
        tokio::time::sleep_until(end).await;
        spent.push((master.processor() - begin) * 100.0 / f64::from(SECONDS));
    }
    println!(
        "pings alone {:.2} %, renewals in their place {:.2} %: {:+.2} % of a processor",
        spent[0],
        spent[1],
        spent[1] - spent[0]
    );
}
