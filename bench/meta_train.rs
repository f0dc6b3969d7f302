//! Makes the auxiliary network's starting weights (`src/optim/warm_start.json`): an evolution strategy over many small tasks.
//!
//! ```text
//! cargo run --release --example meta_train -- [GENERATIONS, default 14] [OUT, default src/optim/warm_start.json]
//! ```
//!
//! A task is a ternary decoder (2 x 64) on a text drawn from a random Markov chain, trained for 160 steps at a learning rate
//! 0.1 to 10 times the best one, in the spectral or the l2 norm. The radius follows the schedule and is what steps at the best
//! rate have, relative to the initial weights. The score of a network is
//! the mean over a generation's tasks of `ln(its final validation loss / that of the best rate without a network)`: 0 says
//! that the rate's error costs nothing. Each generation tries mirrored pairs around the present weights (Salimans et al.,
//! "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017) and moves them by Adam. The hidden layer
//! keeps its random weights, the radius its neutral start: what is found here are the multiplier's output weights.
//!
//! Everything is drawn from fixed seeds; the result is the same at any number of threads.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::optim::{AuxiliaryNetwork, FEATURES, RadiusMode, RadiusRule, TrustNorm, TrustScope};
use hybridq::tensor::RandomStream;
use hybridq::train::{LanguageModelTrainer, RunPlace, TrainConfig};

const HIDDEN: usize = 16;
/// Pairs of a generation and tasks they are tried on.
const PAIRS: usize = 6;
const TASKS: usize = 6;
/// Standard deviation of the trials and step length of Adam.
const SIGMA: f32 = 0.2;
const RATE: f32 = 0.1;
const TEXTS: usize = 4;
/// Of a task.
const STEPS: u64 = 160;

const MODEL: &str = r#"{ "model_type": "bitnet", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 192,
  "num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 64,
  "hidden_act": "silu", "tie_word_embeddings": true }"#;

/// One kind of step: its norm, the usual root mean square of its elements for a rate of 1, and the rates that are scanned for
/// the best.
struct Kind {
    norm: TrustNorm,
    rms: f64,
    rates: [f64; 6],
}

const KINDS: [Kind; 2] = [
    Kind { norm: TrustNorm::Spectral, rms: 0.8, rates: [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2] },
    Kind { norm: TrustNorm::L2, rms: 0.4, rates: [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2] },
];

#[derive(Clone)]
struct Task {
    kind: usize,
    text: usize,
    seed: u64,
    rate: f64,
    best_rate: f64,
    /// Without a network, at the best rate.
    reference: f64,
}

struct Bench {
    folder: PathBuf,
}

impl Bench {
    fn config(&self, task: &Task, network: bool) -> TrainConfig {
        let kind = &KINDS[task.kind];
        TrainConfig {
            data: Some(self.folder.join(format!("{}.txt", task.text))),
            model: self.folder.join("model.json").to_string_lossy().into_owned(),
            use_auxiliary_nn: network,
            use_clustering: false,
            trust_norm: kind.norm,
            steepest_rms: 0.8,
            newton_schulz_iterations: 2,
            // Weights begin with a standard deviation of 0.02.
            initial_trust_radius: (kind.rms * task.best_rate / 0.02).min(1.0),
            radius_mode: RadiusMode::Initial,
            trust_scope: TrustScope::Tensor,
            trust_radius_rule: RadiusRule::Schedule,
            base_learning_rate: task.rate,
            warmup_steps: 6,
            max_steps: STEPS,
            batch_size: 8,
            seq_length: 32,
            eval_windows: 64,
            seed: task.seed,
            threads: Some(1),
            ..TrainConfig::default()
        }
    }

