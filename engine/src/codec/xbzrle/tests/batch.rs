//! Deltas together against deltas one by one, with every kernel of this machine.

use super::super::{BATCH_BYTES, BatchDecoder, BatchError, decode};
use super::{Page, changed, changes, check, page};
use crate::codec::simd::{self, LANES, Lane};
use crate::units::PAGE_BYTES;
use proptest::prelude::*;

/// The delta of runs of `length` bytes with `gap` bytes before each, up to the end of the page.
fn dense(gap: usize, length: usize) -> Vec<u8> {
    let runs = (0..PAGE_BYTES / (gap + length)).map(|run| (run * (gap + length) + gap, length));
    let old = page(1);
    check(&old, &changed(&old, &runs.collect::<Vec<_>>())).expect("fits")
}

/// Applies `deltas` to as many pages, in one batch with each kernel; the first result.
fn check_batch(deltas: &[Vec<u8>]) -> Result<(), BatchError> {
    let before: Vec<Page> = (0..deltas.len()).map(|seed| page(seed as u8)).collect();
    let mut alone = before.clone();
    let results: Vec<_> = deltas
        .iter()
        .zip(&mut alone)
        .map(|(delta, page)| decode(delta, page))
        .collect();
    let slices: Vec<&[u8]> = deltas.iter().map(Vec::as_slice).collect();
    let mut first = Ok(());
    let all_right = results.iter().all(Result::is_ok);
    for kernel in simd::available_weave() {
        let name = kernel.name();
        let mut decoder = BatchDecoder::with_kernel(kernel);
        // Twice, since nothing of a batch may show in the next.
        for _ in 0..2 {
            let mut pages = before.clone();
            let result = decoder.decode(&slices, &mut pages);
            match result {
                Ok(()) => {
                    assert!(pages == alone, "{name}");
                }
                Err(BatchError { number, error }) => {
                    assert_eq!(results[number], Err(error), "{name}");
                    assert!(pages[number] == before[number], "{name}");
                    for (number, page) in pages.iter().enumerate() {
                        let whole = *page == before[number] || *page == alone[number];
                        assert!(whole, "{name}: page {number} is half done");
                    }
                }
            }
            assert_eq!(result.is_ok(), all_right, "{name}");
            first = first.and(result);
        }
    }
    first
}

#[test]
fn every_gap_and_length_is_applied_with_every_number_of_others() {
    let all: Vec<_> = (3..12)
        .flat_map(|gap| [1, 2, 7, 15, 16, 17, 31, 32, 33].map(|length| dense(gap, length)))
        .collect();
    assert_eq!(check_batch(&all), Ok(()));
    for count in 0..2 * LANES + 2 {
        assert_eq!(check_batch(&all[..count]), Ok(()));
    }
}

#[test]
fn few_and_many_runs_go_together() {
    let (old, new) = (page(0), changed(&page(0), &[(9, 5), (2000, 300)]));
    let few = check(&old, &new).expect("fits");
    let some = dense(60, 1);
    let mut many = dense(3, 1);
    assert_eq!(
        check_batch(&[few.clone(), many.clone(), some.clone(), many.clone(), few]),
        Ok(())
    );
    // A long run in between.
    let long = [[0x90, 2, 0x81, 1].as_slice(), &[7; 129]].concat();
    many.truncate(900);
    many.extend(long);
    many.extend(&dense(4, 2)[..400]);
    assert_eq!(check_batch(&[many, some]), Ok(()));
}

#[test]
fn a_malformed_delta_is_named_and_leaves_its_page() {
    let good = dense(3, 1);
    for at in [0, 2] {
        for (cut, tail) in [
            // Cut within a run; a length of zero, one of three bytes, and runs beyond the page.
            (2999, &[][..]),
            (1500, &[3, 0, 9]),
            (1500, &[0x80, 0x80, 0x01, 1, 9]),
            (3000, &[127, 1, 9, 127, 1, 9]),
            (1500, &[0xff, 0x1f, 1, 9]),
            // Literals that are not there, as many as a kernel takes at most, and one more.
            (1500, &[3, 15]),
            (1500, &[3, 31]),
            (1500, &[3, 32]),
        ] {
            let mut deltas = vec![good.clone(); 6];
            deltas[at].truncate(cut);
            deltas[at].extend(tail);
            let error = check_batch(&deltas).expect_err("malformed");
            assert_eq!(error.number, at, "{cut}, {tail:?}");
            assert!(error.to_string().starts_with(&format!("delta {at}: ")));
        }
    }
    let mut deltas = vec![good; 3];
    deltas[1] = vec![0; PAGE_BYTES + 1];
    assert_eq!(check_batch(&deltas).map_err(|error| error.number), Err(1));
}

#[test]
fn a_decoder_takes_no_more_than_it_is_said_to() {
    assert!((LANES * size_of::<Lane>()) as u64 <= BATCH_BYTES);
}

/// Deltas of many short runs, some of them malformed.
fn deltas() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let run = (
        prop_oneof![9 => 1u8..8, 1 => 0u8..0x80],
        prop_oneof![9 => 1u8..6, 1 => 1u8..40],
    );
    let runs = prop::collection::vec(run, 0..500);
    let damage = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    let delta = (runs, damage).prop_map(|(runs, damage)| {
        let mut delta = Vec::new();
        let mut end = 0;
        for (number, (zrun, nzrun)) in runs.into_iter().enumerate() {
            let zrun = zrun.max((number > 0).into());
            end += usize::from(zrun) + usize::from(nzrun);
            // A little beyond the page, now and then.
            if end > PAGE_BYTES + 2 {
                break;
            }
            delta.extend([zrun, nzrun]);
            delta.extend((0..nzrun).map(|literal| literal ^ number as u8));
        }
        if let Some((at, value)) = damage
            && !delta.is_empty()
        {
            let at = at.index(delta.len());
            delta[at] = value;
        }
        delta
    });
    prop::collection::vec(delta, 0..12)
}

proptest! {
    #[test]
    fn any_batch_is_applied_as_each_alone(deltas in deltas()) {
        let _ = check_batch(&deltas);
    }

    #[test]
    fn what_was_encoded_is_applied(all in prop::collection::vec(changes(), 0..8)) {
        let deltas: Vec<_> = all
            .iter()
            .filter_map(|changes| check(&page(3), &changed(&page(3), changes)))
            .collect();
        prop_assert_eq!(check_batch(&deltas), Ok(()));
    }
}
