//! Encoders as wholes: padding, attention weights, heads, threads, sharing, bad input, and small real tasks that they learn.

use std::path::{Path, PathBuf};

use hybridq::Result;
use hybridq::data::{Split, TokenBatch, Tokenizer};
use hybridq::dispatch::Context;
use hybridq::models::{ExportType, Head, Model, ModelConfig, default_labels, preset};
use hybridq::nn::{Batch, Executor, GradPrecision, IGNORED, Mode, Precision, StepRandomness};
use hybridq::train::{BatchObjective, BatchSource, TrainConfig, Trainer, open_model};
use small_models::{context, ids, ready};

mod small_models;

fn small(head: Head, precision: Precision) -> ModelConfig {
    ModelConfig {
        hidden_size: 32,
        intermediate_size: 72,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        vocab_size: 50,
        max_position_embeddings: 24,
        initializer_range: 0.2,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        labels: default_labels(3),
        head,
        precision,
        ..preset("bert").unwrap()
    }
}

fn predict(model: &mut Model, context: &Context, batch: Batch<'_>) -> Vec<f32> {
    let mut executor = Executor::new(&model.plan, Mode::Generate, batch.tokens.len());
    executor.predict(&model.plan, context, &mut model.store, batch).unwrap()
}

fn step(model: &mut Model, context: &Context, batch: Batch<'_>) -> Result<f64> {
    model.store.zero_gradients();
    let mut executor = Executor::new(&model.plan, Mode::Train, 64);
    executor.step(&model.plan, context, &mut model.store, batch, StepRandomness { seed: 1, step: 2 }, 1.0)
}

#[test]
fn padding_changes_nothing() {
    let context = context(2);
    for precision in [Precision::F32, Precision::Ternary] {
        let mut model = ready(small(Head::SequenceClassification, precision), &context);
        let tokens = ids(27, 40, 0);
        let lengths = [5, 9, 1];
        let padded = Batch { tokens: &tokens, lengths: &lengths, sequences: 3, length: 9, ..Batch::default() };
        let found = predict(&mut model, &context, padded);
        for (sequence, &length) in lengths.iter().enumerate() {
            let own = &tokens[sequence * 9..][..length as usize];
            let alone = Batch { tokens: own, sequences: 1, length: own.len(), ..Batch::default() };
            let expected = predict(&mut model, &context, alone);
            for (a, b) in found[sequence * 3..][..3].iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{precision}: sequence {sequence}: {a} padded, {b} alone");
            }
        }
        // The padding has no influence on the loss: no gradient reaches its tokens.
        let mut tokens = tokens.clone();
        (5..9).chain(19..27).for_each(|place| tokens[place] = 45);
        let batch = Batch { tokens: &tokens, targets: &[0, 2, 1], ..padded };
        step(&mut model, &context, batch).unwrap();
        let table = model.store.find("bert.embeddings.word_embeddings.weight").unwrap();
        let gradient = model.store.gradient(table);
        assert!(gradient[45 * 32..46 * 32].iter().all(|&g| g == 0.0));
        assert!(gradient[tokens[0] as usize * 32..][..32].iter().any(|&g| g != 0.0));
    }
}

#[test]
fn attention_weights_are_probabilities_of_the_keys_that_count() {
    let context = context(2);
    let mut model = ready(small(Head::None, Precision::Ternary), &context);
    let tokens = ids(22, 50, 1);
    let batch = Batch { tokens: &tokens, lengths: &[11, 7], sequences: 2, length: 11, ..Batch::default() };
    let mut executor = Executor::new(&model.plan, Mode::Generate, 22);
    let store = &mut model.store;
    let (outputs, layers) = executor.predict_with_attention(&model.plan, &context, store, batch).unwrap();
    assert_eq!((outputs.len(), layers.len()), (22 * 32 + 2 * 32, 2));
    for layer in &layers {
        assert_eq!((layer.heads, layer.queries, layer.keys, layer.values.len()), (4, 11, 11, 2 * 4 * 121));
        for (row, weights) in layer.values.chunks(11).enumerate() {
            let counted = if row < 44 { 11 } else { 7 };
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5 && weights.iter().all(|&w| w >= 0.0));
            assert!(weights[counted..].iter().all(|&w| w == 0.0), "row {row}: {weights:?}");
        }
    }
    // Asking changes nothing.
    assert!(executor.predict(&model.plan, &context, store, batch).unwrap() == outputs);
}

