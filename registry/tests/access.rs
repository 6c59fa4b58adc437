//! Who may do what, over a real socket: as docker, curl and skopeo ask, and as those do who may not.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use appliance::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blob_store::MemoryStorage;
use common::world::{PASSWORD, World, account, basic, grants, push_image, send};
use common::{MANIFEST, descriptor};
use registry::{AccessError, Expiry, Secret};
use serde_json::json;

#[test]
fn docker_logs_in_pushes_and_pulls_step_by_step() {
    let world = World::with_users(&["alice team:pull,push"], &[]);
    let host = world.registry.addr.to_string();
    // docker asks what the registry wants ...
    let reply = world.ask("", "GET", "/v2/").expect_error(401, "UNAUTHORIZED");
    let want = format!("Bearer realm=\"http://{host}/token\",service=\"{host}\"");
    assert_eq!(reply.header("www-authenticate"), Some(want.as_str()));
    // ... logs in there ...
    let path = format!("/token?account=alice&client_id=docker&offline_token=true&service={host}");
    let answer = world.ask("alice", "GET", &path).expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let answer = answer.json();
    assert_eq!(answer["expires_in"], 300);
    assert_eq!(answer["token"], answer["access_token"]);
    assert_eq!(answer.get("refresh_token"), None);
    let login = format!("Bearer {}", answer["token"].as_str().unwrap());
    world.ask(&login, "GET", "/v2/").expect(200);
    // ... is told what it takes to push ...
    let reply = world.ask(&login, "POST", "/v2/team/web/blobs/uploads/").expect_error(401, "UNAUTHORIZED");
    let scoped = ",scope=\"repository:team/web:pull,push\",error=\"insufficient_scope\"";
    assert_eq!(reply.header("www-authenticate"), Some(format!("{want}{scoped}").as_str()));
    // ... and pushes with a token for that.
    let token = world.token("alice", "repository:team/web:pull,push");
    let mut client = world.client();
    let digest = push_image(&mut client, &token, "team/web", "1.0");
    send(&mut client, &token, "GET", "/v2/team/web/manifests/1.0", b"").expect(200);
    let audits = world.told.take_audits();
    let last = format!("127.0.0.1: user:alice push team/web 1.0 {}", digest.short());
    assert_eq!(audits.last(), Some(&last), "{audits:#?}");
}

#[test]
fn who_mounts_is_told_to_get_a_token_for_both_repositories() {
    let world = World::with_users(&["alice team:pull,push"], &[]);
    let token = world.token("alice", "repository:team/a:pull,push");
    push_image(&mut world.client(), &token, "team/a", "1.0");
    let blob = Digest::sha256(b"layer");
    let challenge = |from: &str| {
        let path = format!("/v2/team/b/blobs/uploads/?mount={blob}&from={from}");
        let reply = world.ask("", "POST", &path).expect_error(401, "UNAUTHORIZED");
        reply.header("www-authenticate").unwrap().to_owned()
    };
    assert!(challenge("team/a").ends_with(",scope=\"repository:team/b:pull,push repository:team/a:pull\""));
    // Nobody gets a token for what is no name.
    assert!(challenge("..%22,error=%22").ends_with(",scope=\"repository:team/b:pull,push\""));
    let token = world.token("alice", "repository:team/b:pull,push&scope=repository:team/a:pull");
    world.ask(&token, "POST", &format!("/v2/team/b/blobs/uploads/?mount={blob}&from=team/a")).expect(201);
}

#[test]
fn containerd_asks_with_a_form() {
    let world = World::with_users(&["alice team:pull"], &[]);
    let robot = world.add_robot("ci", "team:pull", Expiry::Never).unwrap();
    let post = |form: &str| {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        world.client().send("POST", "/token", &headers, form.as_bytes())
    };
    let scope = "service=x&client_id=c&scope=repository%3Ateam%3Apull";
    let form = format!("grant_type=password&username=alice&password=correct%20horse&{scope}");
    let answer = post(&form).expect(200).json();
    let token = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    world.ask(&token, "GET", "/v2/team/tags/list").expect_error(404, "NAME_UNKNOWN");
    post(&format!("grant_type=refresh_token&refresh_token={}&{scope}", robot.reveal())).expect(200);
    let wrong = post("grant_type=password&username=alice&password=x").expect_error(401, "UNAUTHORIZED");
    assert!(wrong.header("www-authenticate").unwrap().starts_with("Basic realm="));
    // A token does not beget another one.
    post(&format!("grant_type=refresh_token&refresh_token={}", &token[7..]))
        .expect_error(401, "UNAUTHORIZED");
    for bad in ["", "grant_type=magic", "grant_type=password&username=alice", "\u{0}%ff=&&&="] {
        post(bad).expect_error(400, "UNSUPPORTED");
    }
    world.ask("", "PUT", "/token").expect_error(405, "UNSUPPORTED");
}

