//! Two optimizers on one task: settings of each with one seed, then the best of each with others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::train::{Objective, TrainConfig, Trainer};

/// Evaluations whose mean is a run's loss: a ternary loss jumps from step to step.
const LAST: usize = 5;

/// A setting with its name.
pub type Setting = (String, TrainConfig);

/// A run's held-out losses, one an evaluation, and the median time of its steps.
struct Run {
    losses: Vec<f64>,
    step_ms: f64,
}

impl Run {
    fn last(&self) -> f64 {
        self.losses[self.losses.len() - LAST..].iter().sum::<f64>() / LAST as f64
    }
}

/// Steps of a run, steps between two evaluations, and runs of each optimizer at its best setting.
pub struct Contest {
    pub steps: u64,
    pub interval: u64,
    pub seeds: u64,
}

impl Contest {
    /// Prints the tables. `trainer` makes a run of a configuration; as many run at a time as there are processors, on a
    /// thread each. The first of `arms` sets the target.
    pub fn print<O, F>(&self, arms: [(&str, Vec<Setting>); 2], trainer: F)
    where
        O: Objective,
        F: Fn(Context, TrainConfig) -> hybridq::Result<Trainer<O>> + Sync,
    {
        println!("| setting, seed 0 | loss |\n|---|---|");
        let best = arms.map(|(arm, settings)| {
            let runs = self.runs(settings.iter().map(|(_, config)| (config, 0)).collect(), &trainer);
            let losses: Vec<f64> = runs.iter().map(Run::last).collect();
            for ((name, _), loss) in settings.iter().zip(&losses) {
                println!("| {arm}, {name} | {loss:.4} |");
            }
            let index = (0..losses.len()).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).expect("some settings");
            (arm, settings[index].clone())
        });
        let seeds = self.seeds;
        let runs = best
            .each_ref()
            .map(|(_, (_, config))| self.runs((1..=seeds).map(|seed| (config, seed)).collect(), &trainer));
        let target = runs[0].iter().map(Run::last).sum::<f64>() / seeds as f64;
        println!("\n| the best, seeds 1 to {seeds} | loss | spread | steps to the first one's loss | ms a step |");
        println!("|---|---|---|---|---|");
        for ((arm, (name, _)), runs) in best.iter().zip(&runs) {
            let losses: Vec<f64> = runs.iter().map(Run::last).collect();
            let mean = losses.iter().sum::<f64>() / seeds as f64;
            let spread = (losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (seeds - 1) as f64).sqrt();
            // Of the mean curve over the seeds.
            let at = |index: usize| runs.iter().map(|run| run.losses[index]).sum::<f64>() / seeds as f64;
            let reached = (0..runs[0].losses.len()).find(|&index| at(index) <= target);
            let steps = reached.map_or("-".into(), |index| ((index as u64 + 1) * self.interval).to_string());
            let ms = median(runs.iter().map(|run| run.step_ms).collect());
            println!("| {arm}, {name} | {mean:.4} | {spread:.4} | {steps} | {ms:.1} |");
        }
    }

    /// One run for each configuration and seed, in their order.
    fn runs<O, F>(&self, runs: Vec<(&TrainConfig, u64)>, trainer: &F) -> Vec<Run>
    where
        O: Objective,
        F: Fn(Context, TrainConfig) -> hybridq::Result<Trainer<O>> + Sync,
    {
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(&(config, seed)) = runs.get(index) else { return };
                let config = TrainConfig { seed, max_steps: self.steps, threads: Some(1), ..config.clone() };
                let context = Context::new(ContextOptions { threads: Some(1), isa: None }).expect("one thread");
                let run = self.run(trainer(context, config).expect("a valid configuration"));
                let mut found = found.lock().expect("no holder panics");
                found.push((index, run));
                eprintln!("{} of {} runs", found.len(), runs.len());
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let mut found = found.into_inner().expect("no holder panics");
        found.sort_by_key(|&(index, _)| index);
        found.into_iter().map(|(_, run)| run).collect()
    }

    fn run<O: Objective>(&self, mut trainer: Trainer<O>) -> Run {
        let (mut losses, mut times) = (Vec::new(), Vec::new());
        for step in 1..=self.steps {
            let start = Instant::now();
            // A run that diverges has no later losses.
            if trainer.step().is_err() {
                break;
            }
            times.push(start.elapsed().as_secs_f64() * 1e3);
            if step % self.interval == 0 {
                losses.push(trainer.evaluate().ok().flatten().map_or(f64::NAN, |evaluation| evaluation.val_loss));
            }
        }
        losses.resize((self.steps / self.interval) as usize, f64::INFINITY);
        Run { losses, step_ms: median(times) }
    }
}

/// Not a number of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
