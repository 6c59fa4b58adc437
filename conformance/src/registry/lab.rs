//! A repository of a check's own, and what a client does in it.
//!
//! What was pushed through here is deleted again at the end, where the registry deletes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::answer::{Answer, Problem};
use super::client::{Ask, Client};
use super::content::{Algorithm, BYTES, Blob, CONFIG, LAYER, MANIFESTS, Manifest, image, index, word};
use super::http::Body;
use super::url::Target;

/// A repository that no other check uses.
#[derive(Debug)]
pub(crate) struct Lab<'a> {
    pub(crate) client: &'a Client,
    /// What all repositories' names begin with.
    prefix: &'a str,
    pub(crate) name: String,
    /// Paths to delete, the oldest first.
    pushed: Mutex<Vec<String>>,
}

impl<'a> Lab<'a> {
    pub(crate) fn new(client: &'a Client, prefix: &'a str) -> Self {
        Self::named(client, prefix, format!("{prefix}/{}", word()))
    }

    fn named(client: &'a Client, prefix: &'a str, name: String) -> Self {
        Self { client, prefix, name, pushed: Mutex::default() }
    }

    /// Another repository.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.client, self.prefix)
    }

    /// The repository of this name, behind the common prefix.
    pub(crate) fn other(&self, rest: &str) -> Self {
        Self::named(self.client, self.prefix, format!("{}/{rest}", self.prefix))
    }

    /// A path in this repository, as `manifests/latest` is one.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name)
    }

    pub(crate) fn ask(&self, method: &str, rest: &str) -> Ask<'a> {
        self.client.ask(method, &self.path(rest))
    }

    /// Gets something, with an `Accept` for all manifests, as clients should send it.
    pub(crate) fn get(&self, rest: &str) -> Result<Answer, Problem> {
        self.ask("GET", rest).with("Accept", MANIFESTS).send()
    }

    /// As [`Lab::get`], without the content.
    pub(crate) fn head(&self, rest: &str) -> Result<Answer, Problem> {
        self.ask("HEAD", rest).with("Accept", MANIFESTS).send()
    }

    pub(crate) fn delete(&self, rest: &str) -> Result<Answer, Problem> {
        self.ask("DELETE", rest).send()
    }

    pub(crate) fn get_blob(&self, digest: &str) -> Result<Answer, Problem> {
        self.get(&format!("blobs/{digest}"))
    }

    pub(crate) fn head_blob(&self, digest: &str) -> Result<Answer, Problem> {
        self.head(&format!("blobs/{digest}"))
    }

    pub(crate) fn get_manifest(&self, reference: &str) -> Result<Answer, Problem> {
        self.get(&format!("manifests/{reference}"))
    }

    /// Deletes a blob or manifest at the end.
    pub(crate) fn clean_later(&self, kind: &str, digest: &str) {
        self.pushed.lock().expect("no thread panics here").push(format!("{kind}/{digest}"));
    }

    /// Begins an upload.
    pub(crate) fn begin(&self) -> Result<Upload<'_>, Problem> {
        self.begin_with("blobs/uploads/")
    }

    /// Begins an upload by a `POST` with parameters.
    pub(crate) fn begin_with(&self, rest: &str) -> Result<Upload<'_>, Problem> {
        let answer = self.ask("POST", rest).send()?;
        answer.is(&[202])?;
        self.upload(answer)
    }

    /// The upload that an answer leads to.
    pub(crate) fn upload(&self, begun: Answer) -> Result<Upload<'_>, Problem> {
        let at = self.location(&begun)?;
        Ok(Upload { lab: self, at: Mutex::new(at), begun, finished: AtomicBool::new(false) })
    }

    /// Where the answer's `Location` leads.
    pub(crate) fn location(&self, answer: &Answer) -> Result<Target, Problem> {
        let location = answer.need("Location")?;
        let wrong = || answer.problem(format_args!("Location `{}` leads nowhere", location.escape_debug()));
        answer.target.join(location).ok_or_else(wrong)
    }

    /// Pushes a blob by `POST` and `PUT`.
    pub(crate) fn push(&self, blob: &Blob) -> Result<Answer, Problem> {
        let upload = self.begin()?;
        let answer = upload.finish(&blob.digest, &blob.bytes)?;
        answer.is(&[201])?;
        Ok(answer)
    }

    pub(crate) fn push_random(&self, len: usize) -> Result<Blob, Problem> {
        let blob = Blob::random(len);
        self.push(&blob)?;
        Ok(blob)
    }

    /// Sends a manifest, and says what came of it.
    pub(crate) fn send(&self, manifest: &Manifest, reference: &str) -> Result<Answer, Problem> {
        self.send_as(manifest, reference, &manifest.media_type)
    }

    pub(crate) fn send_as(
        &self,
        manifest: &Manifest,
        reference: &str,
        kind: &str,
    ) -> Result<Answer, Problem> {
        let ask = self.ask("PUT", &format!("manifests/{reference}")).with("Content-Type", kind);
        let answer = ask.bytes(&manifest.bytes).send()?;
        if answer.status() == 201 {
            self.clean_later("manifests", &manifest.digest);
        }
        Ok(answer)
    }

    /// Pushes a manifest, which must be taken.
    pub(crate) fn put(&self, manifest: &Manifest, reference: &str) -> Result<Answer, Problem> {
        let answer = self.send(manifest, reference)?;
        answer.is(&[201])?;
        Ok(answer)
    }

    /// An image manifest whose blobs are in the repository; it is not pushed itself.
    pub(crate) fn image(&self) -> Result<Value, Problem> {
        let (config, layer) = (Blob::of("{}"), Blob::random(300));
        self.push(&config)?;
        self.push(&layer)?;
        Ok(image(&config.descriptor(CONFIG), &[layer.descriptor(LAYER)]))
    }

    /// An image with this tag, pushed with all that belongs to it.
    pub(crate) fn tagged(&self, tag: &str) -> Result<Manifest, Problem> {
        let manifest = Manifest::of(&self.image()?);
        self.put(&manifest, tag)?;
        Ok(manifest)
    }

    /// An image by its digest alone, pushed with all that belongs to it.
    pub(crate) fn untagged(&self) -> Result<Manifest, Problem> {
        let manifest = Manifest::of(&self.image()?);
        self.put(&manifest, &manifest.digest)?;
        Ok(manifest)
    }

    /// An index of one pushed image; it is not pushed itself.
    pub(crate) fn index(&self) -> Result<Value, Problem> {
        let mut child = self.untagged()?.descriptor();
        child["platform"] = serde_json::json!({ "os": "linux", "architecture": "amd64" });
        Ok(index(&[child]))
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        let pushed = std::mem::take(&mut *self.pushed.lock().expect("no thread panics here"));
        for path in pushed.iter().rev() {
            if self.client.has_given_up() {
                return;
            }
            // It may be gone, or the registry may not delete.
            let _ = self.delete(path);
        }
    }
}

