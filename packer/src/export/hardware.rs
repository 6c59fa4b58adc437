//! What machines are made of, in the words that several platforms share.

/// The features, by QEMU's and libvirt's names, that a CPU level of x86-64 has over the first one; all of the lower
/// levels' too.
///
/// Source: x86-64 psABI, "Micro-Architecture Levels".
pub(super) fn cpu_features(level: &str) -> Vec<&'static str> {
    const LEVELS: [(&str, &[&str]); 3] = [
        ("x86-64-v2", &["cx16", "lahf_lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3"]),
        ("x86-64-v3", &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"]),
        ("x86-64-v4", &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
    ];
    // The names sort as the levels do.
    LEVELS
        .iter()
        .filter(|(name, _)| *name <= level)
        .flat_map(|(_, features)| features.iter().copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_what_the_lower_ones_have() {
        for (level, count) in [("x86-64-v1", 0), ("x86-64-v2", 7), ("x86-64-v3", 16), ("x86-64-v4", 21)] {
            assert_eq!(cpu_features(level).len(), count, "{level}");
        }
    }
}
