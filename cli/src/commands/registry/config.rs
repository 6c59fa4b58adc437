//! `registry.toml`: how a registry is served, for those who keep that in a file.
//!
//! Every key is optional, and one that does not exist is an error with its place. What the command
//! line says comes first. Paths are relative to the file's folder. Secrets do not belong here: S3's
//! credentials come from the environment, or from files of their own that are named here.
//!
//! The keys are documented, one by one, in `docs/registry.md`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use blob_store::{Addressing, Key, PlainHttp};
use packer::hull_toml::{HullTomlError, Item, Section, parse_size, read_document};
use registry::{Garbage, Limits, Pattern, Prefix, PublicUrl, Rule, Rules};

use super::storage::{Bucket, Place};
use crate::error::{CommandError, Exit};

/// What a `registry.toml` says.
#[derive(Debug, Default)]
pub(super) struct Config {
    pub(super) listen: Option<SocketAddr>,
    pub(super) storage: Option<Place>,
    pub(super) public_url: Option<PublicUrl>,
    pub(super) tls: Option<TlsPaths>,
    pub(super) operations: Option<SocketAddr>,
    pub(super) anonymous_pull: Vec<Prefix>,
    pub(super) limits: Limits,
    pub(super) garbage: Garbage,
    pub(super) rules: Rules,
    pub(super) log: Option<LogFormat>,
}

/// Where a certificate and its key are. Both are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsPaths {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// What went wrong, in sentences
    Text,
    /// Every request, an object on each line
    Json,
}

impl Config {
    /// Reads the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, CommandError> {
        let named = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `{named}`"))
            .map_err(|error| CommandError { exit: Exit::Usage, error, hint: None })
            .map_err(|error| error.hint("`--config` names a registry.toml"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder)
            .with_context(|| format!("`{named}` cannot be used"))
            .map_err(|error| CommandError { exit: Exit::Usage, error, hint: None })
            .map_err(|error| error.hint("docs/registry.md lists the keys"))
    }

    /// Reads the text of a file that lies in `folder`.
    fn parse(text: &str, folder: &Path) -> Result<Self, HullTomlError> {
        read_document(text, |document| {
            let mut config = Self {
                listen: optional(document, "listen", address)?,
                storage: storage(document, folder)?,
                public_url: optional(document, "public-url", url)?,
                rules: Rules(document.sections("rules")?.into_iter().map(rule).collect::<Result<_, _>>()?),
                ..Self::default()
            };
            table(document, "tls", |tls| {
                let certificate = path(&tls.need("certificate")?, folder)?;
                config.tls = Some(TlsPaths { certificate, key: path(&tls.need("key")?, folder)? });
                Ok(())
            })?;
            table(document, "operations", |operations| {
                config.operations = Some(address(&operations.need("listen")?)?);
                Ok(())
            })?;
            table(document, "access", |access| {
                config.anonymous_pull = list(access, "anonymous-pull", prefix)?;
                Ok(())
            })?;
            table(document, "limits", |section| limits(section, &mut config.limits))?;
            table(document, "gc", |section| garbage(section, &mut config.garbage))?;
            table(document, "log", |log| {
                let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
                config.log = optional(log, "format", |item| item.choice(&formats))?;
                Ok(())
            })?;
            Ok(config)
        })
    }
}

/// `data`, or `[storage.s3]`.
fn storage(document: &Section<'_>, folder: &Path) -> Result<Option<Place>, HullTomlError> {
    let mut bucket = None;
    table(document, "storage", |storage| {
        table(storage, "s3", |s3| {
            bucket = Some(Place::Bucket(bucket_of(s3, folder)?));
            Ok(())
        })
    })?;
    let data = optional(document, "data", |item| match bucket {
        Some(_) => item.read(|_| None, "no folder beside `[storage.s3]`"),
        None => path(item, folder).map(Place::Folder),
    })?;
    Ok(data.or(bucket))
}

