//! Means of blocks of cells, in exact integers.
//!
//! Cells of one picture differ by a row or a column when 32 does not divide its sides, so a sum alone is not a
//! mean. Each cell's sum is weighted up to a denominator that all cells share, and scaled by a number that all
//! block areas divide. The arithmetic wraps at 64 bits by definition: FFmpeg's files for pictures of 4096×2160
//! contain the wrapped values.

use crate::cells::{GRID, Sums};
use crate::geometry::Blocks;

/// A multiple of the number of cells of every block in the geometry.
const PRECISION: u64 = 476_985_600;

/// The scale where [`PRECISION`] would be too much for 64 bits.
const COARSE_PRECISION: u64 = 65_536;

/// How the sums of one picture size become values on a common scale.
#[derive(Debug)]
pub(crate) struct Scale {
    rows: [u64; GRID],
    columns: [u64; GRID],
    precision: u64,
    /// What a cell's weighted sum is divided by at once: 1, or the denominator for the largest pictures.
    divisor: u64,
    /// One step of luma in the values: what 128 and the confidence are measured in.
    pub(crate) unit: u64,
}

impl Scale {
    /// The scale for a picture of this size, whose sides are at least 32.
    pub(crate) fn new(width: u64, height: u64) -> Self {
        let (columns, across) = weights(width);
        let (rows, down) = weights(height);
        let denominator = across.wrapping_mul(down);
        let too_large = (width / 32) * (width / 32 + 1) * ((height / 32) * height / 32 + 1)
            > i64::MAX.unsigned_abs() / (PRECISION * 255);
        if too_large {
            Self { rows, columns, precision: COARSE_PRECISION, divisor: denominator, unit: COARSE_PRECISION }
        } else {
            let unit = PRECISION.wrapping_mul(denominator);
            Self { rows, columns, precision: PRECISION, divisor: 1, unit }
        }
    }

    /// The summed-area table of a frame.
    pub(crate) fn table(&self, sums: &Sums) -> Table {
        let mut table = [[0u64; GRID + 1]; GRID + 1];
        for (row, cells) in sums.iter().enumerate() {
            let mut along = 0u64;
            for (column, sum) in cells.iter().enumerate() {
                let value = u64::from(*sum)
                    .wrapping_mul(self.rows[row])
                    .wrapping_mul(self.columns[column])
                    .wrapping_mul(self.precision)
                    / self.divisor;
                along = along.wrapping_add(value);
                table[row + 1][column + 1] = table[row][column + 1].wrapping_add(along);
            }
        }
        Table(table)
    }
}

/// The weight of each of the 32 cells along a side, and the side's part of the denominator.
///
/// A cell is ⌊side/32⌋ pixels long or one more; its weight is the other length, so that length × weight is the
/// same for all. Where 32 divides the side, the weight is 1.
fn weights(side: u64) -> ([u64; GRID], u64) {
    let short = side / 32;
    if side.is_multiple_of(32) {
        return ([1; GRID], short);
    }
    let long = short + 1;
    let mut cell = 0;
    let weights = [(); GRID].map(|()| {
        let length = ((cell + 1) * side).div_ceil(32) - (cell * side).div_ceil(32);
        cell += 1;
        if length == short { long } else { short }
    });
    (weights, short * long)
}

/// Sums of all cells above and to the left of each corner of the grid, modulo 2⁶⁴.
#[derive(Debug)]
pub(crate) struct Table([[u64; GRID + 1]; GRID + 1]);

impl Table {
    /// The mean of the cells in these blocks.
    pub(crate) fn mean(&self, blocks: &Blocks) -> u64 {
        let sum = blocks.iter().fold(0u64, |sum, block| {
            let (left, top, right, bottom) = block.corners();
            sum.wrapping_add(self.0[bottom][right])
                .wrapping_sub(self.0[top][right])
                .wrapping_sub(self.0[bottom][left])
                .wrapping_add(self.0[top][left])
        });
        sum / blocks.area()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Cells;
    use crate::geometry::elements;

    #[test]
    fn an_even_picture_has_its_grey_as_the_mean_of_every_block() {
        for (width, height) in [(32, 32), (33, 47), (100, 76), (426, 240), (641, 359)] {
            let mut cells = Cells::new(width, height);
            let scale = Scale::new(width as u64, height as u64);
            let table = scale.table(&cells.sum(&vec![77; width * height], width));
            for element in elements() {
                assert_eq!(table.mean(&element.left), 77 * scale.unit, "{width}x{height}");
            }
        }
    }

    #[test]
    fn every_area_divides_the_precision() {
        for element in elements() {
            for blocks in std::iter::once(&element.left).chain(&element.right) {
                assert_eq!(PRECISION % blocks.area(), 0);
            }
        }
    }

    #[test]
    fn only_pictures_beyond_4096x2160_use_the_coarse_scale() {
        assert_eq!(Scale::new(4096, 2160).divisor, 1);
        assert_ne!(Scale::new(4096, 2304).divisor, 1);
        assert_ne!(Scale::new(65_536, 65_536).divisor, 1);
    }
}
