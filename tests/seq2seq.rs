//! Encoder-decoders as wholes: sources, caches, beams against all texts, threads, sharing, bad input, and a small real task.

use std::collections::BTreeSet;
use std::path::Path;

use hybridq::Result;
use hybridq::data::{Split, TokenBatch, Tokenizer};
use hybridq::dispatch::Context;
use hybridq::generate::{BeamOptions, translate};
use hybridq::models::{DecoderSizes, Model, ModelConfig, Sharing, SharingRule, preset};
use hybridq::nn::{Batch, Executor, GradPrecision, IGNORED, Mode, Precision, StepRandomness};
use hybridq::train::{BatchObjective, BatchSource, TrainConfig, Trainer, open_model};
use small_models::{context, ids, ready};

mod small_models;

fn small(precision: Precision) -> ModelConfig {
    ModelConfig {
        hidden_size: 32,
        intermediate_size: 72,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        decoder: Some(DecoderSizes { layers: 3, heads: 2, intermediate_size: 40 }),
        vocab_size: 50,
        max_position_embeddings: 24,
        initializer_range: 0.2,
        hidden_dropout: 0.0,
        precision,
        ..preset("bart").unwrap()
    }
}

fn step(model: &mut Model, context: &Context, batch: Batch<'_>) -> Result<f64> {
    model.store.zero_gradients();
    let mut executor = Executor::new(&model.plan, Mode::Train, 64);
    executor.step(&model.plan, context, &mut model.store, batch, StepRandomness { seed: 1, step: 2 }, 1.0)
}

/// Logits of the last token after reading `tokens` in pieces, with one executor and one cache.
fn logits(model: &mut Model, context: &Context, batch: Batch<'_>, pieces: &[usize]) -> Vec<f32> {
    let mut executor = Executor::new(&model.plan, Mode::Generate, 64);
    let mut cache = model.key_value_cache(batch.sequences, batch.length);
    let (mut from, mut logits) = (0, Vec::new());
    for &length in pieces {
        let rows = batch.tokens.chunks(batch.length);
        let tokens: Vec<u32> = rows.flat_map(|row| row[from..from + length].to_vec()).collect();
        let piece = Batch { tokens: &tokens, length, ..batch };
        logits = executor.generate(&model.plan, context, &mut model.store, piece, &mut cache).unwrap();
        from += length;
    }
    logits
}

#[test]
fn sources_are_read_once_and_padding_changes_nothing() {
    let context = context(2);
    for precision in [Precision::F32, Precision::Ternary] {
        let mut model = ready(small(precision), &context);
        let (source, tokens) = (ids(22, 50, 4), ids(12, 50, 1));
        let batch =
            Batch { tokens: &tokens, source: &source, lengths: &[11, 7], sequences: 2, length: 6, ..Batch::default() };
        let whole = logits(&mut model, &context, batch, &[6]);
        let near = |a: &[f32], b: &[f32], what: &str| {
            let off = a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(a.len() == b.len() && off < 1e-4, "{precision}: {what}: {off}");
        };
        near(&whole, &logits(&mut model, &context, batch, &[1, 1, 1, 1, 1, 1]), "by token");
        near(&whole, &logits(&mut model, &context, batch, &[2, 4]), "in pieces");
        // The second source without its padding.
        let alone = Batch { tokens: &tokens[6..], source: &source[11..18], sequences: 1, ..batch };
        let alone = logits(&mut model, &context, Batch { lengths: &[], ..alone }, &[6]);
        near(&whole[50..], &alone, "alone");
        // An executor that goes on from another's cache encodes the source itself.
        let mut cache = model.key_value_cache(2, 6);
        let mut found = Vec::new();
        for position in 0..6 {
            let mut executor = Executor::new(&model.plan, Mode::Generate, 64);
            let tokens = [tokens[position], tokens[6 + position]];
            let batch = Batch { tokens: &tokens, length: 1, ..batch };
            found = executor.generate(&model.plan, &context, &mut model.store, batch, &mut cache).unwrap();
        }
        near(&whole, &found, "with new executors");
    }
}