#[test]
fn everything_is_open_until_the_first_user_and_never_again() {
    let world = World::new(&[]);
    let mut client = world.client();
    push_image(&mut client, "", "team/web", "1.0");
    // Whoever shows something that nobody knows is as welcome as whoever shows nothing.
    send(&mut client, "stranger", "GET", "/v2/", b"").expect(200);
    world.token("", "repository:team/web:pull");
    world.add_user("alice *:admin");
    world.ask("", "GET", "/v2/team/web/manifests/1.0").expect_error(401, "UNAUTHORIZED");
    world.ask("stranger", "GET", "/v2/").expect_error(401, "UNAUTHORIZED");
    world.ask("", "GET", "/token").expect_error(401, "UNAUTHORIZED");
    world.ask("alice", "GET", "/v2/team/web/manifests/1.0").expect(200);
    world.runtime.block_on(world.registry.access.remove_user(&account("alice"))).unwrap();
    for who in ["", "alice"] {
        world.ask(who, "GET", "/v2/team/web/manifests/1.0").expect_error(401, "UNAUTHORIZED");
    }
    assert_eq!(
        world.told.take_audits().iter().filter(|audit| audit.starts_with("here")).collect::<Vec<_>>(),
        ["here: operator add-user alice", "here: operator remove-user alice"]
    );
}

#[test]
fn who_lacks_a_right_is_told_the_same_whether_there_is_something_or_not() {
    let users = ["boss *:admin", "alice team:pull", "bob other:pull,push,delete"];
    let world = World::with_users(&users, &["public"]);
    let mut client = world.client();
    let digest = push_image(&mut client, "boss", "team/web", "1.0");
    push_image(&mut client, "boss", "public/web", "1.0");
    let blob = Digest::sha256(b"layer");
    let paths = [
        ("GET", "/v2/R/manifests/1.0".to_owned()),
        ("HEAD", "/v2/R/manifests/1.0".to_owned()),
        ("GET", format!("/v2/R/blobs/{blob}")),
        ("GET", "/v2/R/tags/list".to_owned()),
        ("GET", format!("/v2/R/referrers/{digest}")),
        ("GET", "/v2/R/_hull/tags/1.0/history".to_owned()),
        ("PUT", "/v2/R/manifests/1.0".to_owned()),
        ("POST", "/v2/R/blobs/uploads/".to_owned()),
        ("PATCH", format!("/v2/R/blobs/uploads/{}", "0".repeat(48))),
        ("DELETE", "/v2/R/manifests/1.0".to_owned()),
        ("DELETE", format!("/v2/R/blobs/{blob}")),
    ];
    for (method, path) in &paths {
        for repository in ["team/web", "team/none"] {
            let path = path.replace('R', repository);
            let status = |who| world.ask(who, method, &path).status;
            let reads = matches!(*method, "GET" | "HEAD");
            assert_eq!(status(""), 401, "{method} {path}");
            assert_eq!(status("bob"), 403, "{method} {path}");
            assert_eq!(status("alice") == 403, !reads, "{method} {path}");
        }
        let path = path.replace('R', "public/web");
        for who in ["", "alice", "bob"] {
            let allowed = matches!(*method, "GET" | "HEAD");
            let status = world.ask(who, method, &path).status;
            let want = if allowed {
                200
            } else if who.is_empty() {
                401
            } else {
                403
            };
            assert_eq!(status, want, "{who}: {method} {path}");
        }
    }
    let denied = world.ask("bob", "GET", "/v2/team/web/manifests/1.0").expect_error(403, "DENIED");
    assert_eq!(denied.header("www-authenticate"), None);
    let audits = world.told.take_audits();
    assert!(audits.contains(&"127.0.0.1: user:bob pull team/web: denied".to_owned()), "{audits:#?}");
    assert!(audits.contains(&"127.0.0.1: user:alice delete team/none: denied".to_owned()), "{audits:#?}");
}

