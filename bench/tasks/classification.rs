//! The optimizers on a task of another kind: the sentiment of sentences (GLUE's SST-2) by a ternary encoder, from nothing.
//!
//! ```text
//! cut -f1 TRAIN.tsv > sentences.txt && python bench/experiments/train_tokenizer.py sentences.txt 4096 bpe.json
//! cargo run --release --example classification -- bpe.json TRAIN.tsv DEV.tsv > bench/experiments/classification.md
//! ```
//!
//! Files as GLUE has them: a line of headings, then `sentence TAB 0 or 1`. The encoder is BERT's form, 4 x 128 (512), without
//! dropout (a run reads a quarter of the sentences); sentences are cut at 32 entries.

mod contest;
mod settings;

use contest::Contest;
use hybridq::data::{Split, TokenBatch, Tokenizer};
use hybridq::models::{Head, Model, ModelConfig, preset};
use hybridq::nn::{GradPrecision, Precision};
use hybridq::train::{BatchObjective, BatchSource, Trainer};
use settings::arms;

const STEPS: u64 = 600;
const LENGTH: usize = 32;

/// Tokens and label.
type Sentence = (Vec<u32>, u32);

#[derive(Clone)]
struct Sentences {
    training: Vec<Sentence>,
    held_out: Vec<Sentence>,
}

impl BatchSource for Sentences {
    fn examples(&self) -> usize {
        self.training.len()
    }

    fn held_out(&self) -> usize {
        self.held_out.len()
    }

    fn read(&mut self, split: Split, examples: &[usize], batch: &mut TokenBatch) -> hybridq::Result<()> {
        let sentences = if split == Split::Training { &self.training } else { &self.held_out };
        batch.targets.clear();
        for (row, &example) in batch.tokens.chunks_exact_mut(LENGTH).zip(examples) {
            let (tokens, label) = &sentences[example];
            row[..tokens.len()].copy_from_slice(tokens);
            batch.lengths.push(tokens.len() as u32);
            batch.targets.push(*label);
        }
        Ok(())
    }

    fn identity(&self) -> String {
        format!("sentences {} {}", self.training.len(), self.held_out.len())
    }
}

fn read(path: &str, tokenizer: &Tokenizer) -> hybridq::Result<Vec<Sentence>> {
    let bad = |line: usize| hybridq::Error::invalid(path, "sentence, tab, 0 or 1", format!("another line {line}"));
    let text = std::fs::read_to_string(path).map_err(|error| hybridq::Error::io(path, error))?;
    let sentence = |(index, line): (usize, &str)| {
        let (sentence, label) = line.rsplit_once('\t').ok_or_else(|| bad(index + 1))?;
        let label = label.parse().ok().filter(|&label| label < 2).ok_or_else(|| bad(index + 1))?;
        let mut tokens = tokenizer.encode(sentence)?;
        tokens.truncate(LENGTH);
        Ok((tokens, label))
    };
    let found: hybridq::Result<Vec<Sentence>> = text.lines().enumerate().skip(1).map(sentence).collect();
    Ok(found?.into_iter().filter(|(tokens, _)| !tokens.is_empty()).collect())
}

fn main() -> hybridq::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, training, held_out] = &arguments[..] else {
        return Err(hybridq::Error::invalid("arguments", "TOKENIZER TRAIN.tsv DEV.tsv", arguments.len()));
    };
    let tokenizer = Tokenizer::load(path)?;
    let source = Sentences { training: read(training, &tokenizer)?, held_out: read(held_out, &tokenizer)? };
    let config = ModelConfig {
        vocab_size: tokenizer.vocabulary(),
        hidden_size: 128,
        intermediate_size: 512,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        max_position_embeddings: LENGTH,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        head: Head::SequenceClassification,
        precision: Precision::Ternary,
        gradient_precision: GradPrecision::Int8,
        ..preset("bert")?
    };
    println!("# SST-2, ternary encoder of 4 x 128, {STEPS} steps of 32 sentences\n");
    println!(
        "{} sentences and phrases to train on. Mean cross-entropy in nats of {} others; means of the last five evaluations.\n",
        source.training.len(),
        source.held_out.len()
    );
    let contest = Contest { steps: STEPS, interval: 20, seeds: 5 };
    contest.print(arms(32), |context, run| {
        let model = Model::new(config.clone(), run.seed)?;
        Trainer::new(context, run, BatchObjective::new(model, Tokenizer::load(path)?, source.clone(), LENGTH)?)
    });
    Ok(())
}
