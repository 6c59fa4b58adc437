//! Two servers on one storage, which coordinate by nothing else: what one does the other knows at once,
//! and neither undoes what the other did. What one that is killed leaves behind the other one goes on with.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use appliance::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blob_store::{Addressing, Key, MemoryStorage, PlainHttp, S3Config, S3Credentials, S3Storage, Storage};
use common::pusher::{Counts, Pusher};
use common::{Client, MANIFEST, Registry, Reply, SetClock, descriptor, figure, manifest, noise, repetitions};
use futures_util::TryStreamExt as _;
use registry::{Clock, Expiry, Garbage, Limits, Mode, Secret, Server, SystemClock};
use serde_json::json;
use testkit::wait::{LIMIT, until};
use testkit::{NoS3Server, S3Server};

/// Two servers.
struct Replicas {
    name: &'static str,
    one: Registry,
    two: Registry,
    runtime: tokio::runtime::Runtime,
}

impl Replicas {
    fn clients(&self) -> [Client; 2] {
        [self.one.client(), self.two.client()]
    }
}

/// Plays `scene` with two servers that share a storage in memory, and with two that share a bucket.
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn on_each_storage(garbage: Garbage, scene: impl Fn(&Replicas)) {
    let play = |name, runtime, storages: [Arc<dyn Storage>; 2]| {
        let [one, two] = storages.map(|storage| {
            Registry::configured(storage, Limits::default(), |config| config.garbage = garbage)
        });
        scene(&Replicas { name, one, two, runtime });
    };
    let memory = MemoryStorage::shared();
    play("memory", runtime(), [Arc::new(memory.clone()), Arc::new(memory)]);
    match s3_server() {
        Err(error) => eprintln!("skipped: {error}"),
        Ok(server) => {
            let (runtime, bucket) = (runtime(), empty_bucket(server));
            let open = || runtime.block_on(S3Storage::open(bucket.clone())).unwrap();
            let storages: [Arc<dyn Storage>; 2] = [Arc::new(open()), Arc::new(open())];
            play("bucket", runtime, storages);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Garbage that nobody collects.
const NONE_COLLECTED: Garbage = Garbage { grace: Duration::from_secs(24 * 60 * 60), interval: None };

fn s3_server() -> Result<&'static S3Server, &'static NoS3Server> {
    static SERVER: OnceLock<Result<S3Server, NoS3Server>> = OnceLock::new();
    SERVER.get_or_init(S3Server::start).as_ref()
}

fn empty_bucket(server: &S3Server) -> S3Config {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let bucket = format!("bucket-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    server.create_bucket(&bucket);
    s3_config(server.endpoint(), bucket)
}

fn s3_config(endpoint: String, bucket: String) -> S3Config {
    S3Config {
        bucket,
        prefix: None,
        region: S3Server::REGION.to_owned(),
        endpoint: Some(endpoint),
        credentials: Some(S3Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "a-secret-that-nobody-sees".to_owned(),
            session_token: None,
        }),
        addressing: Addressing::Path,
        plain_http: PlainHttp::Allowed,
        patience: LIMIT,
    }
}

/// Pushes an image with one tag.
fn push_image(client: &mut Client, repository: &str, tag: &str, layer: &[u8]) -> Digest {
    client.push_blob(repository, b"config");
    client.push_blob(repository, layer);
    let image = manifest(b"config", layer);
    client.put_manifest(repository, tag, MANIFEST, &image).expect(201);
    Digest::sha256(&image)
}

/// Sends the next chunk of an upload.
fn patch(client: &mut Client, upload: &str, offset: usize, content: &[u8]) -> Reply {
    let range = format!("{offset}-{}", offset + content.len() - 1);
    client.send("PATCH", upload, &[("content-range", &range)], content)
}

fn finish(client: &mut Client, upload: &str, digest: &Digest) -> Reply {
    client.send("PUT", &format!("{upload}?digest={digest}"), &[], b"")
}

/// Where an upload goes on.
fn progress(client: &mut Client, upload: &str) -> String {
    client.get(upload).expect(204).header("range").unwrap().to_owned()
}

#[test]
fn what_one_server_stores_the_other_serves_at_once() {
    on_each_storage(NONE_COLLECTED, |replicas| {
        let [mut one, mut two] = replicas.clients();
        let layer = noise(1, 5 << 20);
        let image = push_image(&mut one, "team/web", "1.0", &layer);
        let path = format!("/v2/team/web/manifests/{image}");
        assert_eq!(two.get("/v2/team/web/manifests/1.0").expect(200).body, two.get(&path).expect(200).body);
        let blob = format!("/v2/team/web/blobs/{}", Digest::sha256(&layer));
        assert!(two.get(&blob).expect(200).body == layer);
        let part = two.send("GET", &blob, &[("range", "bytes=4194300-4194309")], b"").expect(206);
        assert_eq!(part.body, layer[4_194_300..4_194_310]);
        assert_eq!(two.get("/v2/team/web/tags/list").expect(200).json()["tags"], json!(["1.0"]));
        assert_eq!(two.get("/v2/_catalog").expect(200).json()["repositories"], json!(["team/web"]));
        let mount = format!("/v2/other/blobs/uploads/?mount={}&from=team/web", Digest::sha256(&layer));
        two.send("POST", &mount, &[], b"").expect(201);
        assert!(one.get(&blob.replace("team/web", "other")).expect(200).body == layer);
        // What moves at one has moved at the other, also for who has asked before.
        let newer = push_image(&mut two, "team/web", "1.0", b"newer");
        let named = one.get("/v2/team/web/manifests/1.0").expect(200);
        assert_eq!(Digest::sha256(&named.body), newer);
        let about = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "x/signature",
            "config": descriptor("application/vnd.oci.empty.v1+json", b"config"),
            "layers": [],
            "subject": descriptor(MANIFEST, &named.body),
        });
        let about = about.to_string().into_bytes();
        one.put_manifest("team/web", &Digest::sha256(&about).to_string(), MANIFEST, &about).expect(201);
        let referrers = two.get(&format!("/v2/team/web/referrers/{newer}")).expect(200).json();
        assert_eq!(referrers["manifests"][0]["digest"], Digest::sha256(&about).to_string());
    });
}

#[test]
fn an_upload_moves_from_server_to_server() {
    on_each_storage(NONE_COLLECTED, |replicas| {
        let [mut one, mut two] = replicas.clients();
        let content = noise(2, 6 << 20);
        let (first, second) = (1 << 20, 5 << 20);
        let upload = one.begin_upload("web");
        patch(&mut one, &upload, 0, &content[..first]).expect(202);
        assert_eq!(progress(&mut two, &upload), format!("0-{}", first - 1));
        patch(&mut two, &upload, first, &content[first..second]).expect(202);
        assert_eq!(progress(&mut one, &upload), format!("0-{}", second - 1));
        let stale = patch(&mut one, &upload, first, b"stale").expect_error(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(stale.header("range"), Some(format!("0-{}", second - 1).as_str()));
        patch(&mut two, &upload, second, &content[second..second + 1]).expect(202);
        patch(&mut one, &upload, second + 1, &content[second + 1..]).expect(202);
        let digest = Digest::sha256(&content);
        finish(&mut one, &upload, &digest).expect(201);
        for client in [&mut one, &mut two] {
            client.get(&upload).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
            assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == content);
        }
        let upload = one.begin_upload("web");
        patch(&mut one, &upload, 0, b"abc").expect(202);
        two.send("DELETE", &upload, &[], b"").expect(204);
        one.get(&upload).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
        patch(&mut one, &upload, 3, b"d").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
        finish(&mut one, &upload, &Digest::sha256(b"abc")).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    });
}

#[test]
fn what_arrived_before_a_connection_broke_is_there_at_the_other_server() {
    on_each_storage(NONE_COLLECTED, |replicas| {
        let [mut one, mut two] = replicas.clients();
        for method in ["PATCH", "PUT"] {
            let digest = Digest::sha256(b"0123456789");
            let upload = one.begin_upload("web");
            let path = if method == "PUT" { format!("{upload}?digest={digest}") } else { upload.clone() };
            let mut connection = one.begin(method, &path, &[("content-length", "10")]).unwrap();
            connection.get_mut().write_all(b"012345").unwrap();
            drop(connection);
            let what = format!("{}: {method}", replicas.name);
            until(&what, || (progress(&mut two, &upload) == "0-5").then_some(()));
            patch(&mut two, &upload, 6, b"6789").expect(202);
            finish(&mut one, &upload, &digest).expect(201);
        }
    });
}

/// Both servers believe that the upload is empty, and each gets ten bytes for it.
#[test]
fn of_two_servers_that_append_at_once_one_gives_way_and_forgets_what_it_hashed() {
    on_each_storage(NONE_COLLECTED, |replicas| {
        let [mut one, mut two] = replicas.clients();
        let (lost, kept) = (b"lost bytes", b"kept bytes");
        for (digest, status) in [(Digest::sha256(lost), 400), (Digest::sha256(kept), 201)] {
            let upload = one.begin_upload("web");
            // Once the server asks for the body, it has seen that nothing was there.
            let mut connection = one.begin_body("PATCH", &upload, 10);
            patch(&mut two, &upload, 0, kept).expect(202);
            connection.get_mut().write_all(lost).unwrap();
            common::read_reply(&mut connection, "PATCH").unwrap().expect_error(409, "BLOB_UPLOAD_INVALID");
            for client in [&mut one, &mut two] {
                assert_eq!(progress(client, &upload), "0-9");
            }
            finish(&mut one, &upload, &digest).expect(status);
        }
        two.get(&format!("/v2/web/blobs/{}", Digest::sha256(lost))).expect_error(404, "BLOB_UNKNOWN");
        let stored = two.get(&format!("/v2/web/blobs/{}", Digest::sha256(kept))).expect(200);
        assert_eq!(stored.body, kept);
    });
}

#[test]
fn both_finish_one_upload_and_the_blob_is_there() {
    on_each_storage(NONE_COLLECTED, |replicas| {
        let content = noise(3, 2 << 20);
        let digest = Digest::sha256(&content);
        let upload = replicas.one.client().begin_upload("web");
        patch(&mut replicas.one.client(), &upload, 0, &content).expect(202);
        let replies: Vec<Reply> = std::thread::scope(|scope| {
            let finishing = replicas.clients().map(|mut client| {
                let (upload, digest) = (&upload, &digest);
                scope.spawn(move || finish(&mut client, upload, digest))
            });
            finishing.map(|thread| thread.join().unwrap()).into_iter().collect()
        });
        assert!(replies.iter().any(|reply| reply.status == 201), "{}: {replies:?}", replicas.name);
        assert!(replies.iter().all(|reply| [201, 404, 409].contains(&reply.status)), "{replies:?}");
        for mut client in replicas.clients() {
            assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == content);
        }
    });
}

