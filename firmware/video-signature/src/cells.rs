//! The only pass over the pixels: luma added up into 32×32 cells.
//!
//! Pixel (x, y) belongs to column ⌊32x/width⌋ and row ⌊32y/height⌋. The loops are shaped for the compiler's
//! vectoriser: pixels of one column add up in 16-bit lanes for as many rows as fit, and only then do
//! neighbouring columns meet.

/// Columns, and rows, of the grid.
pub(crate) const GRID: usize = 32;

/// The sum of luma in each cell, by row and column; a cell of the largest picture (2048×2048) fits.
pub(crate) type Sums = [[u32; GRID]; GRID];

/// Rows that may be added up before a 16-bit lane could overflow: 257 × 255 = 65 535.
const ROWS_PER_LANE: usize = 257;

/// How a picture of one size falls into cells.
#[derive(Debug)]
pub(crate) struct Cells {
    /// Cell `i` holds the columns from `columns[i]` up to `columns[i + 1]`.
    columns: [usize; GRID + 1],
    rows: [usize; GRID + 1],
    /// Sums per pixel column, kept between frames for its allocation only.
    lanes: Vec<u16>,
}

impl Cells {
    /// The grid over a picture of this size.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self { columns: edges(width), rows: edges(height), lanes: vec![0; width] }
    }

    /// The sum of each cell of a plane whose rows start `stride` bytes apart.
    ///
    /// # Panics
    /// If the plane is smaller than the picture.
    pub(crate) fn sum(&mut self, luma: &[u8], stride: usize) -> Sums {
        let mut sums = [[0; GRID]; GRID];
        for (cells, band) in sums.iter_mut().zip(self.rows.windows(2)) {
            let mut row = band[0];
            while row < band[1] {
                let count = (band[1] - row).min(ROWS_PER_LANE);
                add_up_columns(&luma[row * stride..], stride, count, &mut self.lanes);
                for (cell, span) in cells.iter_mut().zip(self.columns.windows(2)) {
                    *cell += add_up(&self.lanes[span[0]..span[1]]);
                }
                row += count;
            }
        }
        sums
    }
}

/// The first pixel of each of the 32 cells along a side, and the length of the side.
fn edges(side: usize) -> [usize; GRID + 1] {
    std::array::from_fn(|cell| (cell * side).div_ceil(GRID))
}

/// Sets each lane to the sum of its column over the first `count` rows.
///
/// Row by row, although blocks of columns would keep the lanes in registers and are faster on a frame that the
/// caches hold: the processor fetches ahead along a row, and most frames come from memory.
fn add_up_columns(luma: &[u8], stride: usize, count: usize, lanes: &mut [u16]) {
    lanes.fill(0);
    for row in luma.chunks(stride).take(count) {
        for (lane, pixel) in lanes.iter_mut().zip(row) {
            // Cannot wrap (see ROWS_PER_LANE); a checked addition would keep the loop scalar.
            *lane = lane.wrapping_add(u16::from(*pixel));
        }
    }
}

/// The sum of the lanes of one cell; at most 2049 of them.
fn add_up(lanes: &[u16]) -> u32 {
    lanes.iter().fold(0u32, |sum, lane| sum.wrapping_add(u32::from(*lane)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::noise;
    use proptest::prelude::*;

    /// The definition, pixel by pixel.
    fn by_definition(luma: &[u8], stride: usize, width: usize, height: usize) -> Sums {
        let mut sums = [[0; GRID]; GRID];
        for y in 0..height {
            for x in 0..width {
                sums[GRID * y / height][GRID * x / width] += u32::from(luma[y * stride + x]);
            }
        }
        sums
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_fast_sums_are_those_of_the_definition(
            width in 32usize..400, height in 32usize..200, padding in 0usize..70, seed: u64,
        ) {
            let stride = width + padding;
            let luma = noise(stride * (height - 1) + width, seed);
            let sums = Cells::new(width, height).sum(&luma, stride);
            prop_assert_eq!(sums, by_definition(&luma, stride, width, height));
        }
    }

    #[test]
    fn cells_taller_than_a_lane_holds_do_not_overflow() {
        for height in [257 * 32, 257 * 32 + 1, 257 * 2 * 32 + 5] {
            let luma = vec![255; 33 * height];
            assert_eq!(Cells::new(33, height).sum(&luma, 33), by_definition(&luma, 33, 33, height), "{height}");
        }
    }

    #[test]
    fn the_brightest_cell_of_the_largest_picture_fits() {
        assert!(u32::try_from(2048u64 * 2048 * 255).is_ok());
    }
}
