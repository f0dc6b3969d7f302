//! Merges and scores: two ways to say which neighbours become one token first.
#![forbid(unsafe_code)]

use std::collections::HashMap;

/// Longer tokens are no words (the work below grows with the square of the length).
const MAX_TOKEN_BYTES: usize = 1024;

/// A score for each token, higher for those made earlier, by merges "a b" in order; `None` if merges that make the same
/// token do not follow each other: no scores tell that.
pub(super) fn scores_of_merges(tokens: &[String], merges: &[String]) -> Option<Vec<f32>> {
    let mut rank: HashMap<String, usize> = HashMap::new();
    let mut last = String::new();
    for merge in merges {
        let made: String = merge.split(' ').collect();
        if made != last {
            let next = rank.len() + 1;
            if rank.insert(made.clone(), next).is_some() {
                return None;
            }
            last = made;
        }
    }
    // What is never made has the lowest score.
    let lowest = rank.len() + 1;
    Some(tokens.iter().map(|token| -(rank.get(token).copied().unwrap_or(lowest) as f32)).collect())
}

/// Merges in order of the scores of what they make: every cut of a token into two tokens. `is_word`: which tokens are
/// made by merging. Error: a token that is too long.
pub(super) fn merges_of_scores(
    tokens: &[String],
    scores: &[f32],
    is_word: impl Fn(usize) -> bool,
) -> Result<Vec<[String; 2]>, String> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|&(id, _)| is_word(id)) {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(format!("a token of {} bytes, at most {MAX_TOKEN_BYTES} are expected", token.len()));
        }
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                merges.push((id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then((a.0, a.1, a.2).cmp(&(b.0, b.1, b.2))));
    Ok(merges.into_iter().map(|(_, left, right)| [tokens[left].clone(), tokens[right].clone()]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_become_scores_and_merges_again() {
        let tokens: Vec<String> = ["a", "b", "c", "ab", "abc", "bc"].map(String::from).to_vec();
        let merges: Vec<String> = ["b c", "a b", "a bc", "ab c"].map(String::from).to_vec();
        let scores = scores_of_merges(&tokens, &merges).unwrap();
        assert_eq!(scores, [-4.0, -4.0, -4.0, -2.0, -3.0, -1.0]);
        let back: Vec<String> =
            merges_of_scores(&tokens, &scores, |_| true).unwrap().iter().map(|m| m.join(" ")).collect();
        assert_eq!(back, merges);
        let apart: Vec<String> = ["a bc", "a b", "ab c"].map(String::from).to_vec();
        assert_eq!(scores_of_merges(&tokens, &apart), None);
        assert!(merges_of_scores(&["x".repeat(2000)], &[0.0], |_| true).unwrap_err().contains("2000 bytes"));
    }
}