#[test]
fn a_tag_that_both_set_at_once_has_one_history_with_every_change_in_it() {
    const EACH: usize = 15;
    on_each_storage(NONE_COLLECTED, |replicas| {
        replicas.one.client().push_blob("web", b"config");
        let set: Vec<Vec<String>> = std::thread::scope(|scope| {
            let setting = [("one", replicas.one.client()), ("two", replicas.two.client())];
            let setting = setting.map(|(server, mut client)| {
                scope.spawn(move || {
                    let set = |number: usize| {
                        let image = json!({
                            "schemaVersion": 2,
                            "mediaType": MANIFEST,
                            "config": descriptor("x/config", b"config"),
                            "layers": [],
                            "annotations": { "from": format!("{server} {number}") },
                        });
                        let image = image.to_string().into_bytes();
                        client.put_manifest("web", "latest", MANIFEST, &image).expect(201);
                        Digest::sha256(&image).to_string()
                    };
                    (0..EACH).map(set).collect()
                })
            });
            setting.map(|thread| thread.join().unwrap()).into_iter().collect()
        });
        let history = |mut client: Client| {
            let listed = client.get("/v2/web/_hull/tags/latest/history").expect(200).json();
            let mut named: Vec<String> = Vec::new();
            for entry in listed["history"].as_array().unwrap() {
                named.push(entry["digest"].as_str().unwrap().to_owned());
            }
            named.reverse();
            named
        };
        let [at_one, at_two] = replicas.clients().map(history);
        assert_eq!(at_one, at_two);
        assert_eq!(at_one.len(), 2 * EACH);
        for by_one_server in &set {
            let in_order: Vec<&String> =
                at_one.iter().filter(|named| by_one_server.contains(named)).collect();
            assert_eq!(in_order, by_one_server.iter().collect::<Vec<_>>());
        }
        for mut client in replicas.clients() {
            let named = client.get("/v2/web/manifests/latest").expect(200);
            assert_eq!(&Digest::sha256(&named.body).to_string(), at_one.last().unwrap());
        }
    });
}