#[test]
fn steps_are_the_same_at_every_number_of_threads_and_without_kept_activations() {
    for (precision, gradient_precision) in
        [(Precision::F32, GradPrecision::F32), (Precision::Ternary, GradPrecision::Int8)]
    {
        let config = ModelConfig { gradient_precision, hidden_dropout: 0.1, ..small(precision) };
        let (source, tokens, mut targets) = (ids(26, 50, 4), ids(20, 50, 1), ids(20, 50, 2));
        targets[3] = IGNORED;
        let batch = Batch {
            tokens: &tokens,
            targets: &targets,
            source: &source,
            lengths: &[13, 9],
            sequences: 2,
            length: 10,
            ..Batch::default()
        };
        let run = |threads: usize, blocks: usize| {
            let context = context(threads);
            let mut model = ready(config.clone(), &context);
            let mut executor = Executor::with_checkpoints(&model.plan, blocks, 26);
            let randomness = StepRandomness { seed: 4, step: 7 };
            let loss = executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap();
            assert!(loss.is_finite() && model.store.gradients().iter().all(|g| g.is_finite()));
            (loss.to_bits(), model.store.gradients().to_vec())
        };
        let first = run(1, 0);
        assert!(first == run(2, 0) && first == run(3, 1) && first == run(2, 2), "{precision}");
    }
}

/// Every text of up to `most` tokens with its log probability; those that do not end are whole only at `most`.
fn all_texts(model: &mut Model, context: &Context, source: &[u32], most: usize) -> Vec<(Vec<u32>, f64)> {
    let vocabulary = model.config.vocab_size;
    let (start, end) = (model.config.decoder_start_token_id.unwrap(), model.config.eos_token_id[0]);
    let (mut open, mut whole) = (vec![(Vec::new(), 0.0)], Vec::new());
    for length in 1..=most {
        let mut longer = Vec::new();
        for (text, log_probability) in open {
            let tokens: Vec<u32> = [&[start], &text[..]].concat();
            let batch = Batch { tokens: &tokens, source, sequences: 1, length, ..Batch::default() };
            let logits = logits(model, context, batch, &[length]);
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            for id in 0..vocabulary as u32 {
                let text: Vec<u32> = [&text[..], &[id]].concat();
                let own = log_probability + f64::from(logits[id as usize]) - sum.ln();
                let is_whole = id == end || length == most;
                if is_whole { whole.push((text, own)) } else { longer.push((text, own)) }
            }
        }
        open = longer;
    }
    whole
}

#[test]
fn beams_find_the_best_of_all_texts() {
    let context = context(2);
    const MOST: usize = 4;
    for (seed, length_penalty) in [(1, 1.0), (2, 0.0), (3, 2.0), (4, -1.0), (5, 0.6)] {
        let config = ModelConfig { vocab_size: 6, initializer_range: 0.4, ..small(Precision::F32) };
        let mut model = Model::new(config, seed).unwrap();
        let source = ids(5, 6, seed as usize);
        let texts = all_texts(&mut model, &context, &source, MOST);
        let score = |(text, log_probability): &(Vec<u32>, f64)| {
            log_probability / (text.len() as f64).powf(f64::from(length_penalty))
        };
        let best = texts.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        let wide = BeamOptions { beams: 216, tokens: MOST, length_penalty };
        let found = translate(&context, &mut model, &source, &wide).unwrap();
        assert_eq!(found.tokens, best.0, "seed {seed}: {found:?}, best {best:?}");
        assert!((found.log_probability - best.1).abs() < 1e-4 && (found.score - score(best)).abs() < 1e-4);
        // One beam takes the likeliest token each time; more beams are not worse here.
        let greedy = translate(&context, &mut model, &source, &BeamOptions { beams: 1, ..wide }).unwrap();
        let mut text: Vec<u32> = Vec::new();
        while text.len() < MOST && text.last() != Some(&2) {
            let tokens: Vec<u32> = [&[2], &text[..]].concat();
            let length = tokens.len();
            let batch = Batch { tokens: &tokens, source: &source, sequences: 1, length, ..Batch::default() };
            let logits = logits(&mut model, &context, batch, &[length]);
            let likeliest = (0..6).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            text.push(likeliest as u32);
        }
        assert_eq!(greedy.tokens, text, "seed {seed}");
        assert!(greedy.score <= found.score + 1e-4);
        let three = BeamOptions { beams: 3, ..wide };
        let one_thread = translate(&context_of_one(), &mut model, &source, &three).unwrap();
        assert_eq!(translate(&context, &mut model, &source, &three).unwrap(), one_thread);
    }
}

fn context_of_one() -> Context {
    context(1)
}

