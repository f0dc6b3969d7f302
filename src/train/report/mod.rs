//! `report.html`: one page without scripts or network, for a phone or a desk, light or dark.
#![forbid(unsafe_code)]

pub(super) mod plot;

use std::fmt::Write;
use std::path::Path;

use plot::{Curve, plot};

use super::config::TrainConfig;
use super::metrics::{History, StepMetrics};
use super::parameter_report::ParameterReport;
use crate::Result;
use crate::formats::atomic_write;

/// Most points of a curve: longer histories are averaged in as many parts, so that a report of a long run stays small.
const POINTS: usize = 400;

/// Most data clusters whose losses are drawn: as many as there are colours.
const MOST_CLUSTERS: usize = plot::COLOURS.len();

/// What a curve shows of a step.
type Value = fn(&StepMetrics) -> f64;

const STYLE: &str = "
:root { color-scheme: light dark; --edge: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
.figures { display: flex; flex-wrap: wrap; gap: .5rem; }
.figures div { border: 1px solid var(--edge); border-radius: .5rem; padding: .4rem .8rem; }
.figures b { display: block; font-size: 1.2rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } td, th { text-align: left; padding: .15rem .8rem .15rem 0;
border-bottom: 1px solid var(--soft); } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.settings { columns: 22rem; } .settings div { display: flex; justify-content: space-between; gap: 1rem;
border-bottom: 1px solid var(--soft); font-size: .85rem; break-inside: avoid; }
.settings span:last-child { overflow-wrap: anywhere; text-align: right; }
";

/// Writes the report of a run so far. `baselines`: other models' bits per byte on the same validation text.
pub(super) fn write(
    path: &Path,
    config: &TrainConfig,
    history: &History,
    baselines: &[(String, f64)],
    parameters: &[ParameterReport],
) -> Result<()> {
    let page = page(config, history, baselines, parameters);
    atomic_write(path, |file| file.write(page.as_bytes()))
}

fn page(
    config: &TrainConfig,
    history: &History,
    baselines: &[(String, f64)],
    parameters: &[ParameterReport],
) -> String {
    let title = format!("{}, {} steps", escape(&config.model), history.steps.last().map_or(0, |step| step.step));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>hybridq: {title}</title><style>{STYLE}</style></head><body>\n<h1>hybridq: {title}</h1>\n"
    );
    figures(&mut html, config, history);
    html.push_str("<h2>Course</h2>\n<div class=\"plots\">\n");
    let steps = &history.steps;
    let of = |value: Value| curve(steps, value);
    let validation =
        history.evaluations.iter().map(|evaluation| (evaluation.step as f64, evaluation.val_loss)).collect();
    let losses = [Curve { name: "training", points: of(|s| s.loss) }, Curve { name: "validation", points: validation }];
    figure(&mut html, "Loss (nats per token)", &losses);
    let single: [(&str, Value); 6] = [
        ("Learning rate", |s| f64::from(s.lr)),
        ("Learning-rate multiplier", |s| f64::from(s.lr_multiplier)),
        ("Trust radius", |s| s.trust_radius.map_or(f64::NAN, f64::from)),
        ("Flip rate (share of quantized values changed per step)", |s| s.flip_rate),
        ("Constraint activity (share of steps)", |s| f64::from(u8::from(s.constraint_active))),
        ("Tokens per second", |s| s.tokens_per_s),
    ];
    let mut constant = Vec::new();
    for (name, value) in single {
        let points = of(value);
        match points[..] {
            // What a part that is off reports needs no plot.
            [(_, first), .., (_, last)] if points.iter().all(|&(_, value)| value == first) => {
                constant.push(format!("{name}: {last}"));
            }
            _ => figure(&mut html, name, &[Curve { name, points }]),
        }
    }
    cluster_losses(&mut html, history);
    html.push_str("</div>\n");
    if !constant.is_empty() {
        let _ = writeln!(html, "<p>The same at every step: {}.</p>", constant.join("; ").to_lowercase());
    }
    comparison(&mut html, history, baselines);
    precisions(&mut html, history);
    parameter_clusters(&mut html, config, parameters);
    html.push_str("<h2>Settings</h2>\n<div class=\"settings\">\n");
    for (name, value) in config.to_table() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        let _ = writeln!(html, "<div><span>{name}</span><span>{}</span></div>", escape(&value));
    }
    html.push_str("</div>\n</body></html>\n");
    html
}