#[test]
fn what_is_deleted_at_one_server_is_gone_at_the_other() {
    on_each_storage(NONE_COLLECTED, |replicas| {
        let [mut one, mut two] = replicas.clients();
        let image = push_image(&mut one, "web", "1.0", b"layer");
        let by_digest = format!("/v2/web/manifests/{image}");
        let layer = format!("/v2/web/blobs/{}", Digest::sha256(b"layer"));
        for path in ["/v2/web/manifests/1.0", &by_digest, &layer] {
            two.get(path).expect(200);
        }
        one.send("DELETE", "/v2/web/manifests/1.0", &[], b"").expect(202);
        two.get("/v2/web/manifests/1.0").expect_error(404, "MANIFEST_UNKNOWN");
        assert_eq!(two.get("/v2/web/tags/list").expect(200).json()["tags"], json!([]));
        two.get(&by_digest).expect(200);
        two.send("DELETE", &by_digest, &[], b"").expect(202);
        one.get(&by_digest).expect_error(404, "MANIFEST_UNKNOWN");
        one.send("DELETE", &layer, &[], b"").expect(202);
        two.get(&layer).expect_error(404, "BLOB_UNKNOWN");
        two.send("HEAD", &layer, &[], b"").expect(404);
        two.send("DELETE", &layer, &[], b"").expect_error(404, "BLOB_UNKNOWN");
        let put = two.put_manifest("web", "1.0", MANIFEST, &manifest(b"config", b"layer"));
        put.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    });
}

