//! Which cells each of the 380 elements of a frame signature compares: the figures of the standard as rules.
//!
//! A block is a rectangle of cells. An average element looks at one block; a difference element looks at the
//! blocks on its left side against those on its right side. "Left" and "right" are the names of the two sides of
//! a subtraction; in the picture they may lie anywhere.

use std::sync::LazyLock;

use Halves::{BottomTop, LeftRight, RightLeft, TopBottom};

/// Elements per category, in the order of the standard: two of averages, eight of differences.
pub(crate) const CATEGORIES: [usize; 10] = [20, 12, 116, 25, 36, 30, 62, 9, 50, 20];

/// Elements of a frame signature.
pub(crate) const ELEMENTS: usize = 380;

/// Elements that are averages; the rest are differences.
pub(crate) const AVERAGES: usize = 32;

/// A rectangle of cells, by its first cell and the one behind its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    left: u8,
    top: u8,
    right: u8,
    bottom: u8,
}

impl Block {
    const fn new(x: u8, y: u8, width: u8, height: u8) -> Self {
        Self { left: x, top: y, right: x + width, bottom: y + height }
    }

    const fn square(x: u8, y: u8, side: u8) -> Self {
        Self::new(x, y, side, side)
    }

    /// Left, top, right, bottom: where the summed-area table is read.
    pub(crate) fn corners(self) -> (usize, usize, usize, usize) {
        (usize::from(self.left), usize::from(self.top), usize::from(self.right), usize::from(self.bottom))
    }

    fn area(self) -> u64 {
        u64::from(self.right - self.left) * u64::from(self.bottom - self.top)
    }
}

/// One side of an element: disjoint blocks and the number of their cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocks {
    blocks: Vec<Block>,
    area: u64,
}

impl Blocks {
    fn new(blocks: &[Block]) -> Self {
        Self { blocks: blocks.to_vec(), area: blocks.iter().map(|block| block.area()).sum() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Block> + '_ {
        self.blocks.iter().copied()
    }

    pub(crate) fn area(&self) -> u64 {
        self.area
    }
}

/// What one element looks at; an average has no right side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) left: Blocks,
    pub(crate) right: Option<Blocks>,
}

impl Element {
    fn average(block: Block) -> Self {
        Self { left: Blocks::new(&[block]), right: None }
    }

    fn difference(left: &[Block], right: &[Block]) -> Self {
        Self { left: Blocks::new(left), right: Some(Blocks::new(right)) }
    }
}

/// All elements, category after category.
pub(crate) fn elements() -> &'static [Element] {
    static ALL: LazyLock<Vec<Element>> = LazyLock::new(|| {
        let categories = [a1(), a2(), d1(), d2(), d3(), d4(), d5(), d6(), d7(), d8()];
        categories.into_iter().flatten().collect()
    });
    &ALL
}

/// A region halved: which half is the left side of the subtraction.
#[derive(Debug, Clone, Copy)]
enum Halves {
    LeftRight,
    RightLeft,
    TopBottom,
    BottomTop,
}
fn halves(x: u8, y: u8, side: u8, order: Halves) -> Element {
    let half = side / 2;
    let (left, right) = (Block::new(x, y, half, side), Block::new(x + half, y, half, side));
    let (top, bottom) = (Block::new(x, y, side, half), Block::new(x, y + half, side, half));
    let (minuend, subtrahend) = match order {
        LeftRight => (left, right),
        RightLeft => (right, left),
        TopBottom => (top, bottom),
        BottomTop => (bottom, top),
    };
    Element::difference(&[minuend], &[subtrahend])
}

/// The four quarters of a square, row by row, by their corner.
fn quarters(x: u8, y: u8, side: u8) -> [(u8, u8); 4] {
    let half = side / 2;
    [(x, y), (x + half, y), (x, y + half), (x + half, y + half)]
}

/// A square whose four quarters are each halved in the order given.
fn halved_quarters(x: u8, y: u8, side: u8, orders: [Halves; 4]) -> impl Iterator<Item = Element> {
    quarters(x, y, side).into_iter().zip(orders).map(move |((x, y), order)| halves(x, y, side / 2, order))
}

/// All corners on a lattice, row by row.
fn lattice(places: &'static [u8]) -> impl Iterator<Item = (u8, u8)> {
    places.iter().flat_map(move |y| places.iter().map(move |x| (*x, *y)))
}

/// The sixteen 8×8 regions, quadrant by quadrant and row by row within; with each, whether its quadrant lies on
/// the main diagonal.
fn regions_by_quadrant() -> impl Iterator<Item = (u8, u8, bool)> {
    quarters(0, 0, 32).into_iter().flat_map(|(x, y)| quarters(x, y, 16).map(|(column, row)| (column, row, x == y)))
}

fn a1() -> Vec<Element> {
    let small = regions_by_quadrant().map(|(x, y, _)| Block::square(x, y, 8));
    let large = quarters(0, 0, 32).into_iter().map(|(x, y)| Block::square(x, y, 16));
    small.chain(large).map(Element::average).collect()
}

fn a2() -> Vec<Element> {
    let small = lattice(&[2, 12, 22]).map(|(x, y)| Block::square(x, y, 8));
    let centred = [(9, 14), (6, 20), (3, 26)].into_iter().map(|(corner, side)| Block::square(corner, corner, side));
    small.chain(centred).map(Element::average).collect()
}

