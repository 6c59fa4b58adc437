//! Health checks: is the guest ready, and does it stay well?
//!
//! The judgement is a plain value that is told each check's outcome; a thread of the supervisor does
//! the asking.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use appliance::policy::{Health, HealthCheck};

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

/// Does one check. `connect` reaches a port of the guest.
pub(super) fn passes(check: &HealthCheck, connect: impl Fn(u16) -> io::Result<TcpStream>) -> bool {
    match check {
        HealthCheck::Http { port, path } => {
            connect(*port).and_then(|guest| http_status(guest, path)).is_ok_and(
                // RFC 9110, section 15: 2xx is success, 3xx says where to go on.
                |status| (200..400).contains(&status),
            )
        }
        HealthCheck::Tcp { port } => connect(*port).is_ok(),
        // Told by the guest, never asked.
        HealthCheck::Ready => false,
    }
}

/// The status with which the guest answers a GET. RFC 9112, sections 3 and 4.
fn http_status(mut guest: TcpStream, path: &str) -> io::Result<u16> {
    const LONGEST_STATUS_LINE: u64 = 8 << 10;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hull\r\nConnection: close\r\n\r\n");
    guest.write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(io::Read::take(guest, LONGEST_STATUS_LINE)).read_line(&mut line)?;
    let mut words = line.split(' ');
    match (words.next(), words.next().map(|status| status.trim_end().parse())) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(Ok(status))) => Ok(status),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
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
}