#[test]
fn an_account_of_one_server_is_one_of_the_other() {
    on_each_storage(NONE_COLLECTED, |replicas| {
        let Replicas { one, two, runtime, .. } = replicas;
        let grants = || vec!["team:pull".parse().unwrap()];
        let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("alice:{password}")));
        let ask = |server: &Registry, shown: &str| {
            let headers = [("authorization", shown)];
            server.client().send("GET", "/v2/", if shown.is_empty() { &[] } else { &headers }, b"").status
        };
        assert_eq!((ask(one, ""), ask(two, "")), (200, 200));
        let alice = "alice".parse().unwrap();
        runtime.block_on(one.access.add_user(&alice, &Secret::new("first password"), grants())).unwrap();
        assert_eq!((ask(one, ""), ask(two, "")), (401, 401));
        assert_eq!(ask(two, &basic("first password")), 200);
        let token = two.client().send("GET", "/token", &[("authorization", &basic("first password"))], b"");
        let token = format!("Bearer {}", token.expect(200).json()["token"].as_str().unwrap());
        assert_eq!((ask(one, &token), ask(two, &token)), (200, 200));
        runtime.block_on(two.access.set_password(&alice, &Secret::new("second password"))).unwrap();
        assert_eq!((ask(one, &basic("first password")), ask(one, &token)), (401, 401));
        assert_eq!(ask(one, &basic("second password")), 200);
        let robot = "ci".parse().unwrap();
        let secret = runtime.block_on(two.access.add_robot(&robot, grants(), Expiry::Never)).unwrap();
        let secret = format!("Bearer {}", secret.reveal());
        assert_eq!(ask(one, &secret), 200);
        runtime.block_on(one.access.revoke_robot(&robot)).unwrap();
        assert_eq!(ask(two, &secret), 401);
        runtime.block_on(one.access.remove_user(&alice)).unwrap();
        assert_eq!((ask(two, &basic("second password")), ask(two, "")), (401, 401));
    });
}

