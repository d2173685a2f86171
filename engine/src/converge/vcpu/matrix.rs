//! The little linear algebra that the regression needs: a symmetric positive definite matrix,
//! its Cholesky factor, and least squares with no negative answer.
//!
//! Plain loops over rows of `f64`: with the 64 vCPUs that are attributed at most, a factor costs
//! about 50 us.

/// A square matrix, by rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    n: usize,
    cells: Vec<f64>,
}

impl Matrix {
    /// All zeros.
    pub(super) fn zeros(n: usize) -> Self {
        let cells = vec![0.0; n * n];
        Self { n, cells }
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.n + column]
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.cells[row * self.n..(row + 1) * self.n]
    }

    /// Multiplies all by `factor`.
    pub(super) fn scale(&mut self, factor: f64) {
        self.cells.iter_mut().for_each(|cell| *cell *= factor);
    }

    /// Adds `weight * x * x^T`.
    pub(super) fn add_outer(&mut self, weight: f64, x: &[f64]) {
        for (row, left) in x.iter().enumerate() {
            let cells = &mut self.cells[row * self.n..(row + 1) * self.n];
            for (cell, right) in cells.iter_mut().zip(x) {
                *cell += weight * left * right;
            }
        }
    }

    /// This matrix with `value` added to each cell of the diagonal.
    pub(super) fn plus_diagonal(&self, value: f64) -> Self {
        let mut sum = self.clone();
        for index in 0..self.n {
            sum.cells[index * self.n + index] += value;
        }
        sum
    }

    /// The lower triangle `L` with `L * L^T` equal to this matrix; `None` if it is not positive
    /// definite (Golub, Van Loan: Matrix Computations, algorithm 4.2.1).
    pub(super) fn cholesky(&self) -> Option<Cholesky> {
        let mut lower = Self::zeros(self.n);
        for row in 0..self.n {
            for column in 0..=row {
                let (left, right) = (lower.row(row), lower.row(column));
                let known: f64 = (0..column).map(|k| left[k] * right[k]).sum();
                let rest = self.at(row, column) - known;
                let value = if row == column {
                    Some(rest).filter(|rest| *rest > 0.0)?.sqrt()
                } else {
                    rest / lower.at(column, column)
                };
                lower.cells[row * self.n + column] = value;
            }
        }
        Some(Cholesky { lower })
    }

    /// The `x` without negative parts that minimises `x^T A x / 2 - b^T x`, from the guess that
    /// `x` holds: coordinate descent, which converges for a positive definite matrix.
    pub(super) fn least_squares(&self, b: &[f64], x: &mut [f64]) {
        const SWEEPS: u32 = 200;
        for _ in 0..SWEEPS {
            let mut moved: f64 = 0.0;
            let mut largest: f64 = 0.0;
            for index in 0..self.n {
                let row = self.row(index);
                let others: f64 = row.iter().zip(&*x).map(|(a, x)| a * x).sum();
                let gradient = others - b[index];
                let new = (x[index] - gradient / row[index]).max(0.0);
                moved = moved.max((new - x[index]).abs());
                largest = largest.max(new);
                x[index] = new;
            }
            if moved <= largest * 1e-6 {
                return;
            }
        }
    }
}

/// A Cholesky factor.
#[derive(Clone, Debug)]
pub(super) struct Cholesky {
    lower: Matrix,
}

impl Cholesky {
    /// `x^T A^-1 x`, for the matrix `A` that this is the factor of.
    pub(super) fn inverse_form(&self, x: &[f64]) -> f64 {
        // A^-1 = L^-T * L^-1, so that it is the square of the length of L^-1 * x.
        let mut solved = vec![0.0; x.len()];
        for row in 0..x.len() {
            let cells = self.lower.row(row);
            let known: f64 = (0..row).map(|k| cells[k] * solved[k]).sum();
            solved[row] = (x[row] - known) / cells[row];
        }
        solved.iter().map(|part| part * part).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Matrix {
        let mut a = Matrix::zeros(3);
        for x in [[1.0, 0.5, 0.0], [0.2, 1.0, 0.7], [0.9, 0.1, 1.0]] {
            a.add_outer(2.0, &x);
        }
        a.plus_diagonal(0.1)
    }

    #[test]
    fn the_factor_gives_the_matrix_back() {
        let a = sample();
        let lower = a.cholesky().unwrap().lower;
        for row in 0..3 {
            for column in 0..3 {
                let product: f64 = (0..3).map(|k| lower.at(row, k) * lower.at(column, k)).sum();
                assert!((product - a.at(row, column)).abs() < 1e-12);
            }
        }
        assert!(Matrix::zeros(2).cholesky().is_none());
    }

    #[test]
    fn the_inverse_form_is_that_of_the_solution() {
        let (a, x) = (sample(), [1.0, -2.0, 0.5]);
        let b: Vec<f64> = (0..3)
            .map(|row| (0..3).map(|k| a.at(row, k) * x[k]).sum())
            .collect();
        // b^T A^-1 b = x^T A x.
        let want: f64 = b.iter().zip(x).map(|(b, x)| b * x).sum();
        let got = a.cholesky().unwrap().inverse_form(&b);
        assert!((got - want).abs() < 1e-9, "{got} against {want}");
    }

    #[test]
    fn least_squares_finds_the_answer_and_no_negative_one() {
        let a = sample();
        let times = |x: [f64; 3]| -> Vec<f64> {
            (0..3)
                .map(|row| (0..3).map(|k| a.at(row, k) * x[k]).sum())
                .collect()
        };
        let mut x = [1.0; 3];
        a.least_squares(&times([3.0, 0.0, 5.0]), &mut x);
        let off = x[0] - 3.0;
        assert!(off.abs() + x[1].abs() + (x[2] - 5.0).abs() < 1e-3, "{x:?}");
        a.least_squares(&times([3.0, -4.0, 5.0]), &mut x);
        assert!(x.iter().all(|part| *part >= 0.0), "{x:?}");
        assert_eq!(x[1], 0.0);
    }
}
