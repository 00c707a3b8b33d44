//! The algorithms that a run may train by, and what follows from the choice for whoever does not compute
//! their steps.

use serde::{Deserialize, Serialize};

/// What a run trains: the method or one of the baselines that the paper compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Two teachers, confidence-weighted cross entropy, T-VAT.
    PsMt,
    /// The same with teacher 1 alone.
    OneTeacher,
    /// Teacher 1 alone, mean squared error between probabilities (Tarvainen and Valpola, 2017).
    MeanTeacher,
    /// Labelled images only.
    Supervised,
}

impl Algorithm {
    /// Number of teachers, which answer on unlabelled images.
    pub fn num_teachers(self) -> usize {
        match self {
            Algorithm::PsMt => 2,
            Algorithm::OneTeacher | Algorithm::MeanTeacher => 1,
            Algorithm::Supervised => 0,
        }
    }

    /// Whether the student learns from unlabelled images.
    pub fn learns_unlabeled(self) -> bool {
        match self {
            Algorithm::PsMt | Algorithm::OneTeacher | Algorithm::MeanTeacher => true,
            Algorithm::Supervised => false,
        }
    }

    /// Whether the student learns from labels of which those with enough confidence pass; the mean teacher's
    /// loss reads probabilities instead.
    pub fn has_pseudo_labels(self) -> bool {
        match self {
            Algorithm::PsMt | Algorithm::OneTeacher => true,
            Algorithm::MeanTeacher | Algorithm::Supervised => false,
        }
    }
}