    /// Final validation loss, with `network` or none; a run that diverges ends at the loss of a uniform guess.
    fn loss(&self, task: &Task, network: Option<&AuxiliaryNetwork>) -> f64 {
        let context = Context::new(ContextOptions { threads: Some(1), isa: None }).expect("one thread");
        let config = self.config(task, network.is_some());
        let mut trainer = LanguageModelTrainer::open(&context, config, RunPlace::Nowhere).expect("a valid task");
        if let Some(network) = network {
            trainer.optimizer_mut().set_auxiliary_network(network.clone()).expect("the configured shape");
        }
        let trained = (0..STEPS).try_for_each(|_| trainer.step().map(drop));
        let loss = trained.and_then(|()| trainer.evaluate()).ok().flatten().map(|evaluation| evaluation.val_loss);
        loss.unwrap_or(f64::INFINITY).min(256f64.ln())
    }

    /// The losses of many runs, side by side.
    fn losses(&self, runs: &[(Task, Option<AuxiliaryNetwork>)]) -> Vec<f64> {
        let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![0.0; runs.len()]));
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((index, (task, network))) =
                        Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, runs.get(index)?)))
                    {
                        let loss = self.loss(task, network.as_ref());
                        found.lock().expect("no holder panics")[index] = loss;
                    }
                });
            }
        });
        found.into_inner().expect("no holder panics")
    }
}

/// Made-up words, drawn with Zipf's weights: a few of them are most of the text.
fn text(seed: u64) -> Vec<u8> {
    const WORDS: usize = 300;
    let mut stream = RandomStream::new(seed, 950, 0, 0);
    let mut below = |count: usize| (stream.uniform() * count as f64) as usize;
    let words: Vec<Vec<u8>> =
        (0..WORDS).map(|_| (0..2 + below(6)).map(|_| b'a' + below(20) as u8).chain([b' ']).collect()).collect();
    let mut text = Vec::with_capacity(60_000);
    while text.len() < 60_000 {
        // Uniform in the logarithm of the rank.
        let rank = (WORDS as f64).powf(stream.uniform()) as usize - 1;
        text.extend(&words[rank]);
    }
    text
}

fn network(weights: &[f32]) -> AuxiliaryNetwork {
    let mut network = AuxiliaryNetwork::new(HIDDEN, 2, 0.001, 0.01, 0).expect("valid sizes");
    network.set_weights(weights).expect("as many weights");
    network
}