fn d1() -> Vec<Element> {
    let mut elements = Vec::new();
    for (x, y, diagonal) in regions_by_quadrant() {
        let orders = if diagonal {
            [LeftRight, TopBottom, BottomTop, RightLeft]
        } else {
            [TopBottom, RightLeft, LeftRight, BottomTop]
        };
        elements.extend(halved_quarters(x, y, 8, orders));
    }
    for (x, y) in lattice(&[2, 12, 22]) {
        let orders = if (x, y) == (12, 12) {
            [TopBottom, TopBottom, BottomTop, BottomTop]
        } else {
            [LeftRight, TopBottom, BottomTop, RightLeft]
        };
        elements.extend(halved_quarters(x, y, 8, orders));
    }
    for (x, y) in lattice(&[7, 17]) {
        elements.extend(halved_quarters(x, y, 8, [TopBottom, LeftRight, LeftRight, TopBottom]));
    }
    elements
}

fn d2() -> Vec<Element> {
    let regions = lattice(&[0, 8, 16, 24]).chain(lattice(&[4, 12, 20]));
    regions
        .map(|(x, y)| {
            let [top_left, top_right, bottom_left, bottom_right] =
                quarters(x, y, 8).map(|(x, y)| Block::square(x, y, 4));
            Element::difference(&[top_left, bottom_right], &[top_right, bottom_left])
        })
        .collect()
}

fn d3() -> Vec<Element> {
    let blocks: Vec<Block> = lattice(&[1, 11, 21]).map(|(x, y)| Block::square(x, y, 10)).collect();
    let pairs = blocks.iter().enumerate().flat_map(|(i, left)| blocks[i + 1..].iter().map(move |right| (left, right)));
    pairs.map(|(left, right)| Element::difference(&[*left], &[*right])).collect()
}

fn d4() -> Vec<Element> {
    /// Left and right block on a lattice of 5×5; the tens are the column, the units the row.
    const PAIRS: [[u8; 2]; 30] = [
        [12, 32],
        [21, 23],
        [11, 33],
        [31, 13],
        [21, 32],
        [32, 23],
        [23, 12],
        [12, 21],
        [11, 31],
        [31, 33],
        [33, 13],
        [13, 11],
        [22, 20],
        [22, 42],
        [22, 24],
        [22, 2],
        [20, 24],
        [2, 42],
        [10, 30],
        [14, 34],
        [1, 3],
        [41, 43],
        [10, 1],
        [30, 41],
        [43, 34],
        [3, 14],
        [0, 40],
        [40, 44],
        [44, 4],
        [4, 0],
    ];
    let block = |place: &u8| Block::square(1 + 6 * (place / 10), 1 + 6 * (place % 10), 6);
    PAIRS.iter().map(|[left, right]| Element::difference(&[block(left)], &[block(right)])).collect()
}

/// The frame of a square against what it frames.
fn ring(x: u8, y: u8, side: u8, thickness: u8) -> Element {
    let inner = side - 2 * thickness;
    let frame = [
        Block::new(x, y, side, thickness),
        Block::new(x, y + thickness, thickness, inner),
        Block::new(x + side - thickness, y + thickness, thickness, inner),
        Block::new(x, y + side - thickness, side, thickness),
    ];
    Element::difference(&frame, &[Block::square(x + thickness, y + thickness, inner)])
}

fn d5() -> Vec<Element> {
    let between = [1u8, 6, 11, 16, 21].into_iter().zip([false, true, false, true, false]).flat_map(|(y, wide)| {
        let columns: &[u8] = if wide { &[1, 11, 21] } else { &[6, 16] };
        columns.iter().map(move |x| (*x, y))
    });
    let small = [3u8, 8, 13, 18, 23].into_iter().flat_map(|y| {
        let columns: &[u8] = if (8..=18).contains(&y) { &[3, 8, 13, 18, 23] } else { &[8, 13, 18] };
        columns.iter().map(move |x| (*x, y))
    });
    let middle = lattice(&[1, 11, 21]).chain(lattice(&[6, 16])).chain(between).map(|(x, y)| ring(x, y, 10, 3));
    let large = lattice(&[2, 7, 12, 17]).map(|(x, y)| ring(x, y, 13, 5));
    middle.chain(large).chain(small.map(|(x, y)| ring(x, y, 6, 2))).collect()
}

fn d6() -> Vec<Element> {
    lattice(&[0, 8, 16])
        .map(|(x, y)| Element::difference(&[Block::new(3 + x, 5 + y, 10, 6)], &[Block::new(5 + x, 3 + y, 6, 10)]))
        .collect()
}

fn d7() -> Vec<Element> {
    lattice(&[4, 9, 14, 19, 24])
        .flat_map(|(x, y)| {
            let block = |x, y| Block::square(x, y, 4);
            let centre = [block(x, y)];
            [
                Element::difference(&[block(x - 4, y), block(x + 4, y)], &centre),
                Element::difference(&[block(x, y - 4), block(x, y + 4)], &centre),
            ]
        })
        .collect()
}

fn d8() -> Vec<Element> {
    let mut elements = Vec::new();
    for (x, y) in quarters(0, 0, 32) {
        let orders = if x == y {
            [TopBottom, LeftRight, LeftRight, TopBottom]
        } else {
            [LeftRight, TopBottom, TopBottom, LeftRight]
        };
        elements.extend(halved_quarters(x, y, 16, orders));
    }
    elements.extend(halved_quarters(0, 0, 32, [LeftRight, TopBottom, TopBottom, LeftRight]));
    elements
}

#[cfg(test)]
mod tests;
