//! Several values of one figure as one.

/// The median of some values, of an even number the upper one of the two in the middle; not a
/// number if there are none.
pub fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median, with the smallest and the largest value in parentheses.
pub fn spread(values: &[f64], decimals: usize) -> String {
    let middle = middle(values.iter().copied());
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{middle:.decimals$} ({least:.decimals$}..{most:.decimals$})")
}
