//! Token buckets. Time is a `Duration` since any fixed start, told by the caller.
//!
//! The arithmetic is that of the kernel's `limit` expression (nft_limit.c), so that the same numbers in a policy mean
//! the same whether the kernel or hull's relay enforces them: credit is kept in nanoseconds, one token costs
//! `10^9 / rate` of them, rounded down, and the bucket starts full.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use appliance::policy::{Rate, RatePer};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Sources that have a bucket of their own at one time.
const MAX_SOURCES: usize = 4096;

/// One bucket.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    // Invariant: credit_ns <= cost_ns * burst.
    credit_ns: u64,
    full_ns: u64,
    cost_ns: u64,
    last: Duration,
}

impl TokenBucket {
    /// A full bucket that holds `burst` tokens and gains `per_second` of them in a second. Neither may be 0.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let cost_ns = NANOS_PER_SECOND / u64::from(per_second.max(1));
        let full_ns = cost_ns * u64::from(burst);
        Self { credit_ns: full_ns, full_ns, cost_ns, last: Duration::ZERO }
    }

    /// Takes a token, if there is one. A `now` before the last one gains nothing.
    pub fn take(&mut self, now: Duration) -> bool {
        self.refill(now);
        match self.credit_ns.checked_sub(self.cost_ns) {
            Some(left) => {
                self.credit_ns = left;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Duration) {
        let gained = u64::try_from(now.saturating_sub(self.last).as_nanos()).unwrap_or(u64::MAX);
        self.credit_ns = self.credit_ns.saturating_add(gained).min(self.full_ns);
        self.last = self.last.max(now);
    }

    fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.credit_ns == self.full_ns
    }
}

/// A rule's rate: one bucket for all, or one for each source.
///
/// At most 4096 sources have their own bucket. Buckets that are full again are dropped when space is needed; while
/// there are more busy sources than that, the newcomers share one bucket.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    rate: Rate,
    shared: TokenBucket,
    sources: HashMap<IpAddr, TokenBucket>,
    // No bucket can be dropped before this; keeps a flood of sources from causing a scan each.
    next_sweep: Duration,
}

impl RateLimiter {
    /// A limiter with full buckets.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            shared: TokenBucket::new(rate.new_per_second, rate.burst),
            sources: HashMap::new(),
            next_sweep: Duration::ZERO,
        }
    }

    /// Takes a token for `source`, if there is one. With [`RatePer::Source`] an IPv6 source is its /64: a host that
    /// has one address there has them all.
    pub fn take(&mut self, source: IpAddr, now: Duration) -> bool {
        match self.rate.per {
            RatePer::Rule => self.shared.take(now),
            RatePer::Source => self.bucket_of(source_key(source), now).take(now),
        }
    }

    fn bucket_of(&mut self, source: IpAddr, now: Duration) -> &mut TokenBucket {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            if now >= self.next_sweep {
                self.sources.retain(|_, bucket| !bucket.is_full(now));
                self.next_sweep = now + Duration::from_secs(1);
            }
            if self.sources.len() >= MAX_SOURCES {
                return &mut self.shared;
            }
        }
        self.sources
            .entry(source)
            .or_insert_with(|| TokenBucket::new(self.rate.new_per_second, self.rate.burst))
    }
}

fn source_key(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `tries` at each of `moments` (milliseconds) a bucket of `per_second` and `burst` lets through.
    #[track_caller]
    fn check((per_second, burst): (u32, u32), moments: &[u64], tries: u32, want: &[u32]) {
        let mut bucket = TokenBucket::new(per_second, burst);
        let found: Vec<u32> = moments
            .iter()
            .map(|ms| (0..tries).filter(|_| bucket.take(Duration::from_millis(*ms))).count() as u32)
            .collect();
        assert_eq!(found, want);
    }

    #[test]
    fn a_bucket_starts_full_and_refills_with_time() {
        check((5, 5), &[0, 199, 200, 1000], 10, &[5, 0, 1, 4]);
        check((50, 100), &[0, 10_000], 1000, &[100, 100]);
        check((1, 1), &[0, 999, 1000, 500], 2, &[1, 0, 1, 0]); // the last one: time ran back
        check((u32::MAX, 1), &[0], 1000, &[1000]); // faster than a nanosecond each
        check((1, u32::MAX), &[0], 1000, &[1000]);
    }

    fn limiter(per: RatePer) -> RateLimiter {
        RateLimiter::new(Rate { new_per_second: 1, burst: 2, per })
    }

    #[test]
    fn sources_have_their_own_bucket_only_when_the_rule_says_so() {
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for (per, want) in
            [(RatePer::Rule, [true, true, false, false]), (RatePer::Source, [true, true, true, true])]
        {
            let mut limiter = limiter(per);
            assert_eq!([a, a, b, b].map(|source| limiter.take(source, Duration::ZERO)), want);
        }
    }

    #[test]
    fn an_ipv6_source_is_its_whole_64() {
        let mut limiter = limiter(RatePer::Source);
        let sources = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1", "::ffff:192.0.2.1"];
        let found = sources.map(|source| limiter.take(source.parse().unwrap(), Duration::ZERO));
        assert_eq!(found, [true, true, false, true, true]);
    }

    #[test]
    fn a_flood_of_sources_takes_bounded_memory_and_ends() {
        let mut limiter = limiter(RatePer::Source);
        let flood = |limiter: &mut RateLimiter, now| {
            (0..10_000u32).filter(|n| limiter.take(IpAddr::from(n.to_be_bytes()), now)).count()
        };
        assert_eq!(flood(&mut limiter, Duration::ZERO), MAX_SOURCES + 2);
        assert_eq!(limiter.sources.len(), MAX_SOURCES);
        let later = Duration::from_secs(10);
        assert!(limiter.take(IpAddr::from([192, 0, 2, 1]), later));
        assert_eq!(limiter.sources.len(), 1);
    }
}