#[test]
fn everybody_gets_a_token_where_everybody_may_pull_something() {
    let world = World::with_users(&["boss *:admin"], &["public"]);
    let mut client = world.client();
    push_image(&mut client, "boss", "public/web", "1.0");
    push_image(&mut client, "boss", "secret", "1.0");
    // Asked as such, the registry wants to see something, so that a login is noticed.
    world.ask("", "GET", "/v2/").expect_error(401, "UNAUTHORIZED");
    let token = world.token("", "repository:public/web:pull,push%20repository:secret:pull");
    world.ask(&token, "GET", "/v2/").expect(200);
    world.ask(&token, "GET", "/v2/public/web/manifests/1.0").expect(200);
    for (method, path) in [("GET", "/v2/secret/manifests/1.0"), ("POST", "/v2/public/web/blobs/uploads/")] {
        world.ask(&token, method, path).expect_error(401, "UNAUTHORIZED");
    }
}

#[test]
fn rights_are_those_of_now_whatever_was_shown_before() {
    let world = World::with_users(&["boss *:admin", "alice team:pull,push"], &[]);
    push_image(&mut world.client(), "boss", "team/web", "1.0");
    let access = &world.registry.access;
    let alice = account("alice");
    let path = "/v2/team/web/manifests/1.0";
    let token = world.token("alice", "repository:team/web:pull,push");
    world.ask(&token, "GET", path).expect(200);
    world.ask("alice", "GET", path).expect(200);

    world.runtime.block_on(access.set_grants(&alice, grants("other:pull"))).unwrap();
    world.ask(&token, "GET", path).expect_error(403, "DENIED");
    world.ask("alice", "GET", path).expect_error(403, "DENIED");
    world.runtime.block_on(access.set_grants(&alice, grants("team:pull"))).unwrap();
    world.ask(&token, "GET", path).expect(200);
    world.ask(&token, "POST", "/v2/team/web/blobs/uploads/").expect_error(403, "DENIED");

    world.runtime.block_on(access.set_password(&alice, &Secret::new("another password"))).unwrap();
    let reply = world.ask(&token, "GET", path).expect_error(401, "UNAUTHORIZED");
    assert!(reply.header("www-authenticate").unwrap().ends_with(",error=\"invalid_token\""), "{reply:?}");
    world.ask("alice", "GET", path).expect_error(401, "UNAUTHORIZED");
    let fresh = world.token(&basic("alice", "another password"), "repository:team/web:pull");
    world.ask(&fresh, "GET", path).expect(200);

    world.runtime.block_on(access.remove_user(&alice)).unwrap();
    for who in [&fresh, &basic("alice", "another password")] {
        world.ask(who, "GET", path).expect_error(401, "UNAUTHORIZED");
    }
    // Somebody else of the same name is somebody else.
    world.add_user("alice team:pull");
    world.ask(&fresh, "GET", path).expect_error(401, "UNAUTHORIZED");
}

#[test]
fn a_robot_has_a_token_that_ends() {
    let world = World::with_users(&["boss *:admin"], &[]);
    push_image(&mut world.client(), "boss", "team/web", "1.0");
    let path = "/v2/team/web/manifests/1.0";
    let day = Duration::from_secs(24 * 60 * 60);
    let token = world.add_robot("ci", "team:pull", Expiry::After(day)).unwrap();
    let shown = [
        basic("ci", token.reveal()),
        basic("anything", token.reveal()),
        format!("Bearer {}", token.reveal()),
        world.token(&basic("ci", token.reveal()), "repository:team/web:pull"),
    ];
    for who in &shown {
        world.ask(who, "GET", path).expect(200);
        world.ask(who, "DELETE", path).expect_error(403, "DENIED");
    }
    let again = world.add_robot("ci", "team:pull", Expiry::Never);
    assert!(matches!(again, Err(AccessError::Exists { .. })), "{again:?}");
    let robots = world.runtime.block_on(world.registry.access.robots()).unwrap();
    assert_eq!((robots.len(), robots[0].name.as_str(), robots[0].is_expired), (1, "ci", false));
    assert!(!format!("{robots:?}").contains(&token.reveal()[5..]));

    world.clock.pass(day);
    for who in &shown {
        world.ask(who, "GET", path).expect_error(401, "UNAUTHORIZED");
    }
    assert!(world.runtime.block_on(world.registry.access.robots()).unwrap()[0].is_expired);
    let new = world.add_robot("ci", "team:pull", Expiry::Never).unwrap();
    let new = basic("ci", new.reveal());
    world.ask(&new, "GET", path).expect(200);
    world.runtime.block_on(world.registry.access.revoke_robot(&account("ci"))).unwrap();
    world.ask(&new, "GET", path).expect_error(401, "UNAUTHORIZED");
    let twice = world.runtime.block_on(world.registry.access.revoke_robot(&account("ci")));
    assert!(matches!(twice, Err(AccessError::Unknown { .. })), "{twice:?}");
}

