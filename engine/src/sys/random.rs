//! Random numbers of the kernel: getrandom(2).

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::SysError;

/// A number that nobody can guess. Waits for the kernel's first entropy, which is there within
/// seconds of its start.
///
/// # Errors
/// When the kernel gives none, as under a seccomp profile that forbids the call.
pub fn random_number() -> Result<u128, SysError> {
    let number = number_from(|bytes| getrandom(bytes, GetRandomFlags::empty()));
    number.map_err(|errno| match errno {
        Errno::NOSYS | Errno::PERM => SysError::Unsupported {
            what: "no random numbers from the kernel".into(),
            remedy: "allow getrandom in the seccomp profile".into(),
        },
        errno => SysError::failed("getrandom", errno),
    })
}

/// A number of the bytes that `fill` gives, in as many calls as that takes.
fn number_from(mut fill: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<u128, Errno> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match fill(&mut bytes[filled..]) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_or_an_error() {
        let mut calls = 0;
        let number = number_from(|bytes| {
            calls += 1;
            if calls % 2 == 0 {
                return Err(Errno::INTR);
            }
            bytes[0] = calls;
            Ok(1)
        });
        let expected: [u8; 16] = std::array::from_fn(|index| 2 * index as u8 + 1);
        assert_eq!(number, Ok(u128::from_le_bytes(expected)));
        let forbidden = number_from(|_| Err(Errno::PERM));
        assert_eq!(forbidden, Err(Errno::PERM), "and not zero");
    }

    #[test]
    fn two_numbers_differ() {
        assert_ne!(random_number().unwrap(), random_number().unwrap());
    }
}
