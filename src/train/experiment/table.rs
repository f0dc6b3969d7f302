//! The table and the plot of an experiment's results.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::plan::Experiment;
use super::record::RunRecord;
use super::statistics::Sample;
use crate::train::report::plot::{COLOURS, Curve, plot};

/// The runs of one variant.
struct Variant<'a> {
    label: String,
    arm: &'a str,
    runs: Vec<&'a RunRecord>,
    losses: Option<Sample>,
}

impl Variant<'_> {
    fn failed(&self) -> usize {
        self.runs.iter().filter(|run| run.final_loss.is_none()).count()
    }

    /// Orders variants: every run whole and the lowest mean first.
    fn rank(&self) -> (usize, f64) {
        (self.failed(), self.losses.map_or(f64::INFINITY, |losses| losses.mean))
    }

    fn mean(&self, value: impl Fn(&RunRecord) -> f64) -> f64 {
        self.runs.iter().map(|run| value(run)).sum::<f64>() / self.runs.len() as f64
    }

    fn step_ms(&self) -> f64 {
        self.mean(|run| run.step_ms)
    }
}

fn variants(records: &[RunRecord]) -> Vec<Variant<'_>> {
    let mut found: Vec<Variant> = Vec::new();
    for record in records {
        let label = record.label();
        match found.iter_mut().find(|variant| variant.label == label) {
            Some(variant) => variant.runs.push(record),
            None => found.push(Variant { label, arm: &record.arm, runs: vec![record], losses: None }),
        }
    }
    for variant in &mut found {
        let losses: Vec<f64> = variant.runs.iter().filter_map(|run| run.final_loss).collect();
        variant.losses = Sample::of(&losses);
    }
    found.sort_by(|a, b| a.rank().0.cmp(&b.rank().0).then(a.rank().1.total_cmp(&b.rank().1)));
    found
}

/// The results as a Markdown table, best variant first.
pub(super) fn table(experiment: &Experiment, records: &[RunRecord]) -> String {
    let variants = variants(records);
    let baseline = experiment.baseline.as_deref().and_then(|name| variants.iter().find(|variant| variant.arm == name));
    let target = experiment.target_loss.or_else(|| baseline?.losses.map(|losses| losses.mean));
    let mut text = format!("# {}\n\n", experiment.question);
    match (target, baseline) {
        (Some(target), Some(baseline)) if experiment.target_loss.is_none() => {
            let _ = writeln!(
                text,
                "Target: {target:.4}, the final loss of `{}` (p: Welch's test against it).\n",
                baseline.label
            );
        }
        (Some(target), _) => {
            let _ = writeln!(text, "Target: {target:.4}.\n");
        }
        _ => {}
    }
    text += "| variant | runs | validation loss | spread | p | steps to target | of the baseline's | time to target, s | of the \
             baseline's | ms a step | multiplier | constrained | flips, % |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    let reached = |variant: &Variant<'_>| {
        let target = target?;
        let steps: Option<Vec<f64>> = variant.runs.iter().map(|run| run.steps_to(target)).collect();
        Sample::of(&steps?).map(|steps| steps.mean)
    };
    // The baseline's final loss is its target: it takes all of its steps, by definition.
    let whole = baseline.map(|baseline| baseline.mean(|run| run.steps as f64));
    for variant in &variants {
        let losses = variant.losses;
        let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        let p = baseline
            .filter(|baseline| baseline.label != variant.label)
            .and_then(|baseline| losses?.welch(&baseline.losses?));
        let steps = reached(variant);
        let seconds = steps.map(|steps| steps * variant.step_ms() / 1e3);
        let base_seconds = whole.zip(baseline).map(|(steps, baseline)| steps * baseline.step_ms() / 1e3);
        let share = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a / b);
        let failed = variant.failed();
        let runs = variant.runs.len();
        let count = if failed > 0 { format!("{runs}, {failed} failed") } else { runs.to_string() };
        let _ = writeln!(
            text,
            "| {} | {count} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.2} | {:.2} | {:.2} |",
            variant.label,
            number(losses.map(|losses| losses.mean), 4),
            number(losses.and_then(|losses| losses.deviation), 4),
            p.map_or("-".into(), |p| if p < 1e-4 { "< 0.0001".into() } else { format!("{p:.4}") }),
            number(steps, 0),
            number(share(steps, whole), 2),
            number(seconds, 1),
            number(share(seconds, base_seconds), 2),
            variant.step_ms(),
            variant.mean(|run| run.mean_multiplier),
            variant.mean(|run| run.constrained),
            variant.mean(|run| 100.0 * run.flip_rate),
        );
    }
    text += "\nSteps and time to target: means over the runs, `-` where one did not reach it. Time: steps times the median time of \
             a step, as measured beside whatever else ran.\n";
    text
}

/// Validation loss over the steps, means over the seeds: the best variant of each arm, or of one arm its best variants. Where
/// there are more than colours, the best of all, and the baseline.
pub(super) fn curves(experiment: &Experiment, records: &[RunRecord]) -> Option<String> {
    let variants = variants(records);
    let mut shown: Vec<&Variant> = Vec::new();
    for variant in &variants {
        let of_arm = shown.iter().any(|other| other.arm == variant.arm);
        if experiment.arms.len() == 1 || !of_arm {
            shown.push(variant);
        }
    }
    let is_baseline = |variant: &&Variant| Some(variant.arm) == experiment.baseline.as_deref();
    let baseline = shown.iter().skip(COLOURS.len()).copied().find(is_baseline);
    shown.truncate(COLOURS.len() - usize::from(baseline.is_some()));
    shown.extend(baseline);
    let curves: Vec<Curve<'_>> = shown
        .iter()
        .map(|variant| {
            let length = variant.runs.iter().map(|run| run.curve.len()).min().unwrap_or(0);
            let point = |at: usize| {
                let (step, _) = variant.runs[0].curve[at];
                (step as f64, variant.mean(|run| run.curve[at].1))
            };
            Curve { name: &variant.label, points: (0..length).map(point).collect() }
        })
        .collect();
    plot(&curves)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of twelve arms the seven best and the baseline, which is the worst.
    #[test]
    fn the_plot_always_has_the_baseline() {
        let mut file = "question = \"q\"\nbaseline = \"arm 11\"\n".to_string();
        let mut records = Vec::new();
        for arm in 0..12 {
            let _ = writeln!(file, "[[arms]]\nname = \"arm {arm}\"");
            records.push(RunRecord {
                arm: format!("arm {arm}"),
                variant: String::new(),
                seed: 0,
                digest: String::new(),
                steps: 2,
                final_loss: Some(1.0 + f64::from(arm)),
                error: None,
                step_ms: 1.0,
                mean_multiplier: 1.0,
                constrained: 0.0,
                flip_rate: 0.0,
                alignment: 0.0,
                curve: vec![(1, 2.0 + f64::from(arm)), (2, 1.0 + f64::from(arm))],
            });
        }
        let svg = curves(&toml::from_str(&file).unwrap(), &records).unwrap();
        let shown: Vec<usize> = (0..12).filter(|arm| svg.contains(&format!("\narm {arm}\n"))).collect();
        assert_eq!(shown, [0, 1, 2, 3, 4, 5, 6, 11]);
    }
}
