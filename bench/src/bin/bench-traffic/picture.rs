//! The comparison as a picture: a panel for each figure, a bar for each contestant.

use std::fmt::Write;

use super::figures::{Better, Figure};

const WIDTH: f64 = 900.0;
const COLUMNS: usize = 2;
const PANEL: (f64, f64) = (430.0, 178.0);
const BAR: (f64, f64) = (230.0, 18.0);
const TOP: f64 = 60.0;

/// The picture, as SVG.
pub(crate) fn picture(figures: &[Figure]) -> String {
    let rows = figures.len().div_ceil(COLUMNS) as f64;
    let height = TOP + rows * PANEL.1 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\">\n  <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n  \
         <text x=\"20\" y=\"34\" font-size=\"17\" font-weight=\"600\" fill=\"#111\">One core for the proxy, the same \
         backends and clients, one run</text>\n"
    );
    for (number, figure) in figures.iter().enumerate() {
        let at = (20.0 + (number % COLUMNS) as f64 * (PANEL.0 + 10.0), TOP + (number / COLUMNS) as f64 * PANEL.1);
        panel(&mut svg, figure, at);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, figure: &Figure, (x, y): (f64, f64)) {
    let better = match figure.better {
        Better::Less => "less is better",
        Better::More => "more is better",
    };
    let title = format!("{} <tspan fill=\"#777\" font-weight=\"400\">— {better}</tspan>", figure.name);
    let _ = writeln!(svg, "  <text x=\"{x}\" y=\"{}\" font-weight=\"600\" fill=\"#222\">{title}</text>", y + 14.0);
    let most = figure.values.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    for (number, (name, value)) in figure.values.iter().enumerate() {
        let top = y + 26.0 + number as f64 * (BAR.1 + 7.0);
        let (middle, width) = (top + 13.5, (value / most * BAR.0).max(1.0));
        let colour = if number == 0 { "#2f6fde" } else { "#c3c8d0" };
        let shown = if *value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        let left = x + 70.0;
        let _ = writeln!(
            svg,
            "  <text x=\"{}\" y=\"{middle}\" text-anchor=\"end\" fill=\"#333\">{name}</text>\
             <rect x=\"{left}\" y=\"{top}\" width=\"{width:.1}\" height=\"{}\" rx=\"3\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{middle}\" fill=\"#333\">{shown}</text>",
            left - 8.0,
            BAR.1,
            left + width + 6.0
        );
    }
}
