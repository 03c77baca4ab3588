//! What operators see: layers, every error with its origin and remedy, and the three generated texts.

mod documents;
mod errors;
mod layers;
mod rules;

use std::path::Path;

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The layers together; the file is called `penstock.toml`.
fn load(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    merge(Some((Path::new("penstock.toml"), text)), pairs(env).into_iter(), &pairs(flags), None)
}

fn config(text: &str) -> Config {
    load(text, &[], &[]).unwrap().config
}

/// Every error, one a line.
fn errors(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    load(text, env, flags).expect_err("there are errors").to_string()
}
