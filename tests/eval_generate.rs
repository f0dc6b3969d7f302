//! Evaluation and generation over a model whose every logit is known: a table of bigrams in place of a network.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use hybridq::Result;
use hybridq::data::{TextSource, TokenDataset, Tokenizer};
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::eval::language_model;
use hybridq::generate::{Continuation, GenerateOptions, Sampler, SamplerOptions, StopReason, generate};
use hybridq::models::{Model, preset};
use hybridq::nn::{BufferId, Mode, Operation, ParamId, ParamStore, Pass, PlanBuilder};
use hybridq::tensor::RandomStream;

/// What was read: the tokens in the cache before, and the tokens of the batch.
type Reads = Arc<Mutex<Vec<(usize, Vec<u32>)>>>;

/// Logits of the next token `[256, 256]`, by the last one.
#[derive(Debug)]
struct BigramTable {
    logits: Vec<f32>,
    reads: Reads,
}

impl BigramTable {
    fn row(&self, token: u32) -> &[f32] {
        &self.logits[token as usize * 256..][..256]
    }
}

impl Operation for BigramTable {
    fn name(&self) -> &'static str {
        "bigram_table"
    }
    fn inputs(&self) -> Vec<BufferId> {
        Vec::new()
    }
    fn outputs(&self) -> Vec<BufferId> {
        Vec::new()
    }
    fn saved(&self) -> Vec<BufferId> {
        Vec::new()
    }
    fn parameters(&self) -> Vec<ParamId> {
        Vec::new()
    }
    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let batch = pass.batch;
        if pass.mode == Mode::Generate {
            let before = pass.cache.as_ref().unwrap().len();
            self.reads.lock().unwrap().push((before, batch.tokens.to_vec()));
            pass.logits = self.row(batch.tokens[batch.tokens.len() - 1]).to_vec();
        } else {
            let pairs = batch.tokens.iter().zip(batch.targets);
            let sum: f64 = pairs.map(|(&token, &target)| nats(self.row(token), target)).sum();
            pass.loss = sum / batch.tokens.len() as f64;
        }
        Ok(())
    }
    fn backward(&self, _: &mut Pass<'_>) -> Result<()> {
        unreachable!("no test trains")
    }
}

/// `-ln softmax(logits)[target]`
fn nats(logits: &[f32], target: u32) -> f64 {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    sum.ln() - f64::from(logits[target as usize])
}

fn model(logits: Vec<f32>, positions: usize) -> (Model, Reads) {
    let reads = Reads::default();
    let mut builder = PlanBuilder::new();
    builder.push(BigramTable { logits, reads: reads.clone() });
    let (plan, specs) = builder.finish();
    let mut config = preset("tiny").unwrap();
    config.max_position_embeddings = positions;
    (Model { config, plan, store: ParamStore::new(specs).unwrap() }, reads)
}

/// A table that, greedily, says `text` over and over; no byte may occur twice in it.
fn parrot(text: &str) -> Vec<f32> {
    let mut logits = vec![0.0; 256 * 256];
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        let next = text.as_bytes()[(at + 1) % text.len()];
        logits[usize::from(byte) * 256 + usize::from(next)] = 5.0;
    }
    logits
}

fn random_table(seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 0, 0, 0);
    (0..256 * 256).map(|_| stream.normal() as f32).collect()
}

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap()
}

fn greedy(tokens: usize, stop: &[&str]) -> GenerateOptions {
    let sampler = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    GenerateOptions { sampler, tokens, stop: stop.iter().map(|stop| stop.to_string()).collect() }
}

/// Generates and checks that the pieces shown are the text.
fn run(model: &mut Model, prompt: &str, options: &GenerateOptions) -> Continuation {
    let mut shown = String::new();
    let result = generate(&context(), model, &Tokenizer::bytes(), prompt, options, |piece| {
        assert!(!piece.is_empty());
        shown += piece;
        ControlFlow::Continue(())
    });
    let result = result.unwrap();
    assert_eq!(shown, result.text);
    result
}

