//! n-gram baselines against hand-computed cases and an obvious reference.

use std::collections::BTreeMap;

use hybridq::data::NgramBaselines;
use hybridq::tensor::RandomStream;

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-12 * (1.0 + b.abs())
}

/// "abab...": 10 times each, so after an `a` always `b` (10 times), after a `b` always `a` (9 times). All predictions on
/// the held-out "ab" are right, so the least smoothing wins.
#[test]
fn an_alternating_text() {
    let k = 0.0001f64;
    let baselines = NgramBaselines::measure(&b"ab".repeat(10), b"abab").unwrap();
    let smoothed = |count: f64, context: f64| -((count + k) / (context + 256.0 * k)).ln();
    assert!(close(baselines.unigram, smoothed(10.0, 20.0)), "{baselines:?}");
    assert!(close(baselines.bigram, (smoothed(10.0, 10.0) + smoothed(9.0, 9.0)) / 2.0), "{baselines:?}");
    assert!(close(baselines.trigram, smoothed(9.0, 9.0)), "{baselines:?}");
    assert!(baselines.interpolated > 0.0 && baselines.interpolated < 1e-5, "{baselines:?}");
}

/// Bytes never seen in training: order n gives `k / (count(context) + 256 k)`.
#[test]
fn bytes_never_seen() {
    let baselines = NgramBaselines::measure(&b"ab".repeat(10), b"xyz").unwrap();
    let k = 0.0001f64;
    assert!(close(baselines.unigram, -(k / (20.0 + 256.0 * k)).ln()));
    assert!(close(baselines.bigram, 256f64.ln()), "the context y was never seen: uniform");
    assert!(close(baselines.trigram, 256f64.ln()));
    assert!(baselines.interpolated.is_finite() && baselines.interpolated > 256f64.ln());
}

#[test]
fn too_little_text_is_an_error() {
    assert!(NgramBaselines::measure(b"ab", b"abc").unwrap_err().to_string().starts_with("training text"));
    assert!(NgramBaselines::measure(b"abc", b"").unwrap_err().to_string().starts_with("validation text"));
    assert!(NgramBaselines::measure(b"abc", b"abc").is_ok());
}

/// Counts of strings, and of strings as contexts.
type Tables = (BTreeMap<Vec<u8>, f64>, BTreeMap<Vec<u8>, f64>);

/// Counts of every string of 1 to 3 bytes in `text[range]` (with what stands before it), and as contexts.
fn count(text: &[u8], end: usize) -> Tables {
    let (mut strings, mut contexts) = (BTreeMap::new(), BTreeMap::new());
    for at in 0..end {
        for n in 1..=3.min(at + 1) {
            let string = &text[at + 1 - n..=at];
            *strings.entry(string.to_vec()).or_default() += 1.0;
            *contexts.entry(string[..n - 1].to_vec()).or_default() += 1.0;
        }
    }
    (strings, contexts)
}

fn mean_loss(text: &[u8], from: usize, probability: impl Fn(&[u8]) -> f64) -> f64 {
    (from..text.len()).map(|at| -probability(&text[at - 2..=at]).ln()).sum::<f64>() / (text.len() - from) as f64
}

#[test]
fn an_obvious_reference_agrees() {
    let mut stream = RandomStream::new(5, 0, 0, 0);
    let mut text = vec![0u8, 0];
    for at in 2..4000 {
        // A text with structure: mostly a function of the two bytes before, sometimes anything of six letters.
        let noise = stream.below(6) as u8;
        text.push(if stream.below(4) > 0 { (text[at - 1] * 2 + text[at - 2]) % 6 } else { noise });
    }
    let (training, validation) = text.split_at(3000);
    let held_out = 2700;
    let smoothed = |tables: &Tables, order: usize, k: f64, s: &[u8]| {
        let get = |map: &BTreeMap<Vec<u8>, f64>, key: &[u8]| map.get(key).copied().unwrap_or(0.0);
        let s = &s[3 - order..];
        (get(&tables.0, s) + k) / (get(&tables.1, &s[..order - 1]) + 256.0 * k)
    };
    let (part, all) = (count(training, held_out), count(training, training.len()));
    let expected = |order| {
        let losses = [1.0, 0.1, 0.01, 0.001, 0.0001]
            .map(|k| (mean_loss(training, held_out, |s| smoothed(&part, order, k, s)), k));
        let best = losses.into_iter().reduce(|a, b| if b.0 < a.0 { b } else { a }).unwrap().1;
        mean_loss(validation, 2, |s| smoothed(&all, order, best, s))
    };
    let found = NgramBaselines::measure(training, validation).unwrap();
    assert!(close(found.unigram, expected(1)) && close(found.bigram, expected(2)), "{found:?}");
    assert!(close(found.trigram, expected(3)), "{found:?}");

    // Interpolation: the weights found on the held-out text come near the best of a grid, chosen on the validation text.
    let orders = |tables: &Tables, s: &[u8]| {
        let mut p = [1.0 / 256.0; 4];
        for order in 1..=3 {
            let s = &s[3 - order..];
            let context = tables.1.get(&s[..order - 1]).copied().unwrap_or(0.0);
            p[order] = if context > 0.0 { tables.0.get(s).copied().unwrap_or(0.0) / context } else { p[order - 1] };
        }
        p
    };
    let mut best = f64::INFINITY;
    for a in 0..=10 {
        for b in 0..=10 - a {
            for c in 0..=10 - a - b {
                let w = [10 - a - b - c, a, b, c].map(|tenths| f64::from(tenths) / 10.0 + 1e-6);
                let mix = |s: &[u8]| orders(&all, s).iter().zip(w).map(|(p, w)| p * w).sum::<f64>();
                best = best.min(mean_loss(validation, 2, mix));
            }
        }
    }
    assert!(found.interpolated < best + 0.01, "{found:?}, the grid reaches {best}");
    assert!(found.interpolated > best - 0.05 && found.trigram < found.unigram, "{found:?}, the grid reaches {best}");
}
