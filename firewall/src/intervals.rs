//! Sets of numbers and of addresses, kept as ascending ranges.
//!
//! One set has exactly one form, so equality of sets is equality of values.

use std::net::IpAddr;

use ipnet::IpNet;

/// A number that ranges can be made of: a port, or an address's bits.
pub trait Number: Copy + Ord + std::fmt::Debug {
    /// The lowest.
    const MIN: Self;
    /// The highest.
    const MAX: Self;
    /// The next higher one, if any.
    fn next(self) -> Option<Self>;
    /// The next lower one, if any.
    fn previous(self) -> Option<Self>;
}

macro_rules! number {
    ($($kind:ty),*) => {$(
        impl Number for $kind {
            const MIN: Self = <$kind>::MIN;
            const MAX: Self = <$kind>::MAX;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}
number!(u16, u32, u128);

/// A set of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntervalSet<T> {
    // Invariant: ascending; each first <= last; between two ranges lies at least one number.
    ranges: Vec<(T, T)>,
}

impl<T> Default for IntervalSet<T> {
    fn default() -> Self {
        Self { ranges: Vec::new() }
    }
}

impl<T: Number> FromIterator<(T, T)> for IntervalSet<T> {
    /// The union of ranges, both ends included, in any order. A range that ends before it starts is empty.
    fn from_iter<I: IntoIterator<Item = (T, T)>>(ranges: I) -> Self {
        let mut sorted: Vec<(T, T)> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::new();
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(before) if before.1.next().is_none_or(|next| first <= next) => {
                    before.1 = before.1.max(last)
                }
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }
}

impl<T: Number> IntervalSet<T> {
    /// The ranges, ascending and apart from each other, both ends included.
    pub fn ranges(&self) -> &[(T, T)] {
        &self.ranges
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// True if everything is in it.
    pub fn is_all(&self) -> bool {
        self.ranges == [(T::MIN, T::MAX)]
    }

    /// True if `number` is in it.
    pub fn contains(&self, number: T) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.ranges[after - 1].1
    }

    /// What is in one of the two.
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// What is in this set and not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut holes = other.ranges.iter().peekable();
        for &(first, last) in &self.ranges {
            let mut from = Some(first);
            while let Some(start) = from {
                match holes.peek() {
                    Some(hole) if hole.1 < start => {
                        holes.next();
                    }
                    Some(hole) if hole.0 <= last => {
                        left.extend(hole.0.previous().map(|end| (start, end)));
                        from = hole.1.next().filter(|next| *next <= last);
                    }
                    _ => {
                        left.push((start, last));
                        from = None;
                    }
                }
            }
        }
        left.into_iter().collect()
    }
}

/// A set of addresses, each family for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// IPv4 addresses, as their bits.
    pub v4: IntervalSet<u32>,
    /// IPv6 addresses, as their bits.
    pub v6: IntervalSet<u128>,
}

impl FromIterator<AddressSet> for AddressSet {
    /// The union of sets.
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for set in sets {
            v4.extend(set.v4.ranges);
            v6.extend(set.v6.ranges);
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}

impl AddressSet {
    /// The addresses of any of `nets`. Bits after a prefix are ignored.
    pub fn of_nets<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }

    /// True if no address is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// True if `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }

    /// What is in this set and not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        Self { v4: self.v4.without(&other.v4), v6: self.v6.without(&other.v6) }
    }

    /// How many ranges there are in both families.
    pub fn range_count(&self) -> usize {
        self.v4.ranges().len() + self.v6.ranges().len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let set: IntervalSet<u16> =
            [(7, 9), (1, 3), (4, 5), (9, 8), (65_530, 65_535), (65_535, 65_535)].into_iter().collect();
        assert_eq!(set.ranges(), [(1, 5), (7, 9), (65_530, 65_535)]);
        let all: IntervalSet<u16> = [(0, 99), (100, 65_535), (5, 6)].into_iter().collect();
        assert!(all.is_all());
    }

    fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
        let end = prop_oneof![0..40u16, 65_500..=65_535u16];
        prop::collection::vec((end.clone(), end), 0..8)
    }

    proptest! {
        #[test]
        fn sets_agree_with_membership_number_by_number(a in ranges(), b in ranges()) {
            let within = |ranges: &[(u16, u16)], n: u16| ranges.iter().any(|(first, last)| (*first..=*last).contains(&n));
            let (left, right): (IntervalSet<u16>, IntervalSet<u16>) = (a.iter().copied().collect(), b.iter().copied().collect());
            let (union, without) = (left.union(&right), left.without(&right));
            for n in (0..45).chain(65_490..=65_535) {
                let (in_a, in_b) = (within(&a, n), within(&b, n));
                prop_assert_eq!(left.contains(n), in_a);
                prop_assert_eq!(union.contains(n), in_a || in_b);
                prop_assert_eq!(without.contains(n), in_a && !in_b);
            }
            for set in [&union, &without] {
                prop_assert!(set.ranges().windows(2).all(|pair| pair[0].1 < pair[1].0 && pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
