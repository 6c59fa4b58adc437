//! How sizes, times and addresses in the guest are written in `hull.toml`.

use appliance::policy::Health;

/// What [`size`] accepts.
pub(super) const SIZE: &str = "a size such as \"512MiB\" or \"10GiB\", in whole sectors of 512 bytes";
/// What [`duration_ms`] accepts.
pub(super) const DURATION: &str = "a time such as \"500ms\", \"10s\", \"2m\" or \"1h\", from 1 ms to 7 days";
/// What [`start_period_ms`] accepts.
pub(super) const START_PERIOD: &str = "a time such as \"0s\", \"30s\" or \"2m\", up to 7 days";
/// What [`guest_url`] accepts.
pub(super) const GUEST_URL: &str = "a port and path of the guest such as \"http://:80/healthz\"";

/// A size in bytes: a whole number with B, KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB, in whole sectors
/// of 512 bytes; `None` for anything else.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (bytes > 0 && bytes % 512 == 0).then_some(bytes)
}

/// A time in milliseconds.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    start_period_ms(text).filter(|ms| *ms > 0)
}

/// A time in milliseconds, which may be none.
pub(super) fn start_period_ms(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let ms = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (ms <= Health::LONGEST_MS).then_some(ms)
}

/// Port and path of `http://:PORT/PATH`.
pub(super) fn guest_url(text: &str) -> Option<(u16, String)> {
    let rest = text.strip_prefix("http://:")?;
    let (port, path) = rest.split_at(rest.find('/')?);
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    // It goes into a request line as it is.
    path.bytes().all(|c| c.is_ascii_graphic()).then(|| (port, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_sectors() {
        for (text, want) in [
            ("1GiB", Some(1 << 30)),
            ("10 GiB", Some(10 << 30)),
            ("512MB", Some(512_000_000)),
            ("0MiB", None),
            ("1536B", Some(1536)),
            ("1537B", None),
            ("1kB", None),
            ("1G", None),
            ("GiB", None),
            ("-1GiB", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(size(text), want, "{text}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        for (text, want) in [
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("10", None),
            ("0s", None),
            ("9999h", None),
        ] {
            assert_eq!(duration_ms(text), want, "{text}");
        }
        assert_eq!(start_period_ms("0s"), Some(0));
    }

    #[test]
    fn urls_name_no_host() {
        assert_eq!(guest_url("http://:80/healthz"), Some((80, "/healthz".into())));
        for text in [
            "http://:0/",
            "http://:80",
            "http://host:80/",
            "https://:80/",
            "http://:80/a b",
            "http://:80/\r\n",
        ] {
            assert_eq!(guest_url(text), None, "{text}");
        }
    }
}
