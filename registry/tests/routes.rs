//! Every route, every method, every kind of user: one table says what is answered.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use appliance::Digest;
use common::world::{PASSWORD, World, basic, push_image, send};
use common::{Reply, figure, manifest};
use registry::{Expiry, Secret};

/// What is answered to whom: the head names the users (see [`User`]). A method that a route does not
/// have a line for is answered 405, whoever asks. What is asked for is there.
const TABLE: &str = "
route                                method  open  nobody  public  wrong  other  reader  pusher  deleter  admin  expired  narrowed
/v2/                                 GET     200   401     401     401    200    200     200     200      200    401      200
/v2/                                 HEAD    200   401     401     401    200    200     200     200      200    401      200
/v2/<name>/manifests/<reference>     GET     200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/manifests/<reference>     HEAD    200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/manifests/<reference>     PUT     201   401     401     401    403    403     201     403      201    401      401
/v2/<name>/manifests/<reference>     DELETE  202   401     401     401    403    403     403     202      202    401      401
/v2/<name>/blobs/<digest>            GET     200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/blobs/<digest>            HEAD    200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/blobs/<digest>            DELETE  202   401     401     401    403    403     403     202      202    401      401
/v2/<name>/blobs/uploads/            POST    202   401     401     401    403    403     202     403      202    401      401
/v2/<name>/blobs/uploads/<id>        GET     204   401     401     401    403    403     204     403      204    401      401
/v2/<name>/blobs/uploads/<id>        PATCH   202   401     401     401    403    403     202     403      202    401      401
/v2/<name>/blobs/uploads/<id>        PUT     201   401     401     401    403    403     201     403      201    401      401
/v2/<name>/blobs/uploads/<id>        DELETE  204   401     401     401    403    403     204     403      204    401      401
/v2/<name>/tags/list                 GET     200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/tags/list                 HEAD    200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/referrers/<digest>        GET     200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/referrers/<digest>        HEAD    200   401     200     401    403    200     200     200      200    401      200
/v2/_catalog                         GET     200   401     401     401    200    200     200     200      200    401      401
/v2/_catalog                         HEAD    200   401     401     401    200    200     200     200      200    401      401
/v2/<name>/_hull/tags/<tag>/history  GET     200   401     200     401    403    200     200     200      200    401      200
/v2/<name>/_hull/tags/<tag>/history  HEAD    200   401     200     401    403    200     200     200      200    401      200
/token                               GET     200   401     200     401    200    200     200     200      200    401      401
/token                               POST    400   400     400     401    200    200     200     200      200    401      401
";

/// The error codes of the answers in the table.
const CODES: [(u16, &str); 4] =
    [(400, "UNSUPPORTED"), (401, "UNAUTHORIZED"), (403, "DENIED"), (405, "UNSUPPORTED")];

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];

/// Whose repository is asked for.
const REPOSITORY: &str = "team/web";
/// Of those who have an account there, or in another team.
const RIGHTS: [&str; 6] = [
    "other other:pull,push,delete",
    "reader team:pull",
    "pusher team:pull,push",
    "deleter team:pull,delete",
    "admin team:admin",
    "narrowed team:pull,push,delete",
];

/// Servers, one for each way in which somebody without an account is met.
struct Servers {
    /// Without any account.
    open: World,
    closed: World,
    /// Where everybody may pull.
    public: World,
    /// The token of a robot of the server `closed`, which has ended.
    expired: Secret,
    /// How many passwords were guessed.
    guesses: Cell<usize>,
}

/// A kind of user: a column of the table.
#[derive(Debug, Clone, Copy)]
struct User<'a>(&'a str);

impl Servers {
    fn start() -> Self {
        let (open, closed) = (World::new(&[]), World::with_users(&RIGHTS, &[]));
        let public = World::with_users(&["admin team:admin"], &["team"]);
        let expired = closed.add_robot("expired", "team:admin", Expiry::After(Duration::from_secs(1)));
        closed.clock.pass(Duration::from_secs(1));
        let (expired, guesses) = (expired.unwrap(), Cell::new(0));
        let servers = Self { open, closed, public, expired, guesses };
        for (world, who) in [(&servers.open, ""), (&servers.closed, "admin"), (&servers.public, "admin")] {
            push_image(&mut world.client(), who, REPOSITORY, "1.0");
        }
        servers
    }

    fn of(&self, user: User<'_>) -> &World {
        match user.0 {
            "open" => &self.open,
            "public" => &self.public,
            _ => &self.closed,
        }
    }

    /// What a user shows: a name whose password is right, or a whole header.
    fn shown(&self, user: User<'_>) -> String {
        match user.0 {
            "open" | "nobody" | "public" => String::new(),
            "wrong" => {
                // Whoever guesses again and again at one account would have to wait.
                let guess = self.guesses.replace(self.guesses.get() + 1);
                basic(RIGHTS[guess % RIGHTS.len()].split(' ').next().unwrap(), "a guess")
            }
            "expired" => basic("expired", self.expired.reveal()),
            "narrowed" => self.closed.token("narrowed", &format!("repository:{REPOSITORY}:pull")),
            name => name.to_owned(),
        }
    }