/// A batch that suits a head.
fn targets(head: Head) -> (Vec<u32>, Vec<f32>) {
    match head {
        Head::MaskedLanguageModel => (ids(20, 50, 3), vec![]),
        Head::TokenClassification => (ids(20, 3, 3), vec![]),
        Head::SequenceClassification => (vec![2, 0], vec![]),
        Head::SpanExtraction => (vec![1, 4, 0, 9], vec![]),
        _ => (vec![], vec![0.5, -1.0, 2.0, 0.0, 0.25, 1.5]),
    }
}

const HEADS: [Head; 5] = [
    Head::MaskedLanguageModel,
    Head::SequenceClassification,
    Head::Regression,
    Head::TokenClassification,
    Head::SpanExtraction,
];

#[test]
fn gradients_are_the_same_at_every_number_of_threads_and_without_kept_activations() {
    for head in HEADS {
        for (precision, gradient_precision) in
            [(Precision::F32, GradPrecision::F32), (Precision::Ternary, GradPrecision::Int8)]
        {
            let config = ModelConfig { gradient_precision, hidden_dropout: 0.1, ..small(head, precision) };
            let tokens = ids(20, 50, 2);
            let (targets, values) = targets(head);
            let run = |threads: usize, blocks: usize| {
                let context = context(threads);
                let mut model = ready(config.clone(), &context);
                let (sequences, length) = (2, 10);
                let batch = Batch {
                    tokens: &tokens,
                    targets: &targets,
                    values: &values,
                    sequences,
                    length,
                    ..Batch::default()
                };
                let mut executor = Executor::with_checkpoints(&model.plan, blocks, 20);
                let randomness = StepRandomness { seed: 4, step: 7 };
                let loss = executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap();
                assert!(loss.is_finite() && model.store.gradients().iter().all(|g| g.is_finite()));
                (loss.to_bits(), model.store.gradients().to_vec())
            };
            let first = run(1, 0);
            assert!(first == run(2, 0) && first == run(3, 1), "{head:?} {precision}");
        }
    }
}

#[test]
fn attention_drops_in_training_only_and_by_seed() {
    let with =
        |attention_dropout| ModelConfig { attention_dropout, ..small(Head::TokenClassification, Precision::F32) };
    let tokens = ids(40, 50, 2);
    let labels = ids(40, 3, 3);
    let batch = Batch { tokens: &tokens, targets: &labels, sequences: 2, length: 20, ..Batch::default() };
    let loss = |rate: f32, mode: Mode, threads: usize, step: u32| {
        let context = context(threads);
        let mut model = ready(with(rate), &context);
        let randomness = StepRandomness { seed: 1, step };
        let mut executor = Executor::new(&model.plan, mode, 40);
        executor.step(&model.plan, &context, &mut model.store, batch, randomness, 1.0).unwrap()
    };
    let plain = loss(0.0, Mode::Train, 1, 2);
    assert_eq!(plain, loss(0.3, Mode::Evaluate, 1, 2));
    let dropped = loss(0.3, Mode::Train, 1, 2);
    assert!(dropped != plain && dropped != loss(0.3, Mode::Train, 1, 3));
    assert_eq!(dropped, loss(0.3, Mode::Train, 2, 2));
    // What stays is scaled up: over many draws the mean comes near.
    let mean = (0..200).map(|step| loss(0.3, Mode::Train, 1, step)).sum::<f64>() / 200.0;
    assert!((mean / plain - 1.0).abs() < 0.05, "{mean} and {plain}");
}

