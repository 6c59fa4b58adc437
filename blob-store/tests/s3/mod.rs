//! Buckets for tests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use blob_store::{Addressing, PlainHttp, S3Config, S3Credentials};
use testkit::{NoS3Server, S3Server};

/// The service, which all tests of a process share, or why there is none.
pub(crate) fn server() -> Result<&'static S3Server, &'static NoS3Server> {
    static SERVER: OnceLock<Result<S3Server, NoS3Server>> = OnceLock::new();
    SERVER.get_or_init(S3Server::start).as_ref()
}

/// A bucket that nobody has used.
pub(crate) fn empty_bucket(server: &S3Server) -> S3Config {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let bucket = format!("bucket-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    server.create_bucket(&bucket);
    config(server.endpoint(), &bucket)
}

/// How to reach a bucket of the service at `endpoint`.
pub(crate) fn config(endpoint: String, bucket: &str) -> S3Config {
    S3Config {
        bucket: bucket.to_owned(),
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
        patience: Duration::from_secs(120),
    }
}