    /// The form that a user posts to get a token.
    fn form(&self, user: User<'_>, shown: &str) -> String {
        let password = |password: &str| {
            format!("grant_type=password&username={}&password={}", user.0, password.replace(' ', "%20"))
        };
        match user.0 {
            "open" | "nobody" | "public" => String::new(),
            "wrong" => password("a guess"),
            "expired" => format!("grant_type=refresh_token&refresh_token={}", self.expired.reveal()),
            "narrowed" => format!("grant_type=refresh_token&refresh_token={}", &shown["Bearer ".len()..]),
            _ => password(PASSWORD),
        }
    }

    fn ask(&self, user: User<'_>, method: &str, template: &str) -> Reply {
        let (world, shown) = (self.of(user), self.shown(user));
        let mut client = world.client();
        let image = manifest(b"config", b"layer");
        let is_about_image = template.contains("/referrers/");
        let digest = Digest::sha256(if is_about_image { &image } else { b"layer" });
        let mut path = template.replace("<name>", REPOSITORY).replace("<digest>", &digest.to_string());
        path = path.replace("<reference>", "1.0").replace("<tag>", "1.0");
        if path.contains("<id>") {
            // Those who may have one ask for an upload of their own.
            let own = if user.0 == "narrowed" { user.0 } else { &shown };
            let begun = send(&mut client, own, "POST", &format!("/v2/{REPOSITORY}/blobs/uploads/"), b"");
            path = match begun.header("location") {
                Some(upload) => upload.to_owned(),
                None => path.replace("<id>", &"0".repeat(48)),
            };
            path = if method == "PUT" { format!("{path}?digest={}", Digest::sha256(b"chunk")) } else { path };
        }
        assert!(!path.contains('<'), "{path}: what stands there?");
        let body = match (template, method) {
            ("/token", "POST") => self.form(user, &shown).into_bytes(),
            (_, "PATCH") => b"chunk".to_vec(),
            (_, "PUT") if template.ends_with("<id>") => b"chunk".to_vec(),
            (_, "PUT") => image,
            _ => Vec::new(),
        };
        let reply = send(&mut client, &shown, method, &path, &body);
        if method == "DELETE" && reply.status == 202 {
            let who = if user.0 == "open" { "" } else { "admin" };
            push_image(&mut client, who, REPOSITORY, "1.0");
        }
        reply
    }
}

/// The templates of all routes: the server's own list, of which its compiler says that it is complete.
fn templates() -> BTreeSet<&'static str> {
    let source = include_str!("../src/route.rs");
    let (_, list) = source.split_once("fn template(&self)").unwrap();
    let (list, _) = list.split_once("\n    }\n").unwrap();
    list.lines().filter_map(|line| line.split('"').nth(1)).collect()
}

#[test]
fn every_route_answers_every_method_of_every_user_as_the_table_says() {
    let mut lines = TABLE.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let users: Vec<User<'_>> = lines.next().unwrap().into_iter().skip(2).map(User).collect();
    let rows: Vec<Vec<&str>> = lines.collect();
    let in_table: BTreeSet<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(in_table, templates(), "the table has a line for each route and for no other");

    let servers = Servers::start();
    let mut answers = 0;
    for template in &in_table {
        let served: Vec<&Vec<&str>> = rows.iter().filter(|row| row[0] == *template).collect();
        let mut allowed: Vec<&str> = served.iter().map(|row| row[1]).collect();
        allowed.sort_unstable();
        for method in METHODS {
            let row = served.iter().find(|row| row[1] == method);
            for (column, user) in users.iter().enumerate() {
                let what = format!("{user:?}: {method} {template}");
                let want: u16 = row.map_or(405, |row| row[2 + column].parse().unwrap());
                let reply = servers.ask(*user, method, template);
                assert_eq!(reply.status, want, "{what}: {reply:?}");
                if let Some((_, code)) = CODES.iter().find(|(status, _)| *status == want && method != "HEAD")
                {
                    assert_eq!(reply.code(), *code, "{what}");
                }
                let asks_for_login = reply.header("www-authenticate").is_some();
                assert_eq!(asks_for_login, want == 401, "{what}: {reply:?}");
                if want == 405 {
                    let mut said: Vec<&str> = reply.header("allow").unwrap().split(", ").collect();
                    said.sort_unstable();
                    assert_eq!(said, allowed, "{what}");
                }
                answers += 1;
            }
        }
    }
    let (routes, methods, users) = (in_table.len(), METHODS.len(), users.len());
    figure(&format!(
        "{routes} routes x {methods} methods x {users} users = {answers} answers, as the table says"
    ));
    assert_eq!(answers, routes * methods * users);
}