#[test]
fn garbage_that_both_collect_at_once_is_nobodys() {
    const GRACE: Duration = Duration::from_secs(4);
    const CLIENTS: u64 = 2;
    let wanted = repetitions("HULL_REPLICA_OPERATIONS", 300);
    let wanted_blobs = repetitions("HULL_REPLICA_FREED_BLOBS", 1);
    let garbage = Garbage { grace: GRACE, interval: Some(Duration::from_millis(100)) };
    on_each_storage(garbage, |replicas| {
        let (counts, is_over) = (Counts::default(), AtomicBool::new(false));
        // What each server has collected: cycles, and blobs. And both together: bytes.
        let (mut collected, mut freed) = ([(0, 0); 2], 0);
        std::thread::scope(|scope| {
            let _at_the_end = SetAtTheEnd(&is_over);
            let pushers: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let (counts, is_over, clients) = (&counts, &is_over, replicas.clients().into());
                    scope.spawn(move || {
                        let mut pusher = Pusher::new(number, clients, GRACE, counts);
                        while !is_over.load(Ordering::SeqCst) {
                            pusher.step();
                        }
                        for _ in 0..5 {
                            pusher.pull();
                        }
                    })
                })
                .collect();
            // Until enough was done, both have gone round, and enough garbage had the time to become so.
            while pushers.iter().all(|pusher| !pusher.is_finished())
                && (counts.operations.load(Ordering::SeqCst) < wanted
                    || collected.iter().any(|(cycles, _)| *cycles < 3)
                    || collected.iter().map(|(_, blobs)| blobs).sum::<u64>() < wanted_blobs)
            {
                for (server, (cycles, blobs)) in
                    [&replicas.one, &replicas.two].into_iter().zip(&mut collected)
                {
                    while let Ok(event) = server.events.recv_timeout(Duration::from_millis(20)) {
                        *cycles += 1;
                        *blobs += collected_in(&event, "deleted_generations");
                        freed += collected_in(&event, "freed_bytes");
                    }
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
        let [one, two] = collected;
        let (operations, too_slow) = (counts.operations.into_inner(), counts.too_slow.into_inner());
        figure(&format!(
            "two servers on one storage ({}): operations = {operations}, cycles = {} and {}, blobs deleted = {} and {}, \
             bytes freed = {freed}, failures = 0, pushes slower than the promise = {too_slow}",
            replicas.name, one.0, two.0, one.1, two.1,
        ));
        assert!(one.1 + two.1 > 0, "there was no garbage");
    });
}

/// A number of what a server says to have collected in a cycle. It has nothing else to say.
fn collected_in(event: &str, name: &str) -> u64 {
    let number =
        event.strip_prefix("GarbageCollected").and_then(|text| text.split_once(&format!("{name}: ")));
    let (_, number) = number.unwrap_or_else(|| panic!("{event}"));
    number.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap()
}

/// The service and the bucket that a server in a process of its own uses.
const SERVE: &str = "HULL_TEST_SERVE_BUCKET";
/// Of the servers of which one is killed. What was pushed before that is garbage at once.
const HOUR: Garbage = Garbage { grace: Duration::from_secs(60 * 60), interval: None };

/// Not a test of its own: the process of a server. Serves until it is killed; collects garbage without a
/// pause once there is a line to read.
#[test]
fn serve_the_bucket_that_the_environment_names() {
    let Ok(named) = std::env::var(SERVE) else { return };
    let (endpoint, bucket) = named.split_once(' ').unwrap();
    runtime().block_on(async {
        let storage = S3Storage::open(s3_config(endpoint.to_owned(), bucket.to_owned())).await.unwrap();
        let mut config = common::config("127.0.0.1:0", Limits::default(), Arc::new(()));
        config.garbage = HOUR;
        let server = Server::bind(config, Arc::new(storage)).await.unwrap();
        println!("\nlistening on {}", server.local_addr());
        let caretaker = server.caretaker();
        let collecting = async {
            let told = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            told.await.unwrap().unwrap();
            loop {
                caretaker.collect(Mode::Collect).await.unwrap();
            }
        };
        tokio::join!(server.run(std::future::pending()), collecting);
    });
}

/// A server in a process of its own. Dropped, it is killed.
struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    fn start(bucket: &S3Config) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_the_bucket_that_the_environment_names", "--nocapture"])
            .env(SERVE, format!("{} {}", bucket.endpoint.as_ref().unwrap(), bucket.bucket))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = lines
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("listening on ")?.parse().ok())
            .expect("the server says where it listens");
        Self { child, addr }
    }

    fn begin_to_collect(&self) {
        self.child.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap(); // SIGKILL
        self.child.wait().unwrap();
    }
}

/// What a client has pushed until its server was gone.
#[derive(Default)]
struct Pushed {
    /// The layers of images that were acknowledged.
    layers: Vec<Vec<u8>>,
    /// The upload of which bytes were acknowledged, but not that it is finished.
    open: Option<OpenUpload>,
}

