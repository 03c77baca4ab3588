//! What is wrong with a rules file, a device group or a file of readings, and where. Pure.

use std::fmt;

/// One thing that is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Counted from 1; 0 if the file as a whole is meant.
    pub line: usize,
    /// What was found and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// Everything that is wrong with a file and the files that it names, one problem a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct RulesError {
    problems: Vec<Problem>,
    left_off: usize,
}

impl RulesError {
    /// Problems beyond this many are only counted.
    pub const SHOWN_MAX: usize = 100;

    /// The problems, from the top of the file to its end.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many there are, those that are only counted included.
    pub fn len(&self) -> usize {
        self.problems.len() + self.left_off
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn push(&mut self, file: &str, line: usize, message: String) {
        if self.problems.len() < Self::SHOWN_MAX {
            self.problems.push(Problem { file: file.to_owned(), line, message });
        } else {
            self.left_off += 1;
        }
    }

    /// In the order of lines: a parser goes by keys, people read from top to bottom.
    pub(crate) fn sort(&mut self) {
        self.problems.sort_by_key(|problem| problem.line);
    }
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        match self.left_off {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}
