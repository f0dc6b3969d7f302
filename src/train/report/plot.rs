//! One plot as an inline SVG that takes the page's text colour.
#![forbid(unsafe_code)]

use plotters::prelude::*;

/// A named line.
pub(in crate::train) struct Curve<'a> {
    pub name: &'a str,
    /// (step, value), finite, by rising step.
    pub points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (480, 250);
const FONT: i32 = 14;

/// Stands for the page's text colour until the SVG is written.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_HEX: &str = "#010203";

/// Colours that can be told apart on light and dark ground, also without red-green sight.
pub(in crate::train) const COLOURS: [RGBColor; 8] = [
    RGBColor(42, 120, 214),
    RGBColor(230, 126, 34),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(140, 140, 60),
    RGBColor(120, 90, 200),
    RGBColor(200, 60, 60),
    RGBColor(110, 110, 110),
];

/// The plot of `curves`; `None` if none of them has a point, or if it cannot be drawn.
pub(in crate::train) fn plot(curves: &[Curve<'_>]) -> Option<String> {
    let points = || curves.iter().flat_map(|curve| curve.points.iter());
    let last = points().map(|point| point.0).fold(f64::NAN, f64::max);
    let low = points().map(|point| point.1).fold(f64::NAN, f64::min);
    let high = points().map(|point| point.1).fold(f64::NAN, f64::max);
    if last.is_nan() {
        return None;
    }
    // A curve that is nearly flat is shown as such: its labels would all read the same.
    let flat = high - low < 0.01 * high.abs();
    let margin = (0.05 * if flat { high.abs() } else { high - low }).max(1e-9);
    let mut svg = String::new();
    draw(&mut svg, curves, last.max(1.0), (low - margin, high + margin)).ok()?;
    let fixed = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
    Some(svg.replacen(&fixed, "role=\"img\" ", 1).replace(INK_HEX, "currentColor"))
}

fn draw(
    svg: &mut String,
    curves: &[Curve<'_>],
    last: f64,
    (low, high): (f64, f64),
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        // Half of the last label of the x axis stands right of the plot.
        .margin_right(32)
        .x_label_area_size(24)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, low..high)?;
    let font = ("sans-serif", FONT).into_font().color(&INK);
    chart
        .configure_mesh()
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| label(*y))
        .label_style(font.clone())
        .axis_style(INK.mix(0.5))
        .bold_line_style(INK.mix(0.15))
        .light_line_style(INK.mix(0.0))
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let style = colour.stroke_width(2);
        let series = chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
        if curves.len() > 1 {
            series.label(curve.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
    }
    if curves.len() > 1 {
        // Losses fall: that corner is free.
        let mut names = chart.configure_series_labels();
        names.position(SeriesLabelPosition::UpperRight).label_font(font).border_style(INK.mix(0.2)).draw()?;
    }
    area.present()?;
    Ok(())
}

/// A number with about three digits.
fn label(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".into(),
        _ if size >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ if size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}
