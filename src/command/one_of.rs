//! Options with a fixed choice of words, each with its meaning.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command};
use std::ffi::OsStr;

/// Words and what they mean; other words are refused with the list of choices.
#[derive(Clone, Copy, Debug)]
pub struct OneOf<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        word: &OsStr,
    ) -> Result<T, clap::Error> {
        let words = PossibleValuesParser::new(self.0.iter().map(|(word, _)| *word));
        let word = words.parse_ref(command, argument, word)?;
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(&word));
        Ok(found.expect("the word was checked to be one of these").1.clone())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|(word, _)| PossibleValue::new(*word))))
    }
}
