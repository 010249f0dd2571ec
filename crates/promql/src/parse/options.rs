//! Which syntax is understood beyond the stable one, under the names of Prometheus' feature flags.

/// The default is the stable syntax alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParserOptions {
    /// `promql-experimental-functions`: experimental functions and aggregations.
    pub experimental_functions: bool,
    /// `promql-duration-expr`: arithmetic in ranges, steps and offsets.
    pub duration_expressions: bool,
    /// `promql-extended-range-selectors`: `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// Syntax that came after 3.9: `fill`, `fill_left`, `fill_right`, the operators `</` and `>/`, and `range()`.
    pub later_syntax: bool,
}

impl ParserOptions {
    /// Everything Prometheus 3.9 understands with all of its feature flags.
    pub const fn all_features() -> Self {
        Self {
            experimental_functions: true,
            duration_expressions: true,
            extended_range_selectors: true,
            later_syntax: false,
        }
    }

    /// Turns on the feature that Prometheus calls `name`; `false` if it is none of the parser's.
    pub fn enable_feature(&mut self, name: &str) -> bool {
        match name {
            "promql-experimental-functions" => self.experimental_functions = true,
            "promql-duration-expr" => self.duration_expressions = true,
            "promql-extended-range-selectors" => self.extended_range_selectors = true,
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_prometheus_names() {
        let mut options = ParserOptions::default();
        for name in
            ["promql-experimental-functions", "promql-duration-expr", "promql-extended-range-selectors"]
        {
            assert!(options.enable_feature(name), "{name}");
        }
        assert_eq!(options, ParserOptions::all_features());
        assert!(!options.enable_feature("native-histograms"));
    }
}