#[test]
fn a_token_that_ends_during_an_upload_is_good_for_that_upload() {
    let world = World::with_users(&["alice team:pull,push", "bob team:pull,push"], &[]);
    let token = world.token("alice", "repository:team/web:pull,push");
    let upload = world.ask(&token, "POST", "/v2/team/web/blobs/uploads/").expect(202);
    let upload = upload.header("location").unwrap().to_owned();
    let mut client = world.client();
    send(&mut client, &token, "PATCH", &upload, b"la").expect(202);
    world.clock.pass(Duration::from_secs(10 * 60));

    // The token is good for nothing else any more,
    let digest = Digest::sha256(b"layer");
    for (method, path) in [
        ("GET", "/v2/".to_owned()),
        ("POST", "/v2/team/web/blobs/uploads/".to_owned()),
        ("GET", format!("/v2/team/web/blobs/{digest}")),
        ("GET", upload.replace("team/web", "team/other")),
    ] {
        world.ask(&token, method, &path).expect_error(401, "UNAUTHORIZED");
    }
    // not for an upload that began later,
    let late = world.ask("alice", "POST", "/v2/team/web/blobs/uploads/").expect(202);
    world.ask(&token, "GET", late.header("location").unwrap()).expect_error(401, "UNAUTHORIZED");
    // nor for one that is made to look as if it had begun earlier;
    let forged = format!("{}{}", &upload[..upload.len() - 1], if upload.ends_with('0') { '1' } else { '0' });
    world.ask(&token, "GET", &forged).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    // nobody else has the upload;
    world.ask("bob", "GET", &upload).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    world.ask("bob", "DELETE", &upload).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    // and a token that was there when it began brings it to its end.
    send(&mut client, &token, "PATCH", &upload, b"ye").expect(202);
    send(&mut client, &token, "GET", &upload, b"").expect(204);
    send(&mut client, &token, "PUT", &format!("{upload}?digest={digest}"), b"r").expect(201);
    world.ask("alice", "GET", &format!("/v2/team/web/blobs/{digest}")).expect(200);
}

