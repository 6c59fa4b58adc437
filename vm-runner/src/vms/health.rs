//! Health checks: is the guest ready, and does it stay well?
//!
//! The judgement is a plain value that is told each check's outcome; a thread of the supervisor does
//! the asking. A guest is never waited for longer than [`CHECK_TIME`] once it has accepted, however
//! slowly it talks.
//!
//! Source: RFC 9112, sections 3 "Request Line" and 4 "Status Line"; RFC 9110, section 15 "Status Codes".

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use appliance::policy::{Health, HealthCheck};

/// How long a guest may take to answer a check.
const CHECK_TIME: Duration = Duration::from_secs(5);
/// The longest first line of an answer.
const LONGEST_STATUS_LINE: usize = 8 << 10;

/// What a machine under health checks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its check passed.
    Ready,
    /// Its check has failed `retries` times in a row, the start period being over.
    Unhealthy,
}

/// Turns outcomes of checks into changes of verdict.
#[derive(Debug)]
pub(super) struct Judge {
    start_period: Duration,
    retries: u32,
    failures: u32,
    verdict: Option<Verdict>,
}

impl Judge {
    /// A judge for `health` that has heard nothing yet. Under emulation a guest is several times as
    /// slow as its author measured it, so the start period is stretched by `slowness`.
    pub(super) fn new(health: &Health, slowness: u32) -> Self {
        let start_period = Duration::from_millis(health.start_period_ms).saturating_mul(slowness);
        Self { start_period, retries: health.retries, failures: 0, verdict: None }
    }

    /// Takes the outcome of a check that ended `since_start` after the guest was started. Says what
    /// the machine is from now on, if that is another thing than before.
    pub(super) fn hear(&mut self, passed: bool, since_start: Duration) -> Option<Verdict> {
        let verdict = if passed {
            self.failures = 0;
            Verdict::Ready
        } else {
            let starting = self.verdict.is_none() && since_start < self.start_period;
            self.failures += u32::from(!starting);
            if self.failures < self.retries {
                return None;
            }
            Verdict::Unhealthy
        };
        (self.verdict.replace(verdict) != Some(verdict)).then_some(verdict)
    }
}

/// Does one check. `connect` reaches a port of the guest, and sees to it that this has an end.
pub(super) fn passes(check: &HealthCheck, connect: impl Fn(u16) -> io::Result<TcpStream>) -> bool {
    passes_within(CHECK_TIME, check, connect)
}

fn passes_within(
    answer_time: Duration,
    check: &HealthCheck,
    connect: impl Fn(u16) -> io::Result<TcpStream>,
) -> bool {
    match check {
        HealthCheck::Http { port, path } => connect(*port)
            .and_then(|guest| http_status(guest, path, Instant::now() + answer_time))
            // 2xx is success, 3xx says where to go on.
            .is_ok_and(|status| (200..400).contains(&status)),
        HealthCheck::Tcp { port } => connect(*port).is_ok(),
        // Told by the guest, never asked.
        HealthCheck::Ready => false,
    }
}

/// The status with which the guest answers a GET.
fn http_status(mut guest: TcpStream, path: &str, deadline: Instant) -> io::Result<u16> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hull\r\nConnection: close\r\n\r\n");
    // An empty socket buffer takes all of it at once.
    guest.set_write_timeout(Some(left_until(deadline)?))?;
    guest.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') && line.len() < LONGEST_STATUS_LINE {
        let mut piece = [0; 512];
        guest.set_read_timeout(Some(left_until(deadline)?))?;
        match guest.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => line.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    status_in(&line).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The status in the first line of an answer.
fn status_in(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    match words.next() {
        Some("HTTP/1.1" | "HTTP/1.0") => words.next()?.trim_end().parse().ok(),
        _ => None,
    }
}

fn left_until(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    const HEALTH: Health =
        Health { check: HealthCheck::Ready, interval_ms: 1_000, start_period_ms: 10_000, retries: 2 };

    /// Outcomes at seconds after the start, each with what the judge says to it.
    #[track_caller]
    fn check(slowness: u32, told: &[(u64, bool, Option<Verdict>)]) {
        let mut judge = Judge::new(&HEALTH, slowness);
        for (second, passed, want) in told {
            assert_eq!(judge.hear(*passed, Duration::from_secs(*second)), *want, "after {second} s");
        }
    }

    #[test]
    fn failures_while_it_starts_do_not_count() {
        use Verdict::{Ready, Unhealthy};
        check(1, &[(1, false, None), (9, false, None), (11, false, None), (12, false, Some(Unhealthy))]);
        check(1, &[(1, true, Some(Ready)), (2, true, None), (3, false, None), (4, false, Some(Unhealthy))]);
        check(1, &[(11, false, None), (12, true, Some(Ready)), (13, false, None), (14, true, None)]);
        check(5, &[(11, false, None), (49, false, None), (51, false, None), (52, false, Some(Unhealthy))]);
    }

    #[test]
    fn an_http_check_passes_on_success_and_redirection_only() {
        let answered = |answer: &'static str| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                let mut request = String::new();
                BufReader::new(&stream).read_line(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                request
            });
            let check = HealthCheck::Http { port: 80, path: "/healthz".into() };
            let passed = passes(&check, |_| TcpStream::connect(address));
            assert_eq!(server.join().unwrap(), "GET /healthz HTTP/1.1\r\n");
            passed
        };
        assert!(answered("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(answered("HTTP/1.0 302 Found\r\n\r\n"));
        assert!(!answered("HTTP/1.1 503 Busy\r\n\r\n"));
        assert!(!answered("220 mail.example ESMTP\r\n"));
        assert!(!answered(""));
    }

    #[test]
    fn a_guest_that_drips_its_answer_fails_the_check_when_the_time_is_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            // Each read gets a byte; no single one of them ever waits long.
            while stream.write_all(b"H").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let check = HealthCheck::Http { port: 80, path: "/".into() };
        assert!(!passes_within(Duration::from_millis(50), &check, |_| TcpStream::connect(address)));
        server.join().unwrap(); // it was hung up on
    }
}