#[test]
fn a_parrot_repeats_itself() {
    let (mut model, reads) = model(parrot("abc \u{e9}\u{20ac}"), 256);
    let result = run(&mut model, "ab", &greedy(9, &[]));
    assert_eq!((result.text.as_str(), result.reason), ("c \u{e9}\u{20ac}ab", StopReason::Length));
    assert_eq!((result.prompt_tokens, result.dropped_tokens, result.tokens.len()), (2, 0, 9));
    assert_eq!(reads.lock().unwrap()[..2], [(0, vec![97, 98]), (2, vec![99])]);
    // Five tokens end inside the euro sign: what was never completed is one replacement character.
    assert_eq!(run(&mut model, "ab", &greedy(6, &[])).text, "c \u{e9}\u{fffd}");
    assert_eq!(run(&mut model, "ab", &greedy(0, &[])).text, "");
}

#[test]
fn stop_strings_are_never_shown() {
    let (mut model, _) = model(parrot("abcdefgh"), 256);
    let result = run(&mut model, "a", &greedy(100, &["efg"]));
    assert_eq!((result.text.as_str(), result.reason, result.tokens.len()), ("bcd", StopReason::StopString, 6));
    let result = run(&mut model, "a", &greedy(5, &["efgx", "fga"]));
    assert_eq!((result.text.as_str(), result.reason), ("bcdef", StopReason::Length), "the end releases what was held");
    assert_eq!(run(&mut model, "a", &greedy(9, &["b"])).text, "");
    let empty =
        generate(&context(), &mut model, &Tokenizer::bytes(), "a", &greedy(9, &[""]), |_| ControlFlow::Continue(()));
    assert!(empty.unwrap_err().to_string().starts_with("stop:"));
}

#[test]
fn an_empty_prompt_starts_from_bos() {
    let (mut model, reads) = model(parrot("\nabc"), 256);
    assert_eq!(run(&mut model, "", &greedy(3, &[])).text, "abc");
    assert_eq!(reads.lock().unwrap()[0], (0, vec![10]));
    model.config.bos_token_id = Some(98);
    assert_eq!(run(&mut model, "", &greedy(3, &[])).text, "c\na");
}

