//! Puts the parts of a family that the text encoder wrote apart back together, keeping first-seen order.
//!
//! Invariant: the output has each family's HELP/TYPE/UNIT lines once, followed by all its samples. Source of the format: OpenMetrics 1.0, "MetricFamily".
//! Text in label values cannot be mistaken for a header: the encoder escapes line breaks.

use std::collections::HashMap;

/// `text` with families of the same name merged. `text` has no `# EOF`.
pub(super) fn families(text: &str) -> String {
    let mut order: Vec<Family<'_>> = Vec::new();
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    let mut current: Option<(usize, bool)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.split(' ');
            let (Some(keyword), Some(name)) = (words.next(), words.next()) else { continue };
            if keyword == "HELP"
                || current.is_none_or(|(index, _)| order.get(index).is_some_and(|f| f.name != name))
            {
                current = Some(match by_name.get(name) {
                    Some(&index) => (index, false),
                    None => {
                        by_name.insert(name, order.len());
                        order.push(Family { name, headers: Vec::new(), samples: Vec::new() });
                        (order.len() - 1, true)
                    }
                });
            }
            if let Some((index, true)) = current
                && let Some(family) = order.get_mut(index)
            {
                family.headers.push(line);
            }
        } else if let Some((index, _)) = current
            && let Some(family) = order.get_mut(index)
        {
            family.samples.push(line);
        }
    }
    let mut merged = String::with_capacity(text.len() + 8);
    for family in &order {
        for line in family.headers.iter().chain(&family.samples) {
            merged.push_str(line);
            merged.push('\n');
        }
    }
    merged
}

struct Family<'a> {
    name: &'a str,
    headers: Vec<&'a str>,
    samples: Vec<&'a str>,
}

#[cfg(test)]
mod tests {
    #[test]
    fn parts_of_a_family_are_joined_under_one_header() {
        let text = "# HELP a A.\n# TYPE a counter\na_total{x=\"1\"} 1\n# HELP b B.\n# TYPE b gauge\nb 2\n# HELP a A.\n# TYPE a counter\na_total{x=\"2\"} 3\n";
        let merged = super::families(text);
        assert_eq!(
            merged,
            "# HELP a A.\n# TYPE a counter\na_total{x=\"1\"} 1\na_total{x=\"2\"} 3\n# HELP b B.\n# TYPE b gauge\nb 2\n"
        );
    }
}