struct OpenUpload {
    path: String,
    content: Vec<u8>,
    acknowledged: usize,
}

impl Pushed {
    /// Pushes one more image. `None` if the server went away meanwhile.
    fn push(&mut self, client: &mut Client, layer: Vec<u8>) -> Option<()> {
        let post = client.try_send("POST", "/v2/web/blobs/uploads/", &[], b"").ok()?;
        let path = post.expect(202).header("location").unwrap().to_owned();
        let (first, second) = layer.split_at(layer.len() / 2);
        client.try_send("PATCH", &path, &[], first).ok()?.expect(202);
        let put = format!("{path}?digest={}", Digest::sha256(&layer));
        self.open = Some(OpenUpload { path, content: layer.clone(), acknowledged: first.len() });
        client.try_send("PUT", &put, &[], second).ok()?.expect(201);
        self.open = None;
        let image = manifest(&layer, &layer);
        let path = format!("/v2/web/manifests/{}", Digest::sha256(&image));
        client.try_send("PUT", &path, &[("content-type", MANIFEST)], &image).ok()?.expect(201);
        self.layers.push(layer);
        Some(())
    }
}

/// Opens an upload, has `acknowledged` bytes of it acknowledged, and sends half of the rest. The server
/// waits for the other half.
fn begin_to_send(
    mut client: Client,
    content: Vec<u8>,
    acknowledged: usize,
) -> (OpenUpload, BufReader<TcpStream>) {
    let path = client.begin_upload("web");
    patch(&mut client, &path, 0, &content[..acknowledged]).expect(202);
    let rest = &content[acknowledged..];
    let mut connection =
        client.begin("PATCH", &path, &[("content-length", &rest.len().to_string())]).unwrap();
    connection.get_mut().write_all(&rest[..rest.len() / 2]).unwrap();
    (OpenUpload { path, content, acknowledged }, connection)
}

/// Goes on with an upload where its bytes end. False if there is nothing to do, since it was finished.
fn resume(client: &mut Client, open: &OpenUpload) -> bool {
    let OpenUpload { path, content, acknowledged } = open;
    let digest = Digest::sha256(content);
    let was_open = loop {
        let status = client.get(path);
        if status.status == 404 {
            break false;
        }
        let range = status.expect(204).header("range").unwrap().to_owned();
        let received = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
        assert!(received >= *acknowledged, "{received} of {acknowledged} acknowledged bytes are left");
        // What the killed server has asked of the bucket may be done only now.
        let sent = if received < content.len() {
            patch(client, path, received, &content[received..]).status
        } else {
            202
        };
        match sent {
            202 => {
                finish(client, path, &digest).expect(201);
                break true;
            }
            status => assert!([409, 416].contains(&status), "{status}"),
        }
    };
    assert!(client.get(&format!("/v2/web/blobs/{digest}")).expect(200).body == *content);
    was_open
}

/// Sets a flag however the thread leaves a place: who waits for it must not wait for ever where that fails.
struct SetAtTheEnd<'a>(&'a AtomicBool);

impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What a collection has just done to some garbage.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The repository does not have one of the blobs any more.
    Unlinked,
    Closing,
    Closed,
    Deleted,
}

impl Moment {
    /// Waits until that was done first. Marks of closing stand only for a while: what comes behind it counts too.
    fn wait(self, garbage: &[Digest], keys: impl Fn(&str) -> Vec<String>) {
        let has_come = || {
            let folder = if matches!(self, Self::Unlinked) { "repositories/web/blobs" } else { "blobs" };
            let of_garbage: Vec<String> =
                keys(folder).into_iter().filter(|key| is_of(key, garbage)).collect();
            let marks = |mark| of_garbage.iter().filter(|key| key.ends_with(mark)).count();
            let (closing, closed) = (marks(".closing"), marks(".closed"));
            let is_less = of_garbage.len() - closing - closed < garbage.len();
            match self {
                Self::Closing => closing > 0 || closed > 0 || is_less,
                Self::Closed => closed > 0 || is_less,
                Self::Unlinked | Self::Deleted => is_less,
            }
        };
        until(&format!("{self:?}"), || has_come().then_some(()));
    }
}

/// Whether a key is about one of these blobs.
fn is_of(key: &str, blobs: &[Digest]) -> bool {
    blobs.iter().any(|blob| key.contains(&blob.hex()))
}

