#![no_main]
//! Any text as a `config.json`: what is accepted comes back from its own text.

use std::path::Path;

use hybridq::models::ModelConfig;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(config) = ModelConfig::from_json(text, Path::new("config.json")) {
        let again = ModelConfig::from_json(&config.to_json(), Path::new("config.json")).unwrap();
        assert_eq!(config, again);
    }
});
