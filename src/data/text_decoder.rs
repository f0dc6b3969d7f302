//! Ids to text as they come, whole characters only.
#![forbid(unsafe_code)]

use super::tokenizer::Tokenizer;

/// Turns ids into text as they come, never a part of a character: [`Tokenizer::decoder`].
#[derive(Debug)]
pub struct TextDecoder<'a> {
    tokenizer: &'a Tokenizer,
    strip_blank: bool,
    pending: Vec<u8>,
}

impl<'a> TextDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, strip_blank: bool) -> Self {
        TextDecoder { tokenizer, strip_blank, pending: Vec::new() }
    }

    /// Adds an id and gives the characters that are now complete. A byte that no continuation can make valid becomes
    /// U+FFFD at once, a character that may still be completed is held back.
    pub fn push(&mut self, id: u32) -> String {
        let length = self.pending.len();
        self.tokenizer.append_bytes(id, &mut self.pending);
        if self.strip_blank && self.pending.len() > length {
            self.strip_blank = false;
            if self.pending[length] == b' ' {
                self.pending.remove(length);
            }
        }
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(invalid) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + invalid);
                }
            }
        }
    }

    /// The rest: a character that was never completed becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