#[test]
fn a_new_head_keeps_the_encoder() {
    let context = context(1);
    let model = ready(small(Head::MaskedLanguageModel, Precision::Ternary), &context);
    let labels: Vec<String> = ["no", "yes"].map(String::from).to_vec();
    let tuned = model.with_head(Head::SequenceClassification, labels.clone(), 9).unwrap();
    assert_eq!((tuned.config.head, &tuned.config.labels), (Head::SequenceClassification, &labels));
    for id in tuned.store.ids() {
        let name = &tuned.store.spec(id).name;
        let own = model.store.find(name).map(|own| model.store.weight(own));
        assert_eq!(own.is_some(), !name.contains("pooler") && !name.starts_with("classifier"), "{name}");
        assert!(own.is_none_or(|own| own == tuned.store.weight(id)), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    tuned.save(folder.path()).unwrap();
    let again = Model::load(folder.path()).unwrap();
    assert_eq!(again.config, tuned.config);
    assert!(tuned.store.ids().all(|id| tuned.store.weight(id) == again.store.weight(id)));
    assert!(model.with_head(Head::LanguageModel, vec![], 1).unwrap_err().to_string().contains("a head of encoders"));
    let none = model.with_head(Head::TokenClassification, vec![], 1).unwrap_err().to_string();
    assert!(none.starts_with("number of labels"), "{none}");
}

#[test]
fn wrong_batches_are_named() {
    let context = context(1);
    let tokens = ids(20, 50, 2);
    let message = |head: Head, change: fn(&mut Batch<'_>)| {
        let mut model = ready(small(head, Precision::F32), &context);
        let (targets, values) = targets(head);
        let mut batch =
            Batch { tokens: &tokens, targets: &targets, values: &values, sequences: 2, length: 10, ..Batch::default() };
        change(&mut batch);
        step(&mut model, &context, batch).unwrap_err().to_string()
    };
    let classes = Head::SequenceClassification;
    assert!(message(classes, |b| b.lengths = &[3]).contains("lengths"));
    assert!(message(classes, |b| b.lengths = &[3, 11]).contains("expected 1 to 10, found 11"));
    assert!(message(classes, |b| b.lengths = &[0, 3]).contains("expected 1 to 10, found 0"));
    assert!(message(classes, |b| b.token_types = &[1, 0]).contains("token_types"));
    assert!(message(classes, |b| b.token_types = &[2; 20]).contains("token type: expected below type_vocab_size 2"));
    assert!(message(classes, |b| b.targets = &[1]).contains("targets"));
    assert!(message(classes, |b| b.targets = &[1, 3]).contains("below the number of classes 3, found 3"));
    assert!(message(classes, |b| b.targets = &[IGNORED; 2]).contains("not ignored"));
    assert!(message(Head::SpanExtraction, |b| b.targets = &[0, 1, 2, 10]).contains("below the sequence length 10"));
    assert!(message(Head::Regression, |b| b.values = &[1.0]).contains("values"));
    assert!(message(Head::None, |_| ()).contains("head"));
}

#[test]
fn encoders_write_no_text_and_ternary_ones_are_not_exported() {
    let context = context(1);
    let folder = tempfile::tempdir().unwrap();
    let model = ready(small(Head::MaskedLanguageModel, Precision::Ternary), &context);
    model.save(folder.path()).unwrap();
    let refused = open_model(&context, folder.path()).unwrap_err().to_string();
    assert!(refused.contains("a head for the next token"), "{refused}");
    let refused = model.export(&context, &folder.path().join("out"), ExportType::F32).unwrap_err().to_string();
    assert!(refused.contains("no ternary layers for model_type bert"), "{refused}");
    let read = |keys: &str| {
        let text = format!(r#"{{"model_type": "bert", "vocab_size": 9, {keys}}}"#);
        ModelConfig::from_json(&text, Path::new("c.json")).map_err(|error| error.to_string())
    };
    let named = |keys: &str, expected: &str| {
        let found = read(keys).unwrap_err();
        assert!(found.contains(expected), "{keys}: {found}");
    };
    assert_eq!(read(r#""num_labels": 4"#).unwrap().head, Head::MaskedLanguageModel);
    let many = read(r#""architectures": ["BertForTokenClassification"], "id2label": {"1": "B", "0": "A"}"#).unwrap();
    assert_eq!(many.labels, ["A", "B"]);
    let one = read(r#""architectures": ["BertForSequenceClassification"], "num_labels": 1"#).unwrap();
    assert_eq!((one.head, one.hidden_dropout), (Head::Regression, 0.1));
    named(r#""is_decoder": true"#, "is_decoder");
    assert_eq!(read(r#""architectures": ["BertForPreTraining"]"#).unwrap().head, Head::MaskedLanguageModel);
    let alone =
        read(r#""architectures": ["BertModel"], "add_pooling_layer": false, "attention_probs_dropout_prob": 0.3"#);
    let alone = alone.unwrap();
    assert_eq!((alone.head, alone.attention_dropout), (Head::HiddenStates, 0.3));
    assert_eq!(ModelConfig::from_json(&alone.to_json(), Path::new("c.json")).unwrap(), alone);
    named(r#""architectures": ["BertForMultipleChoice"]"#, "architectures: expected BertModel");
    named(r#""attention_probs_dropout_prob": 1.0"#, "attention_dropout");
    named(r#""position_embedding_type": "relative_key""#, "position_embedding_type");
    named(r#""hidden_act": "silu""#, "hidden_act: expected gelu, gelu_new or relu");
    named(r#""architectures": ["BertModel"], "id2label": {"1": "B"}"#, "id2label.0");
    let several = r#""architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification""#;
    named(several, "problem_type");
    named(r#""hidden_dropout_prob": 1.0"#, "hidden_dropout");
}

/// The longest line, and its token for the whole.
const LENGTH: usize = 40;
const WHOLE: u32 = 0;
const MASK: u32 = 1;

/// Lines of this crate's own files with what is to be told of them.
struct Lines {
    head: Head,
    examples: [Vec<(String, u32)>; 2],
}

/// Lines of all files with an ending below a folder.
fn lines_of(folder: &str, ending: &str) -> Vec<String> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) && !path.ends_with("bindings.rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let cut = |line: &str| line.trim().chars().filter(char::is_ascii).take(LENGTH - 1).collect::<String>();
    text.lines().map(cut).filter(|line| line.len() >= 16).collect()
}

impl Lines {
    /// As many lines of C as of Rust, every fifth held out.
    fn new(head: Head) -> Self {
        let (c, rust) = (lines_of("csrc", ".h"), lines_of("src/nn", ".rs"));
        let pairs = c.into_iter().zip(rust).flat_map(|(c, rust)| [(c, 0), (rust, 1)]);
        let (mut training, mut held_out) = (Vec::new(), Vec::new());
        pairs.enumerate().for_each(|(at, line)| if at % 10 < 8 { training.push(line) } else { held_out.push(line) });
        Lines { head, examples: [training, held_out] }
    }

    /// Whether a byte of a line is masked.
    fn is_masked(example: usize, place: usize) -> bool {
        (example * 31 + place * 17).is_multiple_of(7)
    }

    /// What there is to tell of a line: a target or number for its head.
    fn tell(&self, example: usize, (line, language): &(String, u32)) -> (Vec<u32>, Vec<f32>) {
        let bytes = line.as_bytes();
        let of_tokens = |of: &dyn Fn(usize) -> u32| {
            let counted = (0..bytes.len()).map(of);
            let rest = std::iter::repeat_n(IGNORED, LENGTH - 1 - bytes.len());
            std::iter::once(IGNORED).chain(counted).chain(rest).collect::<Vec<u32>>()
        };
        let is_word = |place: usize| bytes[place].is_ascii_alphanumeric() || bytes[place] == b'_';
        match self.head {
            Head::SequenceClassification => (vec![*language], vec![]),
            Head::Regression => (vec![], vec![bytes.iter().filter(|&&b| b == b' ').count() as f32 / 4.0]),
            // Whether a byte is the first of a word.
            Head::TokenClassification => {
                let starts = |place: usize| is_word(place) && (place == 0 || !is_word(place - 1));
                (of_tokens(&|place| starts(place).into()), vec![])
            }
            // The first word of the line.
            Head::SpanExtraction => {
                let first = (0..bytes.len()).find(|&place| is_word(place)).unwrap_or(0);
                let last = (first..bytes.len()).take_while(|&place| is_word(place)).last().unwrap_or(first);
                (vec![first as u32 + 1, last as u32 + 1], vec![])
            }
            _ => {
                let masked = |place| if Self::is_masked(example, place) { bytes[place].into() } else { IGNORED };
                (of_tokens(&masked), vec![])
            }
        }
    }

    /// The loss of a constant answer, the best one for the training lines, on the held-out lines.
    fn baseline(&self) -> f64 {
        let all = |split: usize| {
            let told = self.examples[split].iter().enumerate().map(|(at, line)| self.tell(at, line));
            let (ids, values): (Vec<_>, Vec<_>) = told.unzip();
            (ids, values.concat())
        };
        let ((training, numbers), (held_out, wanted)) = (all(0), all(1));
        if self.head == Head::Regression {
            let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
            return wanted.iter().map(|&value| f64::from(value - mean).powi(2)).sum::<f64>() / wanted.len() as f64;
        }
        // Classes by their frequency; of spans at the first and at the last token apart.
        let roles = if self.head == Head::SpanExtraction { 2 } else { 1 };
        let mut counts = vec![[1f64; 256]; roles];
        let known = |ids: &[u32]| {
            ids.iter()
                .enumerate()
                .filter(|pair| *pair.1 != IGNORED)
                .map(|(at, &id)| (at % roles, id))
                .collect::<Vec<_>>()
        };
        training.iter().flat_map(|ids| known(ids)).for_each(|(role, id)| counts[role][id as usize] += 1.0);
        let wanted: Vec<_> = held_out.iter().flat_map(|ids| known(ids)).collect();
        let loss = |&(role, id): &(usize, u32)| (counts[role].iter().sum::<f64>() / counts[role][id as usize]).ln();
        wanted.iter().map(loss).sum::<f64>() / wanted.len() as f64
    }
}

impl BatchSource for Lines {
    fn examples(&self) -> usize {
        self.examples[0].len()
    }

    fn held_out(&self) -> usize {
        self.examples[1].len()
    }

    fn read(&mut self, split: Split, examples: &[usize], batch: &mut TokenBatch) -> Result<()> {
        batch.targets.clear();
        for (row, &example) in examples.iter().enumerate() {
            let line = &self.examples[usize::from(split == Split::Validation)][example];
            let tokens = &mut batch.tokens[row * LENGTH..][..LENGTH];
            tokens[0] = WHOLE;
            for (place, (token, byte)) in tokens[1..].iter_mut().zip(line.0.bytes()).enumerate() {
                let masked = self.head == Head::MaskedLanguageModel && Self::is_masked(example, place);
                *token = if masked { MASK } else { byte.into() };
            }
            batch.lengths.push(line.0.len() as u32 + 1);
            let (targets, values) = self.tell(example, line);
            batch.targets.extend(targets);
            batch.values.extend(values);
        }
        Ok(())
    }

    fn identity(&self) -> String {
        "lines of this crate".into()
    }
}

/// The loss on held-out lines falls below that of the best constant answer.
#[test]
fn small_real_tasks_are_learned() {
    let cases = [
        (Head::SequenceClassification, Precision::F32, 150, 0.6),
        (Head::SequenceClassification, Precision::Ternary, 150, 0.8),
        (Head::Regression, Precision::F32, 150, 0.5),
        (Head::TokenClassification, Precision::F32, 150, 0.75),
        (Head::SpanExtraction, Precision::F32, 150, 0.6),
        (Head::MaskedLanguageModel, Precision::F32, 500, 0.95),
    ];
    for (head, precision, max_steps, share) in cases {
        let source = Lines::new(head);
        let baseline = source.baseline();
        let model = ModelConfig {
            vocab_size: 256,
            max_position_embeddings: LENGTH,
            initializer_range: 0.05,
            labels: default_labels(if head == Head::Regression { 1 } else { 2 }),
            ..small(head, precision)
        };
        let model = Model::new(model, 1).unwrap();
        let objective = BatchObjective::new(model, Tokenizer::bytes(), source, LENGTH).unwrap();
        let config = TrainConfig { max_steps, base_learning_rate: 3e-3, ..TrainConfig::default() };
        let mut trainer = Trainer::new(context(2), config, objective).unwrap();
        trainer.run().unwrap();
        let found = trainer.evaluate().unwrap().unwrap().val_loss;
        println!("{head:?} {precision}: held-out loss {found:.3}, constant answer {baseline:.3}");
        assert!(found < share * baseline, "{head:?} {precision}: {found} is not below {share} x {baseline}");
    }
}