fn bucket_of(section: &Section<'_>, folder: &Path) -> Result<Bucket, HullTomlError> {
    let is_path_style = optional(section, "path-style", |item| item.flag())?.unwrap_or(false);
    let allows_plain_http = optional(section, "plain-http", |item| item.flag())?.unwrap_or(false);
    let key_file = |key| optional(section, key, |item| path(item, folder));
    let key_files = match (key_file("access-key-file")?, key_file("secret-key-file")?) {
        (None, None) => None,
        // Whichever is missing is said to be.
        (access, secret) => {
            section.need("access-key-file")?;
            section.need("secret-key-file")?;
            access.zip(secret)
        }
    };
    Ok(Bucket {
        name: section.need("bucket")?.read(word, "the name of a bucket")?,
        prefix: optional(section, "prefix", |item| {
            item.read(|text| Key::new(text).ok(), "a folder such as \"registry\"")
        })?,
        region: optional(section, "region", |item| item.read(word, "a region such as \"eu-central-1\""))?
            .unwrap_or_else(|| "us-east-1".to_owned()),
        endpoint: optional(section, "endpoint", |item| {
            item.read(word, "a URL such as \"https://s3.example\"")
        })?,
        addressing: if is_path_style { Addressing::Path } else { Addressing::VirtualHost },
        plain_http: if allows_plain_http { PlainHttp::Allowed } else { PlainHttp::Refused },
        key_files,
    })
}

/// Text without spaces and control characters, and some of it.
fn word(text: &str) -> Option<String> {
    (!text.is_empty() && text.bytes().all(|c| c.is_ascii_graphic())).then(|| text.to_owned())
}

fn limits(section: &Section<'_>, limits: &mut Limits) -> Result<(), HullTomlError> {
    let set_count = |key, value: &mut usize| set(section, key, value, |item| item.number(1..=1 << 24));
    let set_time = |key, value: &mut Duration| set(section, key, value, time);
    let set_size = |key, value: &mut u64| set(section, key, value, size);
    let set_small = |key, value: &mut usize| set(section, key, value, small_size);
    set_count("connections", &mut limits.connections)?;
    set(section, "connections-per-address", &mut limits.connections_per_address, |item| {
        item.number(1..=1 << 24).map(Some)
    })?;
    set_time("handshake-timeout", &mut limits.handshake_timeout)?;
    set_time("head-timeout", &mut limits.head_timeout)?;
    set_small("head-size", &mut limits.head_bytes)?;
    set_count("headers", &mut limits.headers)?;
    set_small("uri-size", &mut limits.uri_bytes)?;
    set_time("body-window", &mut limits.body_window)?;
    set_size("body-floor", &mut limits.body_floor_bytes)?;
    set_size("blob-size", &mut limits.blob_bytes)?;
    set_count("open-uploads", &mut limits.open_uploads)?;
    set_time("upload-expiry", &mut limits.upload_expiry)?;
    set_time("drain", &mut limits.drain)
}

fn garbage(section: &Section<'_>, garbage: &mut Garbage) -> Result<(), HullTomlError> {
    set(section, "grace", &mut garbage.grace, time)?;
    set(section, "interval", &mut garbage.interval, |item| {
        item.read(|text| if text == "never" { Some(None) } else { duration(text).map(Some) }, TIME_OR_NEVER)
    })
}

fn rule(section: Section<'_>) -> Result<Rule, HullTomlError> {
    let rule = Rule {
        repositories: pattern(&section.need("repositories")?)?,
        immutable_tags: list(&section, "immutable-tags", pattern)?,
        quota_bytes: optional(&section, "quota", size)?,
        tags: list(&section, "tags", pattern)?,
        keep_newest: optional(&section, "keep-newest", |item| item.number(0..=1 << 24))?,
        tags_older_than: optional(&section, "tags-older-than", time)?,
        untagged_after: optional(&section, "untagged-after", time)?,
    };
    section.finish()?;
    Ok(rule)
}

