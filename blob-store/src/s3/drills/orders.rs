//! Two processes at one bucket, with their requests in every order that changes sides a few times.

use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::log::{self, Place};
use super::super::record::LogEntry;
use super::super::segments::Segments;
use super::fake::Told;
use super::*;

/// How often the turn changes although the other one could go on.
const SWITCHES: usize = 4;

type Work = Box<dyn Fn(S3Storage) -> Pin<Box<dyn Future<Output = Result<Put, StorageError>> + Send>>>;
type Outcome = Result<Put, StorageError>;

fn work<F>(work: impl Fn(S3Storage) -> F + 'static) -> Work
where
    F: Future<Output = Outcome> + Send + 'static,
{
    Box::new(move |storage| Box::pin(work(storage)))
}

/// One of two at a bucket.
struct Actor {
    waits: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    /// How it is told to do its next request; `None` when it has none any more.
    next: Option<oneshot::Sender<()>>,
    task: JoinHandle<Outcome>,
}

impl Actor {
    async fn start(bucket: &Arc<FakeBucket>, work: &Work) -> Self {
        let (waits, receiver) = mpsc::unbounded_channel();
        let told = Told { bucket: Arc::clone(bucket), waits };
        let mut actor =
            Self { waits: receiver, next: None, task: tokio::spawn(work(storage(Arc::new(told)))) };
        actor.next = actor.waits.recv().await;
        actor
    }

    /// Has it do its next request, and waits until it asks for another or ends.
    async fn go_on(&mut self) {
        self.next.take().unwrap().send(()).unwrap();
        self.next = self.waits.recv().await;
    }
}

/// One order of requests: at which steps the turn changes, and what could have been decided otherwise.
async fn run(
    start: &FakeBucket,
    works: &[Work; 2],
    switches: &[usize],
) -> (Arc<FakeBucket>, [Outcome; 2], Vec<bool>) {
    let bucket = start.copy();
    let mut actors = [Actor::start(&bucket, &works[0]).await, Actor::start(&bucket, &works[1]).await];
    let (mut turn, mut could_switch) = (0, Vec::new());
    while actors.iter().any(|actor| actor.next.is_some()) {
        if actors[turn].next.is_none() {
            turn = 1 - turn;
        } else {
            let can = actors[1 - turn].next.is_some();
            if can && switches.contains(&could_switch.len()) {
                turn = 1 - turn;
            }
            could_switch.push(can);
        }
        if actors[turn].next.is_some() {
            actors[turn].go_on().await;
        }
    }
    let [first, second] = actors;
    (bucket, [first.task.await.unwrap(), second.task.await.unwrap()], could_switch)
}

/// Tries all orders of what is called `what`, and has `check` look at what came of each.
async fn in_every_order<C>(what: &str, start: &FakeBucket, works: [Work; 2], check: C)
where
    C: AsyncFn(Arc<FakeBucket>, [Outcome; 2], String),
{
    let mut open: Vec<Vec<usize>> = vec![Vec::new()];
    let mut orders = 0;
    while let Some(switches) = open.pop() {
        let (bucket, outcomes, could_switch) = run(start, &works, &switches).await;
        orders += 1;
        let context = format!("turn changes at {switches:?}: {outcomes:?}");
        check(bucket, outcomes, context).await;
        if switches.len() < SWITCHES {
            let from = switches.last().map_or(0, |last| last + 1);
            let more = (from..could_switch.len()).filter(|step| could_switch[*step]);
            open.extend(more.map(|step| [switches.as_slice(), &[step]].concat()));
        }
    }
    assert!(orders > 10, "{orders}");
    figure(&format!("orders of {what} = {orders}, lost = 0, left behind = 0"));
}

/// A bucket with a session of `long(0)`.
async fn with_session() -> Arc<FakeBucket> {
    let bucket = Arc::new(FakeBucket::default());
    session_with(Arc::clone(&bucket) as _, ID, &long(0)).await;
    bucket
}

/// Whatever happened, the keys are whole or absent, and nothing else is left.
async fn check_whole(bucket: &Arc<FakeBucket>, keys: &[&Key], context: &str) -> Vec<bool> {
    let mut there = Vec::new();
    for key in keys {
        there.push(content(bucket, key).await.is_some());
    }
    repair(bucket).await;
    let mut left = Vec::new();
    for (key, was_there) in keys.iter().zip(&there) {
        let is_there = content(bucket, key).await.is_some();
        assert!(is_there || !was_there, "{key}, {context}");
        left.extend(is_there.then_some(*key));
    }
    check_tidy(bucket, &left, context).await;
    there
}

fn finish_as(id: SessionId, key: &Key) -> Work {
    let key = key.clone();
    work(move |storage| {
        let key = key.clone();
        async move { finish(&storage, id, &key).await }
    })
}

fn abort() -> Work {
    work(async |storage| storage.abort(ID).await.map(|()| Put::Exists))
}

fn delete(key: &Key) -> Work {
    let key = key.clone();
    work(move |storage| {
        let key = key.clone();
        async move { storage.delete(&key).await.map(|()| Put::Exists) }
    })
}

#[tokio::test]
async fn a_session_is_finished_or_aborted_never_both() {
    let k = key("k");
    let works = [finish_as(ID, &k), abort()];
    in_every_order(
        "a finish and an abort",
        &*with_session().await,
        works,
        async |bucket, [finished, aborted], context| {
            aborted.unwrap();
            let there = check_whole(&bucket, &[&k], &context).await;
            assert!(finished.is_err() || there[0], "{context}");
        },
    )
    .await;
}

#[tokio::test]
async fn of_two_holders_one_finishes() {
    let (k, l) = (key("k"), key("l"));
    let works = [finish_as(ID, &k), finish_as(ID, &l)];
    in_every_order(
        "two finishes of one session",
        &*with_session().await,
        works,
        async |bucket, finished, context| {
            let there = check_whole(&bucket, &[&k, &l], &context).await;
            assert_eq!(there, finished.map(|finished| finished.is_ok()), "{context}");
            assert_eq!(there.iter().filter(|there| **there).count(), 1, "{context}");
        },
    )
    .await;
}

#[tokio::test]
async fn of_two_sessions_one_creates_the_key() {
    let k = key("k");
    let bucket = with_session().await;
    session_with(Arc::clone(&bucket) as _, OTHER, &long(1)).await;
    let works = [finish_as(ID, &k), finish_as(OTHER, &k)];
    in_every_order("two sessions for one key", &bucket, works, async |bucket, finished, context| {
        let [first, second] = finished.map(Result::unwrap);
        let found = content(&bucket, &k).await.unwrap();
        assert_eq!(
            (first, second),
            if found == long(0) { (Put::Created, Put::Exists) } else { (Put::Exists, Put::Created) },
            "{context}"
        );
        check_whole(&bucket, &[&k], &context).await;
    })
    .await;
}

#[tokio::test]
async fn a_key_is_deleted_while_it_is_finished() {
    let k = key("k");
    let works = [finish_as(ID, &k), delete(&k)];
    in_every_order(
        "a finish and a deletion",
        &*with_session().await,
        works,
        async |bucket, [_, deleted], context| {
            deleted.unwrap();
            check_whole(&bucket, &[&k], &context).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_key_is_deleted_by_two() {
    let k = key("k");
    let bucket = with_session().await;
    finish(&storage(Arc::clone(&bucket) as _), ID, &k).await.unwrap();
    in_every_order("two deletions", &bucket, [delete(&k), delete(&k)], async |bucket, deleted, context| {
        assert!(deleted.iter().all(Result::is_ok), "{context}");
        assert_eq!(check_whole(&bucket, &[&k], &context).await, [false], "{context}");
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_finish_is_completed_while_its_key_is_deleted() {
    let k = key("k");
    let bucket = with_session().await;
    let records = async |bucket: &FakeBucket| {
        // As a process leaves it that is killed when its record is put.
        let stopped = super::fake::Stopped {
            bucket: bucket.copy(),
            changes_left: 3.into(),
            last: super::fake::LastChange::NotDone,
        };
        let left = Arc::clone(&stopped.bucket);
        finish(&storage(Arc::new(stopped)), ID, &k).await.unwrap_err();
        left
    };
    let left = records(&bucket).await;
    assert!(content(&left, &k).await.is_some());
    in_every_order(
        "the rest of a finish and a deletion",
        &left,
        [abort(), delete(&k)],
        async |bucket, ended, context| {
            assert!(ended.iter().all(Result::is_ok), "{context}");
            assert_eq!(check_whole(&bucket, &[&k], &context).await, [false], "{context}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_session_is_aborted_while_it_is_appended_to() {
    let bucket = with_session().await;
    let append = work(async |storage| {
        let mut session = storage.resume(ID).await?;
        session.append(session.size_bytes(), vec![Bytes::from("more")]).await?;
        session.sync().await.map(|()| Put::Created)
    });
    in_every_order(
        "an append and an abort",
        &bucket,
        [append, abort()],
        async |bucket, [_, aborted], context| {
            aborted.unwrap();
            check_tidy(&bucket, &[], &context).await;
        },
    )
    .await;
}

#[tokio::test]
async fn of_two_holders_who_append_one_is_told() {
    let bucket = with_session().await;
    let append = |text: &'static str| {
        work(move |storage| async move {
            let mut session = storage.resume(ID).await?;
            let at = session.size_bytes();
            session.append(at, vec![Bytes::from(text)]).await?;
            session.sync().await.map(|()| if at == long(0).len() as u64 { Put::Created } else { Put::Exists })
        })
    };
    in_every_order(
        "two appends",
        &bucket,
        [append("first"), append("other")],
        async |bucket, appended, context| {
            let mut session = session_content(&bucket, ID).await.unwrap();
            let more = String::from_utf8(session.split_off(long(0).len())).unwrap();
            assert!(session == long(0), "{context}");
            match &appended {
                [Ok(Put::Created), Ok(Put::Exists)] => assert_eq!(more, "firstother", "{context}"),
                [Ok(Put::Exists), Ok(Put::Created)] => assert_eq!(more, "otherfirst", "{context}"),
                [Ok(Put::Created), Err(StorageError::WrongOffset { .. })] => {
                    assert_eq!(more, "first", "{context}")
                }
                [Err(StorageError::WrongOffset { .. }), Ok(Put::Created)] => {
                    assert_eq!(more, "other", "{context}")
                }
                _ => panic!("{context}"),
            }
            check_whole(&bucket, &[], &context).await;
        },
    )
    .await;
}

#[tokio::test]
async fn an_entry_that_comes_when_the_log_is_gone_harms_nothing() {
    let k = key("k");
    let bucket = with_session().await;
    finish(&storage(Arc::clone(&bucket) as _), ID, &k).await.unwrap();
    // As processes leave it that stalled for long, put what they had decided, and were killed.
    for entry in [
        LogEntry::Open(Segments::default()),
        LogEntry::Abort,
        LogEntry::Finish(key("l"), Segments::default()),
    ] {
        let bucket = bucket.copy();
        let name = log::name(ID, Place::FIRST.next().next());
        bucket.create(&name, vec![entry.to_text().into()]).await.unwrap();
        assert!(matches!(
            finish(&storage(Arc::clone(&bucket) as _), ID, &key("l")).await,
            Err(StorageError::NoSession { .. })
        ));
        assert_eq!(check_whole(&bucket, &[&k], &format!("{entry:?}")).await, [true]);
    }
}