#[test]
fn whoever_is_removed_loses_their_uploads() {
    let world = World::with_users(&["boss *:admin", "alice team:pull,push"], &[]);
    let token = world.token("alice", "repository:team/web:pull,push");
    let upload = world.ask(&token, "POST", "/v2/team/web/blobs/uploads/").expect(202);
    let upload = upload.header("location").unwrap().to_owned();
    world.runtime.block_on(world.registry.access.remove_user(&account("alice"))).unwrap();
    world.ask(&token, "PATCH", &upload).expect_error(401, "UNAUTHORIZED");
    world.ask("boss", "PATCH", &upload).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn content_is_mounted_only_from_where_it_may_be_read() {
    let world = World::with_users(&["boss *:admin", "alice a:pull,push b:pull,push"], &[]);
    let mut client = world.client();
    push_image(&mut client, "boss", "secret", "1.0");
    let blob = Digest::sha256(b"layer");
    let mount =
        |who: &str, rest: &str| world.ask(who, "POST", &format!("/v2/a/blobs/uploads/?mount={blob}{rest}"));
    mount("alice", "&from=secret").expect(202);
    mount("alice", "").expect(202);
    world.ask("alice", "GET", &format!("/v2/a/blobs/{blob}")).expect_error(404, "BLOB_UNKNOWN");
    push_image(&mut client, "boss", "b", "1.0");
    // A token for the one repository does not read the other.
    mount(&world.token("alice", "repository:a:pull,push"), "&from=b").expect(202);
    mount(&world.token("alice", "repository:a:pull,push%20repository:b:pull"), "&from=b").expect(201);
    world.ask("alice", "GET", &format!("/v2/a/blobs/{blob}")).expect(200);
}

#[test]
fn the_catalog_lists_what_one_may_pull() {
    let world = World::with_users(&["boss *:admin", "alice team:pull", "bob x:push"], &["public"]);
    let mut client = world.client();
    for repository in ["public/a", "secret", "team/a", "team/b", "team/c"] {
        push_image(&mut client, "boss", repository, "1");
    }
    let list = |who: &str, query: &str| {
        let listed = world.ask(who, "GET", &format!("/v2/_catalog{query}")).expect(200).json();
        let names = listed["repositories"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("boss", "").len(), 5);
    assert_eq!(list("alice", ""), ["public/a", "team/a", "team/b", "team/c"]);
    assert_eq!(list("alice", "?n=2"), ["public/a", "team/a"]);
    assert_eq!(list("alice", "?n=2&last=team/a"), ["team/b", "team/c"]);
    assert_eq!(list("bob", ""), ["public/a"]);
    assert_eq!(list(&world.token("", "registry:catalog:*"), ""), ["public/a"]);
    let reply = world.ask("", "GET", "/v2/_catalog").expect_error(401, "UNAUTHORIZED");
    assert!(reply.header("www-authenticate").unwrap().contains("scope=\"registry:catalog:*\""));
}

#[test]
fn who_guesses_passwords_has_to_wait() {
    let world = World::with_users(&["alice *:admin"], &[]);
    for guess in 0..10 {
        world
            .ask(&basic("alice", &format!("guess {guess}")), "GET", "/v2/")
            .expect_error(401, "UNAUTHORIZED");
    }
    // From now on also the right password is none, in whatever way it is shown.
    for path in ["/v2/", "/token"] {
        let reply = world.ask("alice", "GET", path).expect_error(429, "TOOMANYREQUESTS");
        assert_eq!(reply.header("retry-after"), Some("60"));
    }
    world.clock.pass(Duration::from_secs(59));
    let reply = world.ask("alice", "GET", "/v2/").expect_error(429, "TOOMANYREQUESTS");
    assert_eq!(reply.header("retry-after"), Some("1"));
    world.clock.pass(Duration::from_secs(1));
    world.ask("alice", "GET", "/v2/").expect(200);
    let audits = world.told.take_audits();
    let failed = |audit: &&String| *audit == "127.0.0.1: user:alice log-in: denied";
    assert_eq!(audits.iter().filter(failed).count(), 13, "{audits:#?}");
}

#[test]
fn htpasswd_users_are_taken_over_with_their_passwords() {
    let world = World::with_users(&["alice *:admin"], &[]);
    let hash = bcrypt::hash("battery staple", 5).unwrap().replace("$2b$", "$2y$");
    let access = &world.registry.access;
    let import = |text: &str| world.runtime.block_on(access.import_htpasswd(text, grants("team:pull")));
    let imported = import(&format!("# ours\nbob:{hash}\nalice:{hash}\n")).unwrap();
    assert_eq!((imported.added, imported.existing), (vec![account("bob")], vec![account("alice")]));
    world.ask(&basic("bob", "battery staple"), "GET", "/v2/").expect(200);
    world.ask(&basic("bob", "battery"), "GET", "/v2/").expect_error(401, "UNAUTHORIZED");
    world.ask(&basic("alice", "battery staple"), "GET", "/v2/").expect_error(401, "UNAUTHORIZED");
    let refused = import(&format!("carol:{hash}\ndave:$apr1$x$y\n")).unwrap_err();
    assert!(refused.to_string().starts_with("line 2: the password of `dave` is hashed with Apache's MD5"));
    let users = world.runtime.block_on(access.users()).unwrap();
    assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
}

#[test]
fn what_is_shown_wrongly_is_refused_and_never_an_error_of_ours() {
    let world = World::with_users(&["alice *:admin"], &["public"]);
    let good = world.token("alice", "repository:team/web:pull");
    let long = "x".repeat(30_000);
    for shown in [
        "Basic !!!".to_owned(),
        "Basic ".to_owned() + &STANDARD.encode("no colon"),
        "Basic ".to_owned() + &STANDARD.encode(b"a:\xff"),
        basic("", ""),
        basic("../../alice", PASSWORD),
        basic(&"a".repeat(5000), &"b".repeat(5000)),
        basic("alice\u{1b}[2J", PASSWORD),
        "Bearer ".to_owned(),
        "Bearer x.y".to_owned(),
        format!("Bearer {}", &long),
        format!("{good}x"),
        good.replace("Bearer ", "Digest "),
        "Negotiate abc".to_owned(),
        "nonsense ".to_owned(),
    ] {
        world.ask(&shown, "GET", "/v2/").expect_error(401, "UNAUTHORIZED");
    }
    let twice = basic("alice", PASSWORD);
    let twice = [("authorization", twice.as_str()), ("authorization", twice.as_str())];
    world.client().send("GET", "/v2/", &twice, b"").expect_error(401, "UNAUTHORIZED");
    let told = world.told.0.lock().unwrap();
    assert!(
        !told.iter().any(|event| event.contains("RequestFailed") || event.contains('\u{1b}')),
        "{told:#?}"
    );
}

#[test]
fn a_host_that_is_none_is_not_repeated() {
    let world = World::with_users(&["alice *:admin"], &[]);
    let mut client = world.client();
    let challenge = |host: &str| {
        let mut connection = common::connect(world.registry.addr).map(std::io::BufReader::new).unwrap();
        write!(connection.get_mut(), "GET /v2/ HTTP/1.1\r\nhost: {host}\r\n\r\n").unwrap();
        let reply = common::read_reply(&mut connection, "GET").unwrap();
        reply.header("www-authenticate").unwrap_or_default().to_owned()
    };
    assert!(challenge("r.example:5000").starts_with("Bearer realm=\"http://r.example:5000/token\""));
    assert!(challenge("a\",realm=\"http://evil").starts_with("Bearer realm=\"http://localhost/token\""));
    assert!(challenge("user@evil").starts_with("Bearer realm=\"http://localhost/token\""));
    client.get("/v2/").expect(401);
}

#[test]
fn no_secret_is_told_to_anybody() {
    let world = World::with_users(&["boss *:admin"], &[]);
    let robot = world.add_robot("ci", "team:pull,push", Expiry::Never).unwrap();
    let token = world.token("boss", "repository:team/web:pull,push");
    let secrets =
        [PASSWORD.to_owned(), "planted guess".to_owned(), robot.reveal().to_owned(), token[7..].to_owned()];
    let mut shown = String::new();
    for who in [
        "boss".to_owned(),
        basic("boss", "planted guess"),
        basic("ci", robot.reveal()),
        format!("{token}x"),
        token.clone(),
        format!("Bearer {}x", robot.reveal()),
    ] {
        for (method, path) in [
            ("GET", "/v2/".to_owned()),
            ("POST", "/v2/team/web/blobs/uploads/".to_owned()),
            ("GET", format!("/v2/team/web/tags/list?{}&x=planted%20guess", &token[7..])),
            ("DELETE", "/v2/team/web/manifests/x".to_owned()),
            ("PUT", "/v2/other/manifests/x".to_owned()),
        ] {
            shown += &format!("{:?}", world.ask(&who, method, &path));
        }
    }
    let access = &world.registry.access;
    shown += &format!("{access:?} {:?}", world.runtime.block_on(access.users()).unwrap());
    shown += &format!("{:?} {robot:?}", world.runtime.block_on(access.robots()).unwrap());
    shown += &world.told.0.lock().unwrap().join("\n");
    for secret in secrets {
        let bare = secret.trim_start_matches("hull_");
        let hashed = Digest::sha256(secret.as_bytes()).hex();
        assert!(!shown.contains(bare) && !shown.contains(&hashed), "{secret} is shown");
    }
    assert!(!shown.contains("argon2id$v="), "a hash is shown");
}

#[test]
fn servers_on_one_storage_take_one_anothers_tokens_and_see_one_anothers_changes() {
    let storage = MemoryStorage::shared();
    let (one, two) = (World::on(storage.clone(), &[]), World::on(storage, &[]));
    two.ask("", "GET", "/v2/").expect(200);
    one.add_user("alice team:pull,push");
    two.ask("", "GET", "/v2/").expect_error(401, "UNAUTHORIZED");
    let token = one.token("alice", "repository:team:pull");
    for _ in 0..2 {
        two.ask(&token, "GET", "/v2/team/tags/list").expect_error(404, "NAME_UNKNOWN");
    }
    one.runtime.block_on(one.registry.access.set_grants(&account("alice"), grants("x:pull"))).unwrap();
    two.ask(&token, "GET", "/v2/team/tags/list").expect_error(403, "DENIED");
    two.runtime.block_on(two.registry.access.remove_user(&account("alice"))).unwrap();
    one.ask(&token, "GET", "/v2/team/tags/list").expect_error(401, "UNAUTHORIZED");
}

/// An OCI image layout with an image that skopeo understands, called `1.0`.
fn write_image_layout(folder: &Path) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |media_type: &str, content: &[u8]| {
        fs::write(blobs.join(Digest::sha256(content).hex()), content).unwrap();
        descriptor(media_type, content)
    };
    // What does not begin like a compressed layer would be compressed on the way.
    let layer = [&[0x1f, 0x8b, 8][..], &common::noise(1, 1000)].concat();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(b"the tar")] },
    });
    let image = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": add("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "layers": [add("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
    });
    let mut image = add(MANIFEST, image.to_string().as_bytes());
    image["annotations"] = json!({ "org.opencontainers.image.ref.name": "1.0" });
    fs::write(folder.join("index.json"), json!({ "schemaVersion": 2, "manifests": [image] }).to_string())
        .unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Runs a program, which may not be here. Returns whether it succeeded, and what it said.
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn run(program: &str, arguments: &[&str], stdin: &str) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Some((output.status.success(), said))
}

