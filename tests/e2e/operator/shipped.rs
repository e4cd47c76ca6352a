//! The dashboard and the alert rules that are shipped speak of what the node exports, and of nothing else.
use std::collections::{BTreeMap, BTreeSet};

use millrace_tests::anvil::repository;
use serde_json::Value;

use super::http::Scrape;

/// Fails unless every name and every label in the shipped files is one that these nodes export.
pub(super) fn names_are_exported(nodes: &[Scrape]) {
    let mut exported = BTreeMap::<String, BTreeSet<String>>::new();
    for (name, samples) in nodes.iter().flat_map(|node| &node.samples) {
        let labels = samples.iter().flat_map(|(labels, _)| labels.keys().cloned());
        exported.entry(name.clone()).or_default().extend(labels);
    }
    let files = repository().join("firmware/docs/operations");
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(files.join("dashboard.json")).unwrap()).unwrap();
    let (mut queries, mut rules) = (Vec::new(), 0);
    expressions(&dashboard, &mut queries);
    assert!(queries.len() > 30, "only {} queries in the dashboard", queries.len());
    for line in std::fs::read_to_string(files.join("alerts.yml")).unwrap().lines() {
        if let Some(query) = line.trim_start().strip_prefix("expr: ") {
            queries.push(query.to_owned());
            rules += 1;
        }
    }
    assert!(rules > 15, "only {rules} rules");
    let mut wrong = Vec::new();
    for query in &queries {
        let used = read(query);
        assert!(!used.is_empty(), "no name in {query}");
        for (name, labels) in used {
            match exported.get(&name) {
                None => wrong.push(format!("{name} is not exported: {query}")),
                Some(known) => wrong.extend(
                    labels
                        .iter()
                        .filter(|label| !known.contains(*label))
                        .map(|label| format!("{name} has no label {label}: {query}")),
                ),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // And the page that explains them names them all.
    let page = std::fs::read_to_string(repository().join("firmware/docs/operations.md")).unwrap();
    let declared = nodes.iter().flat_map(|node| node.declared.keys());
    let unexplained: BTreeSet<_> = declared.filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(unexplained.is_empty(), "not in operations.md: {unexplained:#?}");
}

/// All queries of a dashboard, wherever they stand.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match (key.as_str(), member) {
                    ("expr" | "definition", Value::String(query)) => found.push(query.clone()),
                    _ => expressions(member, found),
                }
            }
        }
        Value::Array(members) => members.iter().for_each(|member| expressions(member, found)),
        _ => {}
    }
}

/// The names in a query, each with the labels that its selector uses, and those by which everything is grouped.
fn read(query: &str) -> BTreeMap<String, BTreeSet<String>> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut used = BTreeMap::<String, BTreeSet<String>>::new();
    let mut grouped = BTreeSet::new();
    let mut rest = query;
    while let Some(at) = rest.find(is_word) {
        let from = &rest[at..];
        let end = from.find(|c| !is_word(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        rest = after;
        if matches!(word, "by" | "on" | "without" | "label_values") {
            let list = after.trim_start().trim_start_matches('(').split(')').next().unwrap_or_default();
            let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
            grouped.extend(
                names
                    .filter(|name| !name.starts_with("livepeer_") && !name.starts_with("millrace_"))
                    .map(str::to_owned),
            );
        }
        if word.starts_with("livepeer_") || word.starts_with("millrace_") {
            let labels = used.entry(word.to_owned()).or_default();
            if let Some(selector) = after.strip_prefix('{') {
                let selector = selector.split('}').next().unwrap();
                let pairs = selector.split(',').filter_map(|pair| pair.split(['=', '!']).next());
                labels.extend(pairs.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
            }
        }
    }
    for labels in used.values_mut() {
        labels.extend(grouped.iter().cloned());
    }
    used
}

#[test]
fn a_query_is_taken_apart() {
    let query = "sum by (le, node_id) (rate(livepeer_x_bucket{node_id=~\"$node\", mode!=\"run\"}[5m])) / millrace_y";
    let used = read(query);
    let labels = |name: &str| used[name].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(used.len(), 2);
    assert_eq!(labels("livepeer_x_bucket"), ["le", "mode", "node_id"]);
    assert_eq!(labels("millrace_y"), ["le", "node_id"]);
}
