//! Holds text back while it may be the beginning of a stop string.
#![forbid(unsafe_code)]

use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct StopFilter<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopFilter<'a> {
    /// Error: an empty stop string.
    pub fn new(stops: &'a [String]) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::invalid("stop", "a text of at least one character", "\"\""));
        }
        Ok(StopFilter { stops, held: String::new() })
    }

    /// Adds a piece; gives the text that is now certain to be shown, and whether a stop string was found (the text ends
    /// before it). Of several, the one that begins first counts, as soon as any is complete.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        // The earliest place from which the rest is the beginning of a stop string.
        let may_stop = |&at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let hold = self.held.char_indices().map(|(at, _)| at).find(may_stop).unwrap_or(self.held.len());
        let rest = self.held.split_off(hold);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is still held back when the text ends.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut filter = StopFilter::new(&stops).unwrap();
        let mut shown = String::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            shown += &text;
            if stopped {
                return (shown, true);
            }
        }
        (shown + &filter.finish(), false)
    }

    #[test]
    fn stop_strings_may_span_pieces() {
        assert_eq!(run(&["END"], &["abc E", "N", "D rest"]), ("abc ".into(), true));
        assert_eq!(run(&["END"], &["abc E", "N", "EEND"]), ("abc ENE".into(), true));
        assert_eq!(run(&["END"], &["abc E", "N"]), ("abc EN".into(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(run(&["\n\n", "é!"], &["é", "é", "!"]), ("é".into(), true));
        assert_eq!(run(&["xyz", "bc"], &["abcxyz"]), ("a".into(), true));
        assert_eq!(run(&[], &["anything"]), ("anything".into(), false));
        assert!(StopFilter::new(&[String::new()]).is_err());
    }

    proptest! {
        /// However a text is cut, no part of a stop string is shown.
        #[test]
        fn cuts_do_not_matter(text in "[abé]{0,24}", stop in "[abé]{1,4}", cuts in prop::collection::vec(0..25usize, 0..8)) {
            let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| ends[cut % ends.len()]).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let expected = text.find(&stop).map_or((text.clone(), false), |at| (text[..at].to_string(), true));
            prop_assert_eq!(run(&[&stop], &pieces), expected);
        }
    }
}