/// Random hidden weights, zeros elsewhere.
fn initial_weights() -> Vec<f32> {
    let mut weights = vec![0.0; HIDDEN * (FEATURES + 1 + 2)];
    let mut stream = RandomStream::new(0, 951, 0, 0);
    let std = 1.0 / (FEATURES as f64).sqrt();
    weights[..HIDDEN * FEATURES].fill_with(|| (stream.normal() * std) as f32);
    weights
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let generations: u32 = arguments.next().map_or(14, |text| text.parse().expect("GENERATIONS: a whole number"));
    let out = arguments.next().unwrap_or_else(|| "src/optim/warm_start.json".into());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bench = Bench { folder: folder.path().to_path_buf() };
    std::fs::write(bench.folder.join("model.json"), MODEL).expect("a file in the temporary folder");
    for index in 0..TEXTS {
        std::fs::write(bench.folder.join(format!("{index}.txt")), text(index as u64)).expect("a file");
    }
    let start = Instant::now();

    // The best rate of each kind, without a network.
    let best_rates: [f64; KINDS.len()] = std::array::from_fn(|index| {
        let kind = &KINDS[index];
        let tasks = |rate: f64| {
            (0..TEXTS).map(move |text| Task { kind: index, text, seed: 1, rate, best_rate: 1.0, reference: 0.0 })
        };
        let runs: Vec<_> = kind.rates.iter().flat_map(|&rate| tasks(rate)).map(|task| (task, None)).collect();
        let losses = bench.losses(&runs);
        let means: Vec<f64> = losses.chunks(TEXTS).map(|losses| losses.iter().sum::<f64>() / TEXTS as f64).collect();
        println!("{:?}: rates {:?}, losses {means:.4?}", kind.norm, kind.rates);
        let best = (0..means.len()).min_by(|&a, &b| means[a].total_cmp(&means[b])).expect("several rates");
        kind.rates[best]
    });

    let mut weights = initial_weights();
    let trained = HIDDEN * (FEATURES + 1)..HIDDEN * (FEATURES + 2);
    let (mut first, mut second) = (vec![0f32; HIDDEN], vec![0f32; HIDDEN]);
    for generation in 0..generations {
        let mut stream = RandomStream::new(1, 952, generation, 0);
        let mut tasks: Vec<Task> = (0..TASKS)
            .map(|index| {
                // Rates spread evenly from 0.1 to 10 times the best.
                let place = (index as f64 + stream.uniform()) / TASKS as f64;
                let kind = (index + generation as usize) % KINDS.len();
                let best_rate = best_rates[kind];
                let rate = best_rate * 10f64.powf(2.0 * place - 1.0);
                let text = (stream.uniform() * TEXTS as f64) as usize;
                Task { kind, text, seed: 100 + u64::from(generation), rate, best_rate, reference: 0.0 }
            })
            .collect();
        let mut runs: Vec<_> =
            tasks.iter().map(|task| (Task { rate: best_rates[task.kind], ..task.clone() }, None)).collect();
        runs.extend(tasks.iter().map(|task| (task.clone(), None)));
        runs.extend(tasks.iter().map(|task| (task.clone(), Some(network(&weights)))));
        let losses = bench.losses(&runs);
        tasks.iter_mut().zip(&losses).for_each(|(task, &loss)| task.reference = loss);
        let score = |losses: &[f64]| {
            let terms = losses.iter().zip(&tasks).map(|(loss, task)| (loss / task.reference).ln());
            terms.sum::<f64>() / TASKS as f64
        };
        let (without, with) = (score(&losses[TASKS..2 * TASKS]), score(&losses[2 * TASKS..]));

        let noises: Vec<Vec<f32>> = (0..PAIRS).map(|_| (0..HIDDEN).map(|_| stream.normal() as f32).collect()).collect();
        let runs: Vec<_> = noises
            .iter()
            .flat_map(|noise| [SIGMA, -SIGMA].map(|scale| (noise, scale)))
            .flat_map(|(noise, scale)| {
                let mut trial = weights.clone();
                trial[trained.clone()].iter_mut().zip(noise).for_each(|(weight, noise)| *weight += scale * noise);
                tasks.iter().map(|task| (task.clone(), Some(network(&trial)))).collect::<Vec<_>>()
            })
            .collect();
        let scores: Vec<f64> = bench.losses(&runs).chunks(TASKS).map(score).collect();
        let updates = f64::from(generation) + 1.0;
        for unit in 0..HIDDEN {
            let terms = scores.chunks(2).zip(&noises);
            let gradient = terms.map(|(pair, noise)| (pair[0] - pair[1]) as f32 * noise[unit]).sum::<f32>()
                / (2.0 * SIGMA * PAIRS as f32);
            first[unit] = 0.8 * first[unit] + 0.2 * gradient;
            second[unit] = 0.95 * second[unit] + 0.05 * gradient * gradient;
            let mean = first[unit] / (1.0 - 0.8f64.powf(updates)) as f32;
            let square = second[unit] / (1.0 - 0.95f64.powf(updates)) as f32;
            weights[trained.start + unit] -= RATE * mean / (square.sqrt() + 1e-8);
        }
        println!(
            "generation {generation}: over the best rate {without:.4} without, {with:.4} with the network; {:.0} s",
            start.elapsed().as_secs_f64()
        );
        write(Path::new(&out), &weights);
    }
}

fn write(path: &Path, weights: &[f32]) {
    let text = serde_json::to_string(weights).expect("finite numbers") + "\n";
    let temporary = path.with_extension("part");
    std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)).expect("a place to write to");
}