#[test]
fn what_a_killed_server_leaves_behind_the_other_one_goes_on_with() {
    const GARBAGE: u64 = 8;
    let bucket = match s3_server() {
        Ok(server) => empty_bucket(server),
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let (kills, runtime) = (repetitions("HULL_REPLICA_KILLS", 4), runtime());
    let storage = runtime.block_on(S3Storage::open(bucket.clone())).unwrap();
    let keys = |folder: &str| -> Vec<String> {
        let keys = storage.keys_below(&Key::new(folder).unwrap()).map_ok(|key| key.to_string());
        runtime.block_on(keys.try_collect()).unwrap()
    };
    let start = |clock: Arc<dyn Clock>| {
        Registry::configured(Arc::new(storage.clone()), Limits::default(), |config| {
            config.garbage = HOUR;
            config.clock = clock;
        })
    };
    let one = start(Arc::new(SystemClock));
    // What is pushed here was pushed hours ago.
    let earlier = start(Arc::new(SetClock::at(SystemClock.now().as_secs() - 3 * 60 * 60)));
    let mut layers = vec![b"old".to_vec()];
    push_image(&mut earlier.client(), "web", "old", &layers[0]);
    let (mut resumed, mut left_over) = (0, 0);
    for round in 0..kills {
        let two = Process::start(&bucket);
        let content = |client: u64, step: u64| noise((round * 4 + client) << 32 | step, 20_000);
        let is_over = AtomicBool::new(false);
        let (open, sending) = begin_to_send(Client::new(two.addr), content(0, 0), 7_000);
        let push_garbage = |n: u64| earlier.client().push_blob("web", &noise(!(round * GARBAGE + n), 2_000));
        let garbage: Vec<Digest> = (0..GARBAGE).map(push_garbage).collect();
        let moments = [Moment::Unlinked, Moment::Closing, Moment::Closed, Moment::Deleted];
        let moment = moments[(round % 4) as usize];
        let pushed: Vec<Pushed> = std::thread::scope(|scope| {
            let _at_the_end = SetAtTheEnd(&is_over);
            let clients = [one.addr, two.addr, two.addr].into_iter().zip(1..);
            let clients = clients.map(|(addr, number)| {
                let (is_over, content, is_two) = (&is_over, &content, addr == two.addr);
                scope.spawn(move || {
                    let (mut client, mut pushed) = (Client::new(addr), Pushed::default());
                    for step in 0.. {
                        let went = pushed.push(&mut client, content(number, step));
                        assert!(went.is_some() || is_two, "the server that lives did not answer");
                        if went.is_none() || is_over.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                    pushed
                })
            });
            let clients: Vec<_> = clients.collect();
            two.begin_to_collect();
            moment.wait(&garbage, keys);
            drop((two, sending));
            is_over.store(true, Ordering::SeqCst);
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let mut client = one.client();
        assert!(resume(&mut client, &open), "nobody has finished it");
        resumed += 1;
        for Pushed { layers: acknowledged, open } in pushed {
            resumed += u64::from(open.is_some_and(|open| resume(&mut client, &open)));
            layers.extend(acknowledged);
        }
        // The last that the killed server asked of the bucket may be done between these.
        for _ in 0..10 {
            left_over += one.collect().deleted_generations;
            if !keys("blobs").iter().any(|key| is_of(key, &garbage)) {
                break;
            }
        }
        assert!(!keys("blobs").iter().any(|key| is_of(key, &garbage)), "killed when {moment:?}");
    }
    for layer in &layers {
        let mut client = one.client();
        assert!(client.get(&format!("/v2/web/blobs/{}", Digest::sha256(layer))).expect(200).body == *layer);
    }
    for layer in &layers[1..] {
        one.client()
            .get(&format!("/v2/web/manifests/{}", Digest::sha256(&manifest(layer, layer))))
            .expect(200);
    }
    one.client().get("/v2/web/manifests/old").expect(200);
    figure(&format!(
        "kills of one of two servers = {kills}, images acknowledged = {}, lost = 0, uploads resumed at the other = {resumed}, \
         blobs whose collection the other completed = {left_over}",
        layers.len(),
    ));
    // In a few rounds it may have collected everything by then.
    assert!(kills < 100 || left_over > 0, "the killed server had collected everything");
}
