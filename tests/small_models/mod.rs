//! What tests of whole small models begin with.
#![allow(dead_code)] // a test takes what it needs

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::models::{Model, ModelConfig};

pub fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

/// A random model, quantized where it is.
pub fn ready(config: ModelConfig, context: &Context) -> Model {
    let mut model = Model::new(config, 3).unwrap();
    model.store.quantize(context).unwrap();
    model
}

/// Token ids below `limit`.
pub fn ids(count: usize, limit: usize, salt: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 7 + i * 3 + salt) % limit) as u32).collect()
}