#[test]
fn end_of_text_and_the_callback_stop() {
    let (mut model, _) = model(parrot("abcdefgh"), 256);
    model.config.eos_token_id = vec![u32::from(b'e')];
    let result = run(&mut model, "a", &greedy(100, &["dx"]));
    assert_eq!((result.text.as_str(), result.reason, result.tokens.len()), ("bcd", StopReason::EndOfText, 4));
    let mut pieces = 0;
    let result = generate(&context(), &mut model, &Tokenizer::bytes(), "a", &greedy(100, &[]), |_| {
        pieces += 1;
        if pieces == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!((result.text.as_str(), result.reason), ("bc", StopReason::Interrupted));
}

#[test]
fn a_text_longer_than_the_context_goes_on() {
    let text: String = ('a'..='z').cycle().take(700).collect();
    for (positions, prompt, tokens) in
        [(16, 5, 60), (16, 16, 3), (16, 40, 20), (1, 3, 5), (300, 290, 40), (600, 590, 8)]
    {
        let (mut model, reads) = model(parrot("abcdefghijklmnopqrstuvwxyz"), positions);
        let result = run(&mut model, &text[..prompt], &greedy(tokens, &[]));
        assert_eq!(result.text, text[prompt..prompt + tokens]);
        assert_eq!(result.dropped_tokens, prompt.saturating_sub(positions));
        assert_eq!(result.prompt_tokens, prompt.min(positions));
        // The cache holds at most the context, and always a part of the text that ends where reading goes on.
        let mut cached = Vec::new();
        let mut end = result.dropped_tokens;
        for (before, tokens) in reads.lock().unwrap().iter() {
            if *before == 0 && !cached.is_empty() {
                end = end + 1 - (positions / 2).max(1);
                cached.clear();
            }
            assert_eq!(*before, cached.len());
            cached.extend_from_slice(tokens);
            end += tokens.len();
            assert!(cached.len() <= positions && tokens.len() <= 256);
            let expected = text.as_bytes()[end - cached.len()..end].iter().map(|&byte| u32::from(byte));
            assert!(cached.iter().copied().eq(expected), "{positions} {prompt}: read {cached:?}");
        }
    }
}

#[test]
fn seeds_decide() {
    let (mut model, _) = model(random_table(3), 256);
    let mut options = greedy(40, &[]);
    options.sampler = SamplerOptions { temperature: 1.0, seed: 1, ..SamplerOptions::default() };
    let first = run(&mut model, "x", &options).tokens;
    assert_eq!(first, run(&mut model, "x", &options).tokens);
    options.sampler.seed = 2;
    assert_ne!(first, run(&mut model, "x", &options).tokens);
}

#[test]
fn options_out_of_range_are_errors() {
    let good = SamplerOptions::default();
    let bad = [
        SamplerOptions { temperature: -1.0, ..good },
        SamplerOptions { temperature: f32::NAN, ..good },
        SamplerOptions { temperature: f32::INFINITY, ..good },
        SamplerOptions { top_k: Some(0), ..good },
        SamplerOptions { top_p: 0.0, ..good },
        SamplerOptions { top_p: f32::NAN, ..good },
        SamplerOptions { top_p: 1.1, ..good },
        SamplerOptions { repetition_penalty: 0.0, ..good },
        SamplerOptions { repetition_penalty: f32::NAN, ..good },
    ];
    assert!(bad.iter().all(|options| Sampler::new(*options).is_err()));
    let (mut model, _) = model(vec![f32::NAN; 256 * 256], 256);
    let nan =
        generate(&context(), &mut model, &Tokenizer::bytes(), "a", &greedy(1, &[]), |_| ControlFlow::Continue(()));
    assert!(nan.unwrap_err().to_string().starts_with("logits: element 0 is NaN"));
    model.config.vocab_size = 255;
    let small =
        generate(&context(), &mut model, &Tokenizer::bytes(), "a", &greedy(1, &[]), |_| ControlFlow::Continue(()));
    assert!(small.unwrap_err().to_string().contains("255"));
}

/// How often each of `logits` is drawn, of 20,000.
fn frequencies(options: SamplerOptions, logits: &[f32]) -> Vec<f64> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..20_000 {
        counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap() as usize] += 1.0 / 20_000.0;
    }
    counts
}