/// Reads the table under `key`, if it is there.
fn table(
    section: &Section<'_>,
    key: &'static str,
    read: impl FnOnce(&Section<'_>) -> Result<(), HullTomlError>,
) -> Result<(), HullTomlError> {
    let Some(table) = section.section(key)? else { return Ok(()) };
    read(&table)?;
    table.finish()
}

/// The value under `key`, if it is there.
fn optional<T>(
    section: &Section<'_>,
    key: &'static str,
    read: impl FnOnce(&Item<'_>) -> Result<T, HullTomlError>,
) -> Result<Option<T>, HullTomlError> {
    section.get(key).map(|item| read(&item)).transpose()
}

/// Replaces `value` by what is under `key`, if that is there.
fn set<T>(
    section: &Section<'_>,
    key: &'static str,
    value: &mut T,
    read: impl FnOnce(&Item<'_>) -> Result<T, HullTomlError>,
) -> Result<(), HullTomlError> {
    if let Some(read) = optional(section, key, read)? {
        *value = read;
    }
    Ok(())
}

/// The values of the array under `key`; none if it is not there.
fn list<T>(
    section: &Section<'_>,
    key: &'static str,
    read: impl FnMut(&Item<'_>) -> Result<T, HullTomlError>,
) -> Result<Vec<T>, HullTomlError> {
    let items = section.get(key).map_or(Ok(Vec::new()), |item| item.items())?;
    items.iter().map(read).collect()
}

fn address(item: &Item<'_>) -> Result<SocketAddr, HullTomlError> {
    item.read(|text| text.parse().ok(), "an address and port such as \"127.0.0.1:5000\" or \"[::1]:5000\"")
}

fn path(item: &Item<'_>, folder: &Path) -> Result<PathBuf, HullTomlError> {
    item.read(|text| (!text.is_empty()).then(|| folder.join(text)), "a path")
}

/// What clients put a path behind: a scheme and a host.
fn url(item: &Item<'_>) -> Result<PublicUrl, HullTomlError> {
    item.read(|text| text.parse().ok(), "a URL such as \"https://registry.example:5000\", without a path")
}

fn prefix(item: &Item<'_>) -> Result<Prefix, HullTomlError> {
    item.read(|text| text.parse().ok(), "a repository such as \"team\", with all below it, or \"*\"")
}

fn pattern(item: &Item<'_>) -> Result<Pattern, HullTomlError> {
    item.read(
        |text| (!text.is_empty()).then(|| Pattern::new(text)),
        "a name in which `*` stands for any text",
    )
}

fn size(item: &Item<'_>) -> Result<u64, HullTomlError> {
    item.read(parse_size, "a size such as \"512MiB\" or \"10GiB\"")
}

/// The size of something that is held in memory for each connection.
fn small_size(item: &Item<'_>) -> Result<usize, HullTomlError> {
    let small =
        |text: &str| parse_size(text)?.try_into().ok().filter(|size| (1 << 10..=1 << 20).contains(size));
    item.read(small, "a size from \"1KiB\" to \"1MiB\"")
}

const TIME_OR_NEVER: &str = "a time such as \"6h\" or \"1d\", or \"never\"";

fn time(item: &Item<'_>) -> Result<Duration, HullTomlError> {
    item.read(duration, "a time such as \"500ms\", \"30s\", \"10m\", \"24h\" or \"90d\"")
}

/// A time of at least a millisecond and at most a hundred years.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let ms = number.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    (1..=36_525 * 86_400_000).contains(&ms).then(|| Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(text: &str, want: &str) {
        let error = Config::parse(text, Path::new("/etc/hull")).unwrap_err().to_string();
        assert_eq!(error, want, "{text}");
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        let config = Config::parse("", Path::new("")).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn the_example_that_is_shipped_is_right() {
        let text = include_str!("../../../../packaging/registry.toml");
        let config = Config::parse(text, Path::new("/etc/hull")).unwrap();
        assert!(config.listen.is_some_and(|listen| !listen.ip().is_loopback()) && config.tls.is_some());
        // What is commented out is right, too.
        let text: String =
            text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        let config = Config::parse(&text, Path::new("/etc/hull")).unwrap();
        assert_eq!(config.rules.0.len(), 2);
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            listen = "[::1]:443"
            data = "/srv/registry"
            public-url = "https://registry.example"
            tls = { certificate = "tls.crt", key = "/run/tls.key" }
            operations = { listen = "127.0.0.1:5001" }
            access = { anonymous-pull = ["public", "team/open"] }
            gc = { grace = "2h", interval = "never" }
            log = { format = "json" }
            [limits]
            connections = 1
            connections-per-address = 2
            handshake-timeout = "3s"
            head-timeout = "4s"
            head-size = "5KiB"
            headers = 6
            uri-size = "7KiB"
            body-window = "8s"
            body-floor = "9KiB"
            blob-size = "10GiB"
            open-uploads = 11
            upload-expiry = "12h"
            drain = "13m"
            [[rules]]
            repositories = "team/*"
            immutable-tags = ["v*"]
            quota = "1TiB"
            tags = ["pr-*"]
            keep-newest = 3
            tags-older-than = "14d"
            untagged-after = "1d"
        "#;
        let config = Config::parse(text, Path::new("/etc/hull")).unwrap();
        insta::assert_snapshot!(format!("{config:#?}"));
    }

    #[test]
    fn a_bucket_takes_the_place_of_a_folder() {
        let place = |text: &str| Config::parse(text, Path::new("/etc/hull")).unwrap().storage.unwrap();
        let Place::Bucket(bucket) = place("storage.s3 = { bucket = 'b' }") else { panic!("no bucket") };
        assert_eq!(bucket.addressing, Addressing::VirtualHost);
        assert_eq!((bucket.plain_http, bucket.key_files), (PlainHttp::Refused, None));
        let text = "[storage.s3]\nbucket = 'b'\nprefix = 'a/c'\nregion = 'r'\nendpoint = 'http://s3:9000'\n\
                    path-style = true\nplain-http = true\naccess-key-file = 'k'\nsecret-key-file = '/s'";
        let whole = place(text);
        assert_eq!(whole.to_string(), "the bucket b/a/c");
        let Place::Bucket(bucket) = whole else { panic!("no bucket") };
        assert_eq!(bucket.endpoint.as_deref(), Some("http://s3:9000"));
        assert_eq!(bucket.key_files, Some(("/etc/hull/k".into(), "/s".into())));
        check_error(
            "data = 'x'\nstorage.s3 = { bucket = 'b' }",
            "line 1, column 8: `data` is `x`; expected no folder beside `[storage.s3]`",
        );
        check_error(
            "[storage.s3]\nbucket = 'b'\naccess-key-file = 'k'",
            "line 1, column 1: `secret-key-file` is missing from `[storage.s3]`",
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        check_error("lisen = 1", "line 1, column 1: unknown key `lisen`; did you mean `listen`?");
        check_error(
            "\n[tls]\ncertificate = 'x'\nkeys = 'x'",
            "line 4, column 1: unknown key `keys`; did you mean `key`?",
        );
        check_error("[tls]\ncertificate = 'x'", "line 1, column 1: `key` is missing from `[tls]`");
        check_error(
            "[limits]\nhead-timeout = 30",
            "line 2, column 16: `limits.head-timeout` is integer; expected a string",
        );
        check_error(
            "[limits]\ndrain = '0s'",
            "line 2, column 9: `limits.drain` is `0s`; expected a time such as \"500ms\", \"30s\", \"10m\", \"24h\" or \"90d\"",
        );
        check_error(
            "public-url = 'https://a/b'",
            "line 1, column 14: `public-url` is `https://a/b`; expected a URL such as \"https://registry.example:5000\", \
             without a path",
        );
        check_error(
            "[[rules]]\nquota = '1GiB'",
            "line 1, column 1: `repositories` is missing from `[rules]`",
        );
    }
}