/// The run in a few numbers.
fn figures(html: &mut String, config: &TrainConfig, history: &History) {
    html.push_str("<div class=\"figures\">");
    let mut add = |name: &str, value: String| {
        let _ = write!(html, "<div>{name}<b>{value}</b></div>");
    };
    if let Some(last) = history.steps.last() {
        add("step", format!("{} of {}", last.step, config.max_steps));
        if let Some(last) = history.steps.iter().rev().find(|step| step.skipped.is_none()) {
            add("training loss", format!("{:.4}", last.loss));
        }
        if history.skipped_steps() > 0 {
            add("skipped steps", history.skipped_steps().to_string());
        }
        add("tokens", last.tokens.to_string());
        add("training time", format!("{:.0} s", last.seconds));
    }
    if let Some(last) = history.evaluations.last() {
        add("validation loss", format!("{:.4}", last.val_loss));
        if let Some(bits) = last.val_bits_per_byte {
            add("bits per byte", format!("{bits:.3}"));
        }
    }
    html.push_str("</div>\n");
}

fn figure(html: &mut String, caption: &str, curves: &[Curve<'_>]) {
    if let Some(svg) = plot(curves) {
        let _ = writeln!(html, "<figure><figcaption>{caption}</figcaption>{svg}</figure>");
    }
}

/// Running means of the losses of the data's clusters.
fn cluster_losses(html: &mut String, history: &History) {
    let told: Vec<&StepMetrics> = history.steps.iter().filter(|step| !step.cluster_losses.is_empty()).collect();
    let clusters = told.last().map_or(0, |step| step.cluster_losses.len());
    let names: Vec<String> = (0..clusters).map(|cluster| format!("cluster {cluster}")).collect();
    let part = told.len().div_ceil(POINTS).max(1);
    // Running means already: one of each part of them is enough.
    let points = |cluster: usize| {
        let of = |step: &&StepMetrics| Some((step.step as f64, (*step.cluster_losses.get(cluster)?)?));
        told.iter().step_by(part).filter_map(of).collect()
    };
    let curves: Vec<Curve<'_>> =
        names.iter().enumerate().map(|(cluster, name)| Curve { name, points: points(cluster) }).collect();
    if !curves.is_empty() && curves.len() <= MOST_CLUSTERS {
        figure(html, "Loss of each data cluster (running mean)", &curves);
    }
}

/// What the last plan gave each matrix.
fn precisions(html: &mut String, history: &History) {
    let Some(step) = history.steps.iter().rev().find(|step| !step.precisions.is_empty()) else { return };
    let _ = write!(
        html,
        "<h2>Precisions</h2>\n<p>Planned after step {}, {:.3} bits a weight on average.</p>\n<div class=\"wide\"><table>",
        step.step,
        step.mean_bits.unwrap_or(f64::NAN)
    );
    for (name, precision) in &step.precisions {
        let _ = writeln!(html, "<tr><td>{}</td><td>{precision}</td></tr>", escape(name));
    }
    html.push_str("</table></div>\n");
}

/// Our bits per byte beside the baselines'.
fn comparison(html: &mut String, history: &History, baselines: &[(String, f64)]) {
    let ours = history.evaluations.last().and_then(|evaluation| evaluation.val_bits_per_byte);
    let (Some(ours), false) = (ours, baselines.is_empty()) else { return };
    html.push_str(
        "<h2>Beside simpler models of the same split</h2>\n<table><tr><th>model</th><th>bits per byte</th></tr>\n",
    );
    for (name, bits) in baselines.iter().map(|(name, bits)| (name.as_str(), *bits)).chain([("this run", ours)]) {
        let _ = writeln!(html, "<tr><td>{}</td><td class=\"n\">{bits:.3}</td></tr>", escape(name));
    }
    html.push_str("</table>\n");
}

/// What each cluster of a matrix's rows is worth, and the form suggested for it.
fn parameter_clusters(html: &mut String, config: &TrainConfig, parameters: &[ParameterReport]) {
    if parameters.is_empty() {
        return;
    }
    let _ = write!(
        html,
        "<h2>Parameter clusters</h2>\n<p>Share of each matrix's weights and of its importance (squared gradient times \
         weight, last step), and the form suggested under {} bits on average.</p>\n<div class=\"wide\"><table>",
        config.target_bits
    );
    for parameter in parameters {
        let total: usize = parameter.clusters.iter().map(|cluster| cluster.elements).sum();
        let _ = write!(html, "<tr><td>{}</td>", escape(&parameter.name));
        for cluster in &parameter.clusters {
            let share = 100.0 * cluster.elements as f64 / total.max(1) as f64;
            let importance = 100.0 * cluster.importance;
            let _ = write!(html, "<td>{share:.0} %: {importance:.0} %, {}</td>", cluster.precision);
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
}

/// Means of `value` over equal parts of the steps; a part without a finite value is left out.
fn curve(steps: &[StepMetrics], value: Value) -> Vec<(f64, f64)> {
    let part = steps.len().div_ceil(POINTS).max(1);
    let mean = |steps: &[StepMetrics]| {
        let values: Vec<f64> = steps.iter().map(value).filter(|value| value.is_finite()).collect();
        let last = steps.last()?;
        (!values.is_empty()).then(|| (last.step as f64, values.iter().sum::<f64>() / values.len() as f64))
    };
    steps.chunks(part).filter_map(mean).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