#[test]
fn models_are_kept_shared_and_refused() {
    let context = context(1);
    let rules = vec![SharingRule::CrossLayer { interval: 2 }];
    let config = ModelConfig { parameter_sharing: Sharing { rules, precision: None }, ..small(Precision::Ternary) };
    let info = config.sharing_info().unwrap();
    let users: BTreeSet<&str> = info.shared.iter().flat_map(|shared| &shared.users).map(String::as_str).collect();
    for name in ["model.encoder.layers.1.fc1.weight", "model.decoder.layers.1.encoder_attn.q_proj.weight"] {
        assert!(users.contains(name), "{users:?}");
    }
    // A decoder with the encoder's layers: they are there once, the cross attention stays its own.
    let sizes = DecoderSizes { layers: 2, heads: 4, intermediate_size: 72 };
    let rules = vec![SharingRule::EncoderDecoder];
    let parameter_sharing = Sharing { rules, precision: None };
    let refused = ModelConfig { parameter_sharing: parameter_sharing.clone(), ..small(Precision::F32) };
    assert!(refused.validate().unwrap_err().to_string().contains("of the same sizes"));
    let joined = ModelConfig { decoder: Some(sizes), parameter_sharing, ..small(Precision::F32) };
    let alone = ModelConfig { parameter_sharing: Sharing::default(), ..joined.clone() };
    let (info, own) = (joined.sharing_info().unwrap(), alone.sharing_info().unwrap());
    let linears = 4 * (32 * 32 + 32) + 2 * 32 * 72 + 32 + 72;
    assert_eq!((info.total, own.unique - info.unique), (own.total, 2 * linears));
    let mut joined = ready(joined, &context);
    let (source, tokens) = (ids(8, 50, 4), ids(6, 50, 1));
    let batch =
        Batch { tokens: &tokens, targets: &tokens, source: &source, sequences: 2, length: 3, ..Batch::default() };
    assert!(step(&mut joined, &context, batch).unwrap().is_finite());

    let mut model = ready(config, &context);
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let again = Model::load(folder.path()).unwrap();
    assert_eq!(again.config, model.config);
    assert!(model.store.ids().all(|id| model.store.weight(id) == again.store.weight(id)));
    assert!(open_model(&context, folder.path()).unwrap_err().to_string().contains("a head for the next token"));

    let (source, tokens) = (ids(22, 50, 4), ids(12, 50, 1));
    let mut message = |change: fn(&mut Batch<'_>)| {
        let mut batch =
            Batch { tokens: &tokens, targets: &tokens, source: &source, sequences: 2, length: 6, ..Batch::default() };
        change(&mut batch);
        step(&mut model, &context, batch).unwrap_err().to_string()
    };
    assert!(message(|b| b.source = &[]).contains("source tokens"));
    assert!(message(|b| b.source = &[1; 21]).contains("as many for each of 2 sequences"));
    assert!(message(|b| b.source = &[1; 66]).contains("at most 64"));
    assert!(message(|b| b.source = &[50; 4]).contains("source token: expected below the vocabulary's size 50"));
    assert!(message(|b| b.source = &[1; 50]).contains("at most 24 tokens"));
    assert!(message(|b| b.lengths = &[12, 3]).contains("expected 1 to 11, found 12"));
    let mut found = |source: &[u32], options: BeamOptions| {
        translate(&context, &mut model, source, &options).unwrap_err().to_string()
    };
    assert!(found(&[], BeamOptions::default()).contains("source tokens"));
    assert!(found(&[1; 25], BeamOptions::default()).contains("source tokens: expected 1 to 24"));
    assert!(found(&[1], BeamOptions { beams: 0, ..BeamOptions::default() }).contains("beams"));
    assert!(found(&[1], BeamOptions { length_penalty: f32::NAN, ..BeamOptions::default() }).contains("length_penalty"));
    let mut decoder = ready(ModelConfig { vocab_size: 50, ..preset("tiny").unwrap() }, &context);
    let refused = translate(&context, &mut decoder, &[1], &BeamOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("an encoder-decoder"), "{refused}");
    let batch = Batch { tokens: &[1], targets: &[1], source: &[1], sequences: 1, length: 1, ..Batch::default() };
    assert!(step(&mut decoder, &context, batch).unwrap_err().to_string().contains("source tokens: expected none"));

    let read = |keys: &str| {
        let text = format!(r#"{{"model_type": "bart", "is_encoder_decoder": true, "vocab_size": 9, {keys}}}"#);
        ModelConfig::from_json(&text, Path::new("c.json")).unwrap_err().to_string()
    };
    assert!(read(r#""scale_embedding": true"#).contains("scale_embedding: expected false"));
    assert!(read(r#""decoder_layers": 0, "eos_token_id": 2"#).contains("decoder_layers: expected 1 to"));
    assert!(read(r#""decoder_attention_heads": 7"#).contains("decoder_attention_heads: expected a divisor of d_model"));
    assert!(read(r#""decoder_start_token_id": 9"#).contains("decoder_start_token_id: expected below vocab_size"));
    assert!(read(r#""hidden_act": "silu""#).contains("hidden_act: unknown key"));
    assert!(read(r#""tie_word_embeddings": false"#).contains("tie_word_embeddings: expected true"));
}

/// The longest word, with the end behind it.
const LENGTH: usize = 9;
const START: u32 = 0;
const END: u32 = 1;

/// Words of this crate's own texts, to be spelled backwards.
struct Words {
    examples: [Vec<String>; 2],
}

impl Words {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = ["README.md", "csrc/README.md", "CHANGELOG.md"];
        let text: String = files.iter().map(|name| std::fs::read_to_string(root.join(name)).unwrap()).collect();
        let letters = text.split(|c: char| !c.is_ascii_lowercase()).filter(|word| (2..LENGTH).contains(&word.len()));
        let words: BTreeSet<&str> = letters.collect();
        let (mut training, mut held_out) = (Vec::new(), Vec::new());
        for (at, word) in words.into_iter().enumerate() {
            if at % 5 == 0 { held_out.push(word.to_string()) } else { training.push(word.to_string()) }
        }
        Words { examples: [training, held_out] }
    }

    fn backwards(word: &str) -> Vec<u32> {
        word.bytes().rev().map(u32::from).chain([END]).collect()
    }
}

impl BatchSource for Words {
    fn examples(&self) -> usize {
        self.examples[0].len()
    }

    fn held_out(&self) -> usize {
        self.examples[1].len()
    }

    fn read(&mut self, split: Split, examples: &[usize], batch: &mut TokenBatch) -> Result<()> {
        batch.source.resize(examples.len() * LENGTH, END);
        batch.targets.fill(IGNORED);
        for (row, &example) in examples.iter().enumerate() {
            let word = &self.examples[usize::from(split == Split::Validation)][example];
            let places = row * LENGTH..(row + 1) * LENGTH;
            batch.source[places.clone()].iter_mut().zip(word.bytes()).for_each(|(id, byte)| *id = byte.into());
            batch.lengths.push(word.len() as u32);
            let target = Self::backwards(word);
            batch.targets[places.clone()][..target.len()].copy_from_slice(&target);
            // The decoder reads what it was to write before.
            let tokens = &mut batch.tokens[places];
            tokens[0] = START;
            tokens[1..target.len()].copy_from_slice(&target[..target.len() - 1]);
        }
        Ok(())
    }

    fn identity(&self) -> String {
        "words of this crate".into()
    }
}

/// The loss on words that were held out falls well below that of letter frequencies, to half of it in f32; also where
/// the decoder's own layers are the encoder's.
#[test]
fn words_are_spelled_backwards() {
    let joined = || Sharing { rules: vec![SharingRule::EncoderDecoder], ..Sharing::default() };
    let cases = [
        (Precision::F32, Sharing::default(), 0.5),
        (Precision::F32, joined(), 0.75),
        (Precision::Ternary, Sharing::default(), 0.75),
        (Precision::Ternary, joined(), 0.85),
    ];
    for (precision, parameter_sharing, share) in cases {
        let source = Words::new();
        let mut counts = [1f64; 256];
        let all = |words: &[String]| words.iter().flat_map(|word| Words::backwards(word)).collect::<Vec<u32>>();
        all(&source.examples[0]).iter().for_each(|&id| counts[id as usize] += 1.0);
        let total: f64 = counts.iter().sum();
        let wanted = all(&source.examples[1]);
        let baseline = wanted.iter().map(|&id| (total / counts[id as usize]).ln()).sum::<f64>() / wanted.len() as f64;
        let held_out = source.examples[1].clone();
        let config = ModelConfig {
            vocab_size: 128,
            initializer_range: 0.08,
            decoder: Some(DecoderSizes { layers: 2, heads: 4, intermediate_size: 72 }),
            decoder_start_token_id: Some(START),
            eos_token_id: vec![END],
            parameter_sharing,
            ..small(precision)
        };
        let model = Model::new(config, 1).unwrap();
        let unique = model.store.total_elements();
        let objective = BatchObjective::new(model, Tokenizer::bytes(), source, LENGTH).unwrap();
        let config = TrainConfig { max_steps: 500, base_learning_rate: 3e-3, ..TrainConfig::default() };
        let context = context(2);
        let mut trainer = Trainer::new(context.clone(), config, objective).unwrap();
        trainer.run().unwrap();
        let found = trainer.evaluate().unwrap().unwrap().val_loss;
        let (model, _) = trainer.objective_mut().generator();
        let options = BeamOptions { beams: 3, tokens: LENGTH, ..BeamOptions::default() };
        let right = held_out.iter().take(60).filter(|word| {
            let source: Vec<u32> = word.bytes().map(u32::from).collect();
            translate(&context, model, &source, &options).unwrap().tokens == Words::backwards(word)
        });
        let right = right.count();
        println!(
            "{precision}, {unique} parameters: held-out loss {found:.3}, letter frequencies {baseline:.3}, {right} of 60 words right"
        );
        assert!(found < share * baseline, "{precision}: {found} is not below {share} x {baseline}");
    }
}
