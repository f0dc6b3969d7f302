//! The optimizers on a task of another kind: case and punctuation put back into a text that has lost them, by a ternary decoder.
//!
//! ```text
//! cargo run --release --example tagging -- TEXT > bench/experiments/tagging.md
//! ```
//!
//! The decoder reads bytes, without capitals, line ends or `, . ; : ! ?`, and names of the byte eight before the last one it has
//! seen whether it was a capital and which of those marks followed: fourteen classes. The last tenth of the text is held out.
//! The preset `tiny` with 4 layers of 128 on windows of 128 bytes.

mod contest;
mod settings;

use contest::Contest;
use hybridq::data::{Split, TokenBatch, Tokenizer};
use hybridq::models::{Model, ModelConfig, preset};
use hybridq::nn::GradPrecision;
use hybridq::train::{BatchObjective, BatchSource, Trainer};

const STEPS: u64 = 1000;
const BATCH: usize = 8;
const LENGTH: usize = 128;
const MARKS: &[u8] = b",.;:!?";
/// Bytes read beyond the one whose class is asked for.
const AHEAD: usize = 8;
/// Held-out windows, spread over the last tenth.
const HELD_OUT: usize = 128;

/// A byte and its class.
type Tagged = (u8, u32);

#[derive(Clone)]
struct Text {
    training: Vec<Tagged>,
    held_out: Vec<Tagged>,
}

impl Text {
    fn read(path: &str) -> hybridq::Result<Text> {
        let mut training = tag(&std::fs::read(path).map_err(|error| hybridq::Error::io(path, error))?);
        let held_out = training.split_off(training.len() - training.len() / 10);
        if held_out.len() < HELD_OUT * LENGTH {
            return Err(hybridq::Error::invalid(
                path,
                format!("at least {} bytes without marks", 10 * HELD_OUT * LENGTH),
                training.len() + held_out.len(),
            ));
        }
        Ok(Text { training, held_out })
    }
}

/// The bytes that stay, with twice the number of the mark that followed, or 0, and one more for a capital.
fn tag(text: &[u8]) -> Vec<Tagged> {
    let mut tagged: Vec<Tagged> = Vec::with_capacity(text.len());
    for &byte in text {
        let mark = MARKS.iter().position(|&mark| mark == byte);
        match (mark, tagged.last_mut()) {
            // Of several the first counts.
            (Some(mark), Some((_, class))) if *class < 2 => *class += 2 * (mark as u32 + 1),
            (Some(_), _) => {}
            (None, _) if byte.is_ascii_whitespace() => {
                if tagged.last().is_some_and(|&(last, _)| last != b' ') {
                    tagged.push((b' ', 0));
                }
            }
            (None, _) => tagged.push((byte.to_ascii_lowercase(), u32::from(byte.is_ascii_uppercase()))),
        }
    }
    tagged
}

impl BatchSource for Text {
    fn examples(&self) -> usize {
        (self.training.len() - AHEAD) / LENGTH
    }

    fn held_out(&self) -> usize {
        HELD_OUT
    }

    fn read(&mut self, split: Split, examples: &[usize], batch: &mut TokenBatch) -> hybridq::Result<()> {
        let (text, stride) = match split {
            Split::Training => (&self.training, LENGTH),
            Split::Validation => (&self.held_out, (self.held_out.len() - AHEAD - LENGTH) / (HELD_OUT - 1)),
        };
        let rows = batch.tokens.chunks_exact_mut(LENGTH).zip(batch.targets.chunks_exact_mut(LENGTH));
        for ((tokens, targets), &example) in rows.zip(examples) {
            let window = &text[example * stride..][..AHEAD + LENGTH];
            let pairs = window[AHEAD..].iter().zip(window);
            for ((token, target), (&(byte, _), &(_, class))) in tokens.iter_mut().zip(targets).zip(pairs) {
                (*token, *target) = (u32::from(byte), class);
            }
        }
        Ok(())
    }

    fn identity(&self) -> String {
        format!("tagged bytes {} {}", self.training.len(), self.held_out.len())
    }
}

fn main() -> hybridq::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path] = &arguments[..] else {
        return Err(hybridq::Error::invalid("arguments", "TEXT", arguments.len()));
    };
    let text = Text::read(path)?;
    let config = ModelConfig {
        hidden_size: 128,
        intermediate_size: 512,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        max_position_embeddings: LENGTH,
        gradient_precision: GradPrecision::Int8,
        ..preset("tiny")?
    };
    let mut counts = vec![0f64; 2 * (MARKS.len() + 1)];
    text.held_out.iter().for_each(|&(_, class)| counts[class as usize] += 1.0);
    let shares = counts.iter().filter(|&&count| count > 0.0).map(|count| count / text.held_out.len() as f64);
    println!("# Case and punctuation, ternary decoder of 4 x 128, {STEPS} steps of {BATCH} x {LENGTH} bytes\n");
    println!(
        "{} bytes to learn from. Mean cross-entropy in nats of the classes of {HELD_OUT} x {LENGTH} others ({:.4}: by their frequencies \
         alone); means of the last five evaluations.\n",
        text.training.len(),
        shares.map(|share| -share * share.ln()).sum::<f64>()
    );
    Contest { steps: STEPS, interval: 25, seeds: 5 }.print(settings::arms(BATCH), |context, run| {
        let model = Model::new(config.clone(), run.seed)?;
        Trainer::new(context, run, BatchObjective::new(model, Tokenizer::bytes(), text.clone(), LENGTH)?)
    });
    Ok(())
}
