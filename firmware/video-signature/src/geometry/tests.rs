use super::*;
use serde_json::{Value, json};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/signature.json")).expect("the vectors are JSON")
}

/// Blocks as the vectors write them: first and last cell.
fn written(blocks: &Blocks) -> Value {
    blocks.iter().map(|block| json!([block.left, block.top, block.right - 1, block.bottom - 1])).collect()
}

#[test]
fn the_rules_give_the_blocks_of_the_vectors() {
    let vectors = vectors();
    let expected = vectors["element_blocks"].as_object().expect("categories");
    let names = ["a1", "a2", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8"];
    assert_eq!(expected.len(), names.len());
    let mut all = elements().iter();
    for (name, count) in names.iter().zip(CATEGORIES) {
        let category: Vec<Value> = all
            .by_ref()
            .take(count)
            .map(|element| json!([written(&element.left), element.right.as_ref().map(written)]))
            .collect();
        let expected = expected[*name].as_array().expect("elements");
        assert_eq!(category.len(), expected.len(), "{name}");
        for (number, (ours, theirs)) in category.iter().zip(expected).enumerate() {
            assert_eq!(ours, theirs, "element {number} of {name}");
        }
    }
    assert_eq!(all.next(), None);
}

#[test]
fn the_categories_add_up() {
    assert_eq!(CATEGORIES.iter().sum::<usize>(), ELEMENTS);
    assert_eq!(CATEGORIES[..2].iter().sum::<usize>(), AVERAGES);
    assert_eq!(elements().len(), ELEMENTS);
    assert!(elements()[..AVERAGES].iter().all(|element| element.right.is_none()));
    assert!(elements()[AVERAGES..].iter().all(|element| element.right.is_some()));
}

#[test]
fn every_block_lies_in_the_grid_and_those_of_one_side_are_disjoint() {
    for element in elements() {
        for side in std::iter::once(&element.left).chain(&element.right) {
            let mut seen = [[false; 32]; 32];
            for block in side.iter() {
                let (left, top, right, bottom) = block.corners();
                assert!(left < right && right <= 32 && top < bottom && bottom <= 32, "{block:?}");
                for cell in seen[top..bottom].iter_mut().flat_map(|row| &mut row[left..right]) {
                    assert!(!std::mem::replace(cell, true), "{element:?}");
                }
            }
            assert_eq!(seen.iter().flatten().filter(|cell| **cell).count() as u64, side.area());
        }
    }
}
