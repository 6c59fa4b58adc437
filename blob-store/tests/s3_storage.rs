//! What the S3 backend promises beyond the contract: replicas, long content, services that fail or do
//! not do as S3 does.

mod s3;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blob_store::{Key, OpenS3Error, Put, S3Config, S3Storage, SessionId, Storage, StorageError, read_whole};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use testkit::S3Server;

const ID: SessionId = SessionId::new([7; 32]);
const MIB: usize = 1 << 20;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Bytes that differ from place to place.
fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; size.next_multiple_of(8)];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Two replicas at one bucket.
async fn two_replicas(server: &S3Server) -> (Arc<S3Storage>, Arc<S3Storage>) {
    let mut config = s3::empty_bucket(server);
    config.prefix = Some(key("team/images"));
    let open = async || Arc::new(S3Storage::open(config.clone()).await.unwrap());
    (open().await, open().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn long_content_in_odd_pieces_reads_back_in_any_range() {
    let server = match s3::server() {
        Ok(server) => server,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let (storage, replica) = two_replicas(server).await;
    let whole = noise(200 * MIB, 1);
    let mut session = storage.begin(ID).await.unwrap();
    let (mut end, mut step) = (0, 1_234_567);
    while end < whole.len() {
        let next = whole.len().min(end + step);
        let middle = end + (next - end) / 3;
        session.append(end as u64, vec![whole.slice(end..middle), whole.slice(middle..next)]).await.unwrap();
        (end, step) = (next, (step * 7 + 13) % 5_000_011 + 1);
        if step % 5 == 0 {
            // A client that went away and came back to the other replica.
            session.sync().await.unwrap();
            session = replica.resume(ID).await.unwrap();
            assert_eq!(session.size_bytes(), end as u64);
        }
    }
    assert_eq!(session.finish(&key("blobs/x")).await.unwrap(), Put::Created);
    assert_eq!(storage.sessions().await.unwrap(), []);
    let size = whole.len() as u64;
    assert_eq!(replica.size_bytes(&key("blobs/x")).await.unwrap(), size);
    let segment = 4 << 20;
    for range in [
        0..size,
        segment - 1..segment + 1,
        segment..segment,
        3 * segment - 7..5 * segment + 9,
        size - 1..size,
    ] {
        let object = replica.open(&key("blobs/x")).await.unwrap();
        let pieces: Vec<Bytes> = object.stream(range.clone()).try_collect().await.unwrap();
        assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= MIB));
        assert!(pieces.concat() == whole[range.start as usize..range.end as usize], "{range:?}");
    }
    replica.delete(&key("blobs/x")).await.unwrap();
    assert!(matches!(storage.open(&key("blobs/x")).await, Err(StorageError::Missing { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_leaves_nothing_in_the_bucket() {
    let server = match s3::server() {
        Ok(server) => server,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let config = s3::empty_bucket(server);
    let listing = format!("GET /{}?list-type=2", config.bucket);
    let storage = S3Storage::open(config).await.unwrap();
    for size in [10, 6 * MIB] {
        let mut session = storage.begin(ID).await.unwrap();
        session.append(0, vec![noise(size, 2)]).await.unwrap();
        session.sync().await.unwrap();
        session.finish(&key("blobs/x")).await.unwrap();
        assert!(server.request(&listing).contains("<Key>blobs/x</Key>"));
        storage.delete(&key("blobs/x")).await.unwrap();
        let left = server.request(&listing);
        assert!(left.contains("<KeyCount>0</KeyCount>"), "{left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_one_creates_each_key() {
    let server = match s3::server() {
        Ok(server) => server,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let (one, two) = two_replicas(server).await;
    for round in 0..10_u8 {
        let name = key(&format!("race/{round}"));
        let (first, second) = tokio::join!(
            one.put_if_absent(&name, Bytes::from("1")),
            two.put_if_absent(&name, Bytes::from("2"))
        );
        let winner = match (first.unwrap(), second.unwrap()) {
            (Put::Created, Put::Exists) => "1",
            (Put::Exists, Put::Created) => "2",
            both => panic!("{both:?}"),
        };
        assert_eq!(read_whole(&*one, &name, 9).await.unwrap(), winner);

        let finish = async |storage: &S3Storage, id: u8| {
            let mut session = storage.begin(SessionId::new([id; 32])).await.unwrap();
            session.append(0, vec![noise(2 * MIB, id.into())]).await.unwrap();
            session.finish(&key(&format!("finished/{round}"))).await.unwrap()
        };
        let puts = tokio::join!(finish(&one, 2 * round), finish(&two, 2 * round + 1));
        let winner = match puts {
            (Put::Created, Put::Exists) => 2 * round,
            (Put::Exists, Put::Created) => 2 * round + 1,
            both => panic!("{both:?}"),
        };
        let read = read_whole(&*two, &key(&format!("finished/{round}")), u64::MAX).await.unwrap();
        assert!(read == noise(2 * MIB, winner.into()));
    }
    assert_eq!(one.sessions().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_taken_over_is_lost_to_its_first_holder() {
    let server = match s3::server() {
        Ok(server) => server,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let (one, two) = two_replicas(server).await;
    let mut first = one.begin(ID).await.unwrap();
    first.append(0, vec![noise(MIB, 1)]).await.unwrap();
    first.sync().await.unwrap();
    let mut second = two.resume(ID).await.unwrap();
    assert_eq!(second.revision(), first.revision());
    second.append(MIB as u64, vec![noise(MIB, 2)]).await.unwrap();
    second.sync().await.unwrap();
    assert_ne!(second.revision(), first.revision());
    first.append(MIB as u64, vec![noise(10, 3)]).await.unwrap();
    let error = first.sync().await.unwrap_err();
    assert!(matches!(error, StorageError::WrongOffset { found, .. } if found == 2 * MIB as u64), "{error}");
    assert_eq!(second.finish(&key("k")).await.unwrap(), Put::Created);
    let expected = [noise(MIB, 1), noise(MIB, 2)].concat();
    assert!(read_whole(&*one, &key("k"), u64::MAX).await.unwrap() == expected);
}

/// A service of a few lines: `answer` sees each request's first line and its headers.
fn service(answer: impl Fn(&str, &str) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A client that is gone needs no answer.
            let _ = serve(connection, &answer);
        }
    });
    endpoint
}

fn serve(connection: TcpStream, answer: &impl Fn(&str, &str) -> String) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    let (mut first, mut headers) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    while !headers.ends_with("\r\n\r\n") && headers != "\r\n" {
        if reader.read_line(&mut headers)? == 0 {
            break;
        }
    }
    let headers = headers.to_ascii_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut Vec::new())?;
    reader.get_mut().write_all(answer(&first, &headers).as_bytes())
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn impatient(endpoint: String) -> S3Config {
    S3Config { patience: Duration::from_millis(300), ..s3::config(endpoint, "bucket") }
}

/// The whole of an error, and of what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

#[tokio::test]
async fn a_service_that_overwrites_is_refused() {
    let endpoint = service(|request, headers| match request.split(' ').next() {
        Some("PUT") => {
            assert!(headers.contains("if-none-match: *"));
            response("200 OK", "ETag: \"1\"\r\n", "")
        }
        Some("GET") if request.contains("list-type=2") => {
            response("200 OK", "", "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        }
        Some("GET") => {
            response("206 Partial Content", "ETag: \"1\"\r\nContent-Range: bytes 0-5/6\r\n", "second")
        }
        _ => response("200 OK", "", "<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>"),
    });
    let error = S3Storage::open(impatient(endpoint.clone())).await.unwrap_err();
    assert!(matches!(error, OpenS3Error::Overwrites { .. }), "{}", chain(&error));
    let start =
        format!("the service at `{endpoint}` overwrites objects that exist: it ignores `If-None-Match: *`");
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[tokio::test]
async fn what_a_service_says_is_passed_on_without_secrets() {
    for (status, code) in [
        ("503 Service Unavailable", "SlowDown"),
        ("403 Forbidden", "InvalidAccessKeyId"),
        ("404 Not Found", "NoSuchBucket"),
    ] {
        let body = format!("<Error><Code>{code}</Code><AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId></Error>");
        let endpoint = service(move |_, _| response(status, "", &body));
        let error = S3Storage::open(impatient(endpoint)).await.unwrap_err();
        let said = format!("{} {error:?}", chain(&error));
        assert!(said.contains("the bucket `bucket` cannot be used: cannot put `.probe/"), "{said}");
        assert!(said.contains(status) && said.contains(code), "{said}");
        assert!(!said.contains("AKIDEXAMPLE") && !said.contains("a-secret-that-nobody-sees"), "{said}");
    }
}

#[tokio::test]
async fn a_bucket_that_may_not_grow_is_full() {
    for (status, code) in
        [("507 Insufficient Storage", "XMinioStorageFull"), ("403 Forbidden", "QuotaExceeded")]
    {
        let body = format!("<Error><Code>{code}</Code></Error>");
        let endpoint = service(move |_, _| response(status, "", &body));
        let error = S3Storage::open(impatient(endpoint)).await.unwrap_err();
        assert!(
            matches!(error, OpenS3Error::Storage { source: StorageError::Full, .. }),
            "{}",
            chain(&error)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_too_busy_for_a_moment_is_asked_again() {
    let server = match s3::server() {
        Ok(server) => server,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let config = s3::empty_bucket(server);
    let real = config.endpoint.clone().unwrap().replace("http://", "");
    let count = AtomicUsize::new(0);
    // In front of the service: every second connection is told to come back later.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                let _ = serve(connection, &|_, _| {
                    response("503 Slow Down", "", "<Error><Code>SlowDown</Code></Error>")
                });
                continue;
            }
            let service = TcpStream::connect(&real).unwrap();
            let (mut up, mut down) = (connection.try_clone().unwrap(), service.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut up, &mut down));
            std::thread::spawn(move || io::copy(&mut { service }, &mut { connection }));
        }
    });
    let storage = S3Storage::open(S3Config { endpoint: Some(endpoint), ..config }).await.unwrap();
    assert_eq!(storage.put_if_absent(&key("k"), Bytes::from("x")).await.unwrap(), Put::Created);
    assert_eq!(read_whole(&storage, &key("k"), 1).await.unwrap(), "x");
}
