//! Structures that grow: each begins with its size, as the caller's header has it.
//!
//! A caller with an older header gives a shorter structure: what is missing is zero, which every field
//! reads as "the default". One with a newer header gives a longer one: what this library does not know
//! must be zero, or it is refused rather than ignored. What is written back is as much as the caller has
//! room for.

use std::mem::MaybeUninit;

use crate::error::Fault;

/// A structure whose first field is its size.
///
/// # Safety
/// `repr(C)`, the first field a `usize`, no padding, and any bytes, or all zeros for pointers and
/// callbacks, make a valid value. No field of one that is given by C is of a type with forbidden values.
pub(crate) unsafe trait Versioned: Sized {
    /// Its size in the first version of the interface.
    const LEAST: usize;
}

/// Longest structure that is believed: of a header much newer than this library.
const MOST: usize = 64 << 10;

/// The size that a structure says it has.
///
/// # Safety
/// `from` is null, or points to a `usize`.
unsafe fn size<T: Versioned>(from: *const T) -> Result<usize, Fault> {
    let name = std::any::type_name::<T>().rsplit("::").next();
    let name = name.unwrap_or_default();
    if from.is_null() {
        return Err(Fault::argument(format!("the {name} is null")));
    }
    if !from.is_aligned() {
        return Err(Fault::argument(format!("the {name} is not aligned")));
    }
    // SAFETY: the caller's promise; the first field is the size.
    let size = unsafe { from.cast::<usize>().read() };
    if size < T::LEAST || size > MOST {
        return Err(Fault::argument(format!(
            "the {name} says that it has {size} bytes: set it up by PAGELIFT_INIT"
        )));
    }
    Ok(size)
}

/// That something can be written to the structure.
///
/// # Safety
/// As for [`write`].
pub(crate) unsafe fn check<T: Versioned>(to: *mut T) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { size(to.cast_const()).map(|_| ()) }
}

/// Reads a structure of any version.
///
/// # Safety
/// `from` is null, or points to as many bytes as its first field says, which nobody writes meanwhile.
pub(crate) unsafe fn read<T: Versioned>(from: *const T) -> Result<T, Fault> {
    // SAFETY: the caller's promise.
    unsafe { read_sized(from) }.map(|(value, _)| value)
}

/// As [`read`], for one of an array; also gives its size.
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn read_sized<T: Versioned>(from: *const T) -> Result<(T, usize), Fault> {
    // SAFETY: the caller's promise.
    let size = unsafe { size(from)? };
    let known = size.min(size_of::<T>());
    let bytes = from.cast::<u8>();
    for at in known..size {
        // SAFETY: within the bytes that the caller promises.
        if unsafe { bytes.add(at).read() } != 0 {
            return Err(Fault::argument(
                "the structure asks for something that this version of libpagelift does not know",
            ));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are there on both sides, and a new value overlaps nothing.
    unsafe { bytes.copy_to_nonoverlapping(value.as_mut_ptr().cast(), known) };
    // SAFETY: `Versioned` says that such bytes make a valid value.
    Ok((unsafe { value.assume_init() }, size))
}

/// Writes `value` to a structure of any version, which keeps its size.
///
/// # Safety
/// `to` is null, or points to as many bytes as its first field says, which nobody else uses meanwhile.
pub(crate) unsafe fn write<T: Versioned>(to: *mut T, value: &T) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    let size = unsafe { size(to.cast_const())? };
    let (head, known) = (size_of::<usize>(), size.min(size_of::<T>()));
    let from = (&raw const *value).cast::<u8>();
    // SAFETY: `known` bytes are there on both sides, and `value` is no memory of the caller's.
    unsafe {
        from.add(head)
            .copy_to_nonoverlapping(to.cast::<u8>().add(head), known - head);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[derive(Debug, PartialEq)]
    #[repr(C)]
    struct Grown {
        struct_size: usize,
        old: u64,
        new: u64,
    }

    // SAFETY: three integers.
    unsafe impl Versioned for Grown {
        const LEAST: usize = 16;
    }

    /// Reads `words` as a structure.
    fn given(words: &mut [u64]) -> Result<Grown, Code> {
        // SAFETY: as many words as the tests say there are.
        unsafe { read(words.as_ptr().cast::<Grown>()) }.map_err(|fault| fault.code)
    }

    #[test]
    fn what_an_older_header_lacks_is_zero_and_what_a_newer_one_asks_for_is_refused() {
        let same = given(&mut [24, 1, 2]).unwrap();
        assert_eq!((same.old, same.new), (1, 2));
        let older = given(&mut [16, 1, 7]).unwrap();
        assert_eq!((older.old, older.new), (1, 0));
        assert_eq!(given(&mut [32, 1, 2, 0]).unwrap().new, 2);
        assert_eq!(given(&mut [32, 1, 2, 1 << 40]), Err(Code::Argument));
        for size in [0, 8, 15, 1 << 40] {
            assert_eq!(given(&mut [size, 1, 2]), Err(Code::Argument));
        }
        // SAFETY: null is allowed.
        assert!(unsafe { read(std::ptr::null::<Grown>()) }.is_err());
    }

    #[test]
    fn no_more_is_written_than_there_is_room_for() {
        let value = Grown {
            struct_size: 24,
            old: 1,
            new: 2,
        };
        let mut words = [16_u64, 9, 9];
        // SAFETY: three words are there.
        unsafe { write(words.as_mut_ptr().cast::<Grown>(), &value) }.unwrap();
        assert_eq!(words, [16, 1, 9]);
        let mut words = [32_u64, 9, 9, 9];
        // SAFETY: four words are there.
        unsafe { write(words.as_mut_ptr().cast::<Grown>(), &value) }.unwrap();
        assert_eq!(words, [32, 1, 2, 9]);
    }
}
