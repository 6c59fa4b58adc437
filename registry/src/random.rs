//! Random bytes from the kernel, for names that nobody may guess and names that must never come twice.

/// `N` random bytes; at most 256.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(N), "the kernel gives that few bytes at once");
    bytes
}