#[test]
fn curl_shows_a_password() {
    let world = World::with_users(&["alice team:pull,push"], &[]);
    push_image(&mut world.client(), "alice", "team/web", "1.0");
    let url = format!("http://{}/v2/team/web/tags/list", world.registry.addr);
    let user = format!("alice:{PASSWORD}");
    let Some((_, said)) = run("curl", &["-sS", "-u", &user, &url], "") else { return };
    assert_eq!(said, r#"{"name":"team/web","tags":["1.0"]}"#);
    let (_, said) = run("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &url], "").unwrap();
    assert_eq!(said, "401");
}

#[test]
fn skopeo_logs_in_and_copies() {
    let world = World::with_users(&["alice team:pull,push,delete", "bob other:pull"], &["public"]);
    let folder = tempfile::tempdir().unwrap();
    let auth = format!("--authfile={}", folder.path().join("auth.json").display());
    let layout = folder.path().join("layout");
    let host = world.registry.addr.to_string();
    push_image(&mut world.client(), "alice", "team/web", "1.0");
    let source = format!("docker://{host}/team/web:1.0");
    let login = |user: &str, password: &str| {
        let arguments = ["login", "--tls-verify=false", &auth, "-u", user, "--password-stdin", &host];
        run("skopeo", &arguments, password)
    };
    let Some((is_in, said)) = login("alice", "a guess") else { return };
    assert!(!is_in, "{said}");
    let skopeo = |arguments: &[&str], want: bool| {
        let (succeeded, said) = run("skopeo", arguments, "").unwrap();
        assert_eq!(succeeded, want, "skopeo {arguments:?}: {said}");
    };
    // Raw bytes, since what was pushed is no image that skopeo would take apart.
    skopeo(&["inspect", "--raw", "--tls-verify=false", &auth, &source], false);
    let (is_in, said) = login("alice", PASSWORD).unwrap();
    assert!(is_in, "{said}");
    skopeo(&["inspect", "--raw", "--tls-verify=false", &auth, &source], true);
    skopeo(&["list-tags", "--tls-verify=false", &auth, &format!("docker://{host}/team/web")], true);

    write_image_layout(&layout);
    let from = format!("oci:{}:1.0", layout.display());
    let copy = |creds: &str, to: &str, want| {
        let to = format!("docker://{host}/{to}");
        let creds = format!("--dest-creds={creds}");
        skopeo(&["copy", "--insecure-policy", "--dest-tls-verify=false", &creds, &from, &to], want);
    };
    copy(&format!("alice:{PASSWORD}"), "team/copied:1.0", true);
    copy(&format!("bob:{PASSWORD}"), "team/copied:1.1", false);
    copy("alice:a guess", "team/copied:1.1", false);
    let robot = world.add_robot("ci", "team:pull,push", Expiry::Never).unwrap();
    copy(&format!("ci:{}", robot.reveal()), "team/by-robot:1.0", true);
    let delete = format!("docker://{host}/team/copied:1.0");
    skopeo(&["delete", "--tls-verify=false", &auth, &delete], true);
    world.ask("alice", "GET", "/v2/team/copied/manifests/1.0").expect_error(404, "MANIFEST_UNKNOWN");
}