/// An upload under way. Given up at the end, if it is not finished.
#[derive(Debug)]
pub(crate) struct Upload<'a> {
    lab: &'a Lab<'a>,
    /// Where it goes on; each answer may name a new place.
    at: Mutex<Target>,
    /// The answer that began it.
    pub(crate) begun: Answer,
    finished: AtomicBool,
}

impl Upload<'_> {
    pub(crate) fn at(&self) -> Target {
        self.at.lock().expect("no thread panics here").clone()
    }

    pub(crate) fn ask(&self, method: &str) -> Ask<'_> {
        self.lab.client.ask_at(method, self.at())
    }

    fn follow(&self, answer: &Answer) {
        if let Ok(at) = self.lab.location(answer) {
            *self.at.lock().expect("no thread panics here") = at;
        }
    }

    /// Sends bytes with a `Content-Range` that is given as it stands.
    pub(crate) fn patch(&self, range: &str, bytes: &[u8]) -> Result<Answer, Problem> {
        let ask = self.ask("PATCH").with("Content-Type", BYTES).with("Content-Range", range);
        let answer = ask.bytes(bytes).send()?;
        if answer.status() == 202 {
            self.follow(&answer);
        }
        Ok(answer)
    }

    /// Sends the part of `blob` from `from` to before `to`, which must be taken.
    pub(crate) fn chunk(&self, blob: &Blob, from: usize, to: usize) -> Result<Answer, Problem> {
        let answer = self.patch(&format!("{from}-{}", to - 1), &blob.bytes[from..to])?;
        answer.is(&[202])?;
        Ok(answer)
    }

    /// Sends bytes without saying where they belong.
    pub(crate) fn stream(&self, body: Body) -> Result<Answer, Problem> {
        let answer = self.ask("PATCH").with("Content-Type", BYTES).body(body).send()?;
        answer.is(&[202])?;
        self.follow(&answer);
        Ok(answer)
    }

    pub(crate) fn status(&self) -> Result<Answer, Problem> {
        self.ask("GET").send()
    }

    /// Asks to close the upload.
    pub(crate) fn finishing(&self, digest: &str) -> Ask<'_> {
        self.lab.client.ask_at("PUT", self.at().with("digest", digest)).with("Content-Type", BYTES)
    }

    /// Closes the upload with these last bytes.
    pub(crate) fn finish(&self, digest: &str, bytes: &[u8]) -> Result<Answer, Problem> {
        let answer = self.finishing(digest).bytes(bytes).send()?;
        if answer.status() == 201 {
            self.lab.clean_later("blobs", digest);
            self.finished.store(true, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// The least size of a chunk that is not the last: what the registry says, or `otherwise`.
    pub(crate) fn least_chunk(&self, otherwise: usize) -> usize {
        let least = self.begun.header("OCI-Chunk-Min-Length").and_then(|text| text.trim().parse().ok());
        least.unwrap_or(0).max(otherwise).min(16 << 20)
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) && !self.lab.client.has_given_up() {
            // The registry may not know how to.
            let _ = self.ask("DELETE").send();
        }
    }
}

impl Lab<'_> {
    /// Pushes a blob whose digest is not a sha256.
    ///
    /// # Errors
    ///
    /// [`Problem::Unsupported`] where the registry refuses the digest as one that it does not know.
    pub(crate) fn push_by(&self, algorithm: Algorithm, len: usize) -> Result<Blob, Problem> {
        let blob = Blob::by(algorithm, Blob::random(len).bytes);
        let upload = self.begin_with(&format!("blobs/uploads/?digest-algorithm={}", algorithm.name()))?;
        upload.finish(&blob.digest, &blob.bytes)?.is_or_unsupported(&[201])?;
        Ok(blob)
    }
}
