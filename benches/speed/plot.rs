//! Line charts as SVG, both axes logarithmic: equal distances are equal ratios.

use std::fmt::Write as _;

/// Lines over one pair of axes.
pub struct Chart {
    pub title: String,
    /// What the lower axis counts; the title says what the other one does.
    pub across: String,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    /// Positive numbers, in order across.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const LEGEND: f64 = 60.0;
/// Distinguishable by those who see fewer colours too.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#e69f00", "#56b4e9", "#009e73", "#cc79a7"];

/// Two charts in a row.
pub fn draw(charts: &[Chart]) -> String {
    let rows = charts.len().div_ceil(2);
    let (width, height) = (2.0 * WIDTH, rows as f64 * HEIGHT + LEGEND);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, chart) in charts.iter().enumerate() {
        let (x, y) = ((at % 2) as f64 * WIDTH, (at / 2) as f64 * HEIGHT);
        // Writing to a text does not fail.
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        draw_chart(chart, &mut svg);
        svg.push_str("</g>\n");
    }
    for (at, line) in charts.first().map(|chart| &chart.lines).into_iter().flatten().enumerate() {
        let (x, y) = (LEFT + (at % 3) as f64 * 280.0, rows as f64 * HEIGHT + 15.0 + (at / 3) as f64 * 20.0);
        let colour = COLOURS[at % COLOURS.len()];
        let _ =
            writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>", y - 5.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", x + 20.0, escaped(&line.name));
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_chart(chart: &Chart, svg: &mut String) {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let across = Axis::over(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let up = Axis::over(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" font-size=\"13\">{}</text>",
        TOP - 18.0,
        escaped(&chart.title)
    );
    for (value, x) in across.ticks() {
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#ddd\"/>",
            HEIGHT - BOTTOM
        );
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            HEIGHT - BOTTOM + 16.0
        );
    }
    for (value, y) in up.ticks() {
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>",
            WIDTH - RIGHT
        );
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - BOTTOM + 34.0);
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>",
        escaped(&chart.across)
    );
    for (at, line) in chart.lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let places: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", across.place(*x), up.place(*y))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            places.join(" ")
        );
        for (x, y) in places.iter().filter_map(|place| place.split_once(',')) {
            let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
}

/// A logarithmic axis over whole powers of ten.
struct Axis {
    /// Powers of ten.
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let logs: Vec<f64> = values.filter(|value| *value > 0.0).map(f64::log10).collect();
        let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return Self { low: 0, high: 1, from, to };
        }
        let low = low.floor() as i32;
        Self { low, high: (high.ceil() as i32).max(low + 1), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share =
            (value.max(f64::MIN_POSITIVE).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = (String, f64)> {
        (self.low..=self.high).map(|power| {
            let value = 10_f64.powi(power);
            (format!("{value}"), self.place(value))
        })
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