#[test]
fn draws_follow_the_probabilities() {
    let one = SamplerOptions { temperature: 1.0, ..SamplerOptions::default() };
    let probabilities = [0.5f64, 0.0, 0.2, 0.3];
    let logits: Vec<f32> = probabilities.iter().map(|p| (p.ln() + 3.0) as f32).collect();
    let near = |found: Vec<f64>, expected: [f64; 4]| {
        // Four standard deviations of a share of 20,000 draws are at most 0.0142.
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.0142), "{found:?}, expected {expected:?}");
        assert!(found.iter().zip(expected).all(|(&a, b)| b > 0.0 || a == 0.0), "{found:?}: something that cannot be");
    };
    near(frequencies(one, &logits), probabilities);
    near(
        frequencies(SamplerOptions { temperature: 0.5, ..one }, &logits),
        [0.25 / 0.38, 0.0, 0.04 / 0.38, 0.09 / 0.38],
    );
    near(frequencies(SamplerOptions { top_k: Some(2), ..one }, &logits), [0.625, 0.0, 0.0, 0.375]);
    near(frequencies(SamplerOptions { top_k: Some(9), ..one }, &logits), probabilities);
    near(frequencies(SamplerOptions { top_p: 0.7, ..one }, &logits), [0.625, 0.0, 0.0, 0.375]);
    near(frequencies(SamplerOptions { top_p: 0.01, ..one }, &logits), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn greedy_choices() {
    let draw = |options: SamplerOptions, logits: &[f32], context: &[u32]| {
        Sampler::new(options).unwrap().sample(&mut logits.to_vec(), context)
    };
    let greedy = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    assert_eq!(draw(greedy, &[1.0, 3.0, 3.0, 2.0], &[]).unwrap(), 1);
    assert_eq!(draw(greedy, &[-0.0, 0.0], &[]).unwrap(), 0, "the two zeros tie");
    assert_eq!(draw(greedy, &[f32::NEG_INFINITY, -9.0], &[]).unwrap(), 1);
    let hot = SamplerOptions { temperature: 2.0, ..greedy };
    assert_eq!(draw(hot, &[0.0, f32::INFINITY], &[]).unwrap(), 1);
    assert_eq!(draw(SamplerOptions { top_k: Some(1), ..hot }, &[1.0, 3.0, 3.0], &[]).unwrap(), 1);
    let penalized = SamplerOptions { repetition_penalty: 2.0, ..greedy };
    assert_eq!(draw(penalized, &[1.5, 2.0], &[1, 1, 900]).unwrap(), 0, "2.0 / 2 < 1.5, once however often it occurred");
    assert_eq!(draw(penalized, &[-1.0, -1.5], &[0]).unwrap(), 1, "-1 * 2 < -1.5");
    assert!(draw(greedy, &[f32::NEG_INFINITY; 3], &[]).is_err() && draw(greedy, &[], &[]).is_err());
    assert!(draw(greedy, &[0.0, f32::NAN], &[]).unwrap_err().to_string().contains("element 1"));
}

#[test]
fn evaluation_is_the_mean_over_the_windows() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = RandomStream::new(9, 0, 0, 0);
    let text: Vec<u8> = (0..3000).map(|_| stream.next_u32() as u8).collect();
    let path = folder.path().join("text");
    std::fs::write(&path, &text).unwrap();
    let source = TextSource::open(&path).unwrap();
    let data = TokenDataset::new(&context(), &Tokenizer::bytes(), &source, None).unwrap();
    let table = random_table(4);
    let (mut model, _) = model(table.clone(), 64);
    let validation = &text[2700..];
    for (windows, length) in [(1, 64), (40, 64), (7, 3), (300, 1)] {
        let offsets = data.evaluation_offsets(windows, length).unwrap();
        let losses: Vec<f64> = offsets
            .iter()
            .flat_map(|&offset| offset..offset + length)
            .map(|at| nats(&table[usize::from(validation[at]) * 256..][..256], validation[at + 1].into()))
            .collect();
        let expected = losses.iter().sum::<f64>() / losses.len() as f64;
        let report = language_model(&context(), &mut model, &data, windows, length).unwrap();
        assert!((report.loss - expected).abs() < 1e-9, "{report:?}, expected {expected}");
        assert!((report.perplexity - expected.exp()).abs() < 1e-6 * report.perplexity);
        assert!((report.bits_per_byte - expected / std::f64::consts::LN_2).abs() < 1e-9);
        assert_eq!((report.tokens, report.bytes), ((windows * length) as u64, (windows * length) as u64));
        assert_eq!(report, language_model(&context(), &mut model, &data, windows, length).unwrap());
    }
    let error = |windows, length, model: &mut Model| {
        language_model(&context(), model, &data, windows, length).unwrap_err().to_string()
    };
    assert!(error(4, 65, &mut model).contains("at most the model's 64"));
    assert!(error(0, 8, &mut model).contains("windows"));
    model.config.vocab_size = 100;
    assert!(error(4, 8, &mut model).starts_with("tokenizer"));
}
