//! The messages of a TensorBoard event file that we write (field numbers: TensorFlow's `event.proto` and
//! `summary.proto`). Values have presence, so that a zero is written too. Must not know runs.

/// What happened at a time and step.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, optional, tag = "1")]
    pub wall_time: Option<f64>,
    #[prost(int64, optional, tag = "2")]
    pub step: Option<i64>,
    /// Set in the file's first event only.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    pub session_log: Option<SessionLog>,
}

/// A program's start.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionLog {
    #[prost(int32, optional, tag = "1")]
    pub status: Option<i32>,
}

/// [`SessionLog::status`] of a start.
pub(super) const START: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<SummaryValue>,
}

/// One of number, picture and histogram, by name.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SummaryValue {
    #[prost(string, optional, tag = "1")]
    pub tag: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    pub image: Option<Image>,
    #[prost(message, optional, tag = "5")]
    pub histo: Option<Histogram>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Image {
    #[prost(int32, optional, tag = "1")]
    pub height: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub width: Option<i32>,
    /// Number of channels.
    #[prost(int32, optional, tag = "3")]
    pub colorspace: Option<i32>,
    /// A PNG.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub encoded: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Histogram {
    #[prost(double, optional, tag = "1")]
    pub min: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub max: Option<f64>,
    /// Number of values, their sum and that of their squares.
    #[prost(double, optional, tag = "3")]
    pub num: Option<f64>,
    #[prost(double, optional, tag = "4")]
    pub sum: Option<f64>,
    #[prost(double, optional, tag = "5")]
    pub sum_squares: Option<f64>,
    /// Upper ends of the bins.
    #[prost(double, repeated, tag = "6")]
    pub bucket_limit: Vec<f64>,
    /// Values in each.
    #[prost(double, repeated, tag = "7")]
    pub bucket: Vec<f64>,
}
