//! A run's records as TensorBoard reads them: an event file in the run's folder, written next to
//! `metrics.jsonl` from the same records. Holds the file format only: records of TFRecord (length, checksum,
//! data, checksum) that hold the messages of [`super::event_proto`].

use super::event_proto::{Event, Histogram, Image, START, SessionLog, Summary, SummaryValue};
use crate::{Error, Result};
use prost::Message;
use serde_json::Value;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that is open for writing.
pub(super) struct Events {
    path: PathBuf,
    file: BufWriter<File>,
    /// Seconds that the clock is behind what the folder's older files say.
    behind: f64,
}

impl Events {
    /// A new file in `folder` whose records come from `step` on: TensorBoard drops what older files of the
    /// folder say of later steps. It takes the order of the files from the times in their names, so that
    /// these grow even where the clock was set back.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path, step: u64) -> Result<Events> {
        let now = now();
        let seconds = newest(folder).map_or(now, |newest| now.max(newest));
        let name = |extra: u32| format!("{PREFIX}{:010}.{extra}.psmt-fast", seconds as u64);
        let mut number = 0;
        let (path, file) = loop {
            let path = folder.join(name(number));
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io(&path)(e)),
            }
        };
        let mut events = Events { path, file: BufWriter::new(file), behind: seconds - now };
        events.write(&Event { file_version: Some("brain.Event:2".into()), ..events.event(0) })?;
        events
            .write(&Event { session_log: Some(SessionLog { status: Some(START) }), ..events.event(step) })?;
        Ok(events)
    }

    /// Adds the numbers of a record of `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn record(&mut self, record: &Value) -> Result<()> {
        let mut value = Vec::new();
        match record["kind"].as_str() {
            Some("step") => match record["network"].as_str().filter(|_| record["warm_up"] == true) {
                Some(network) => value.extend(numbers(&format!("warm_up/{network}"), record, &WARM_UP_KEYS)),
                None => value.extend(numbers("train", record, &STEP_KEYS)),
            },
            Some("warm_up") => value.extend(numbers("warm_up", record, &EPOCH_KEYS)),
            Some("epoch") => {
                value.extend(numbers("epoch", record, &EPOCH_KEYS));
                if let Some(counts) = record["confidence_histogram"].as_array() {
                    let counts: Vec<f64> = counts.iter().filter_map(Value::as_f64).collect();
                    value.push(histogram("epoch/confidence", counts));
                }
            }
            Some("validation") => {
                for (what, tag) in [("miou", "mIoU"), ("pixel_accuracy", "pixel_accuracy")] {
                    for (net, number) in record[what].as_object().into_iter().flatten() {
                        value.extend(scalar(format!("{tag}/{net}"), number));
                    }
                }
                for (net, classes) in record["iou"].as_object().into_iter().flatten() {
                    for (class, number) in classes.as_array().into_iter().flatten().enumerate() {
                        value.extend(scalar(format!("iou_{net}/class_{class:02}"), number));
                    }
                }
            }
            _ => return Ok(()),
        }
        self.write_summary(record["step"].as_u64().unwrap_or(0), value)
    }

    /// Adds a picture, a PNG of `size` (rows, columns).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn picture(
        &mut self,
        tag: &str,
        step: u64,
        (rows, columns): (usize, usize),
        png: &[u8],
    ) -> Result<()> {
        let side = |v: usize| i32::try_from(v).ok();
        let image = Image {
            height: side(rows),
            width: side(columns),
            colorspace: Some(3),
            encoded: Some(png.to_vec()),
        };
        let value = SummaryValue { tag: Some(tag.into()), image: Some(image), ..SummaryValue::default() };
        self.write_summary(step, vec![value])
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path))
    }

    fn write_summary(&mut self, step: u64, value: Vec<SummaryValue>) -> Result<()> {
        self.write(&Event { summary: Some(Summary { value }), ..self.event(step) })
    }

    /// An event of now at `step`.
    fn event(&self, step: u64) -> Event {
        Event { wall_time: Some(now() + self.behind), step: Some(step as i64), ..Event::default() }
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let parts: [&[u8]; 4] =
            [&length, &masked_checksum(&length).to_le_bytes(), &data, &masked_checksum(&data).to_le_bytes()];
        parts.iter().try_for_each(|part| self.file.write_all(part)).map_err(Error::io(&self.path))
    }
}

/// How the names of event files begin; seconds since 1970 follow.
const PREFIX: &str = "events.out.tfevents.";
/// Bytes of an event's time with its key.
const TIME: usize = 9;
/// Keys of a step's record.
const STEP_KEYS: [&str; 6] =
    ["loss_sup", "loss_unsup", "lr", "unsup_weight", "pass_rate", "images_per_second"];
/// Keys of a step's record in the warm-up.
const WARM_UP_KEYS: [&str; 3] = ["loss_sup", "lr", "images_per_second"];
/// Keys of an epoch's record.
const EPOCH_KEYS: [&str; 10] = [
    "loss_sup",
    "loss_unsup",
    "train_miou",
    "pseudo_agreement",
    "pseudo_label_miou",
    "pseudo_label_accuracy",
    "pass_rate",
    "images_per_second",
    "data_wait",
    "memory_mib",
];

/// CRC-32C, rotated and shifted as TFRecord wants it.
fn masked_checksum(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A time after every event of the files in `folder`, in seconds since 1970; `None` where there are none.
fn newest(folder: &Path) -> Option<f64> {
    let time = |entry: std::fs::DirEntry| -> Option<f64> {
        let name = entry.file_name();
        let named: u64 = name.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()?;
        Some(last_time(&entry.path()).unwrap_or(0.0).max(named as f64))
    };
    let times = std::fs::read_dir(folder).ok()?.flatten().filter_map(time);
    times.reduce(f64::max).map(|last| last + 1.0)
}

/// The time of the last whole event of a file.
fn last_time(path: &Path) -> Option<f64> {
    let mut file = BufReader::new(File::open(path).ok()?);
    let left = |file: &mut BufReader<File>| -> Option<u64> {
        Some(file.get_ref().metadata().ok()?.len().saturating_sub(file.stream_position().ok()?))
    };
    let mut last = None;
    loop {
        let mut length = [0; 8];
        if file.read_exact(&mut length).is_err() {
            return last;
        }
        // Two checksums of four bytes stand around the data.
        let length = u64::from_le_bytes(length);
        if left(&mut file)? < length.checked_add(8)? {
            return last;
        }
        let mut start = [0; TIME];
        let taken = length.min(TIME as u64) as usize;
        file.seek_relative(4).ok()?;
        file.read_exact(&mut start[..taken]).ok()?;
        file.seek_relative(i64::try_from(length).ok()? - taken as i64 + 4).ok()?;
        // The time is the first field: a key of one byte and eight of the number.
        if taken == TIME && start[0] == 0x09 {
            last = start[1..].try_into().ok().map(f64::from_le_bytes);
        }
    }
}

/// `None` for what is no number.
fn scalar(tag: String, number: &Value) -> Option<SummaryValue> {
    let simple_value = Some(number.as_f64()? as f32);
    Some(SummaryValue { tag: Some(tag), simple_value, ..SummaryValue::default() })
}

fn numbers(group: &str, record: &Value, keys: &[&str]) -> impl Iterator<Item = SummaryValue> {
    keys.iter().filter_map(move |key| scalar(format!("{group}/{key}"), &record[*key]))
}

/// Counts of equal bins over [0, 1], each value at its bin's middle.
fn histogram(tag: &str, counts: Vec<f64>) -> SummaryValue {
    let width = 1.0 / counts.len().max(1) as f64;
    let moment = |power: i32| -> f64 {
        counts.iter().enumerate().map(|(i, n)| n * ((i as f64 + 0.5) * width).powi(power)).sum()
    };
    let histo = Histogram {
        min: Some(0.0),
        max: Some(1.0),
        num: Some(moment(0)),
        sum: Some(moment(1)),
        sum_squares: Some(moment(2)),
        bucket_limit: (1..=counts.len()).map(|i| i as f64 * width).collect(),
        bucket: counts,
    };
    SummaryValue { tag: Some(tag.into()), histo: Some(histo), ..SummaryValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The records of a file, checksums compared.
    fn read(path: &Path) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let sum = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(sum(8), masked_checksum(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(sum(12 + length), masked_checksum(data));
            records.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        records
    }

    fn contains(record: &[u8], part: &[u8]) -> bool {
        record.windows(part.len()).any(|w| w == part)
    }

    #[test]
    fn records_become_events() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::create(dir.path(), 300).unwrap();
        events
            .record(&json!({"kind": "step", "step": 300, "loss_sup": 0.25, "lr": 0.1, "epoch": 1}))
            .unwrap();
        let counts = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let epoch = json!({"kind": "epoch", "step": 300, "train_miou": 0.5, "confidence_histogram": counts});
        events.record(&epoch).unwrap();
        let scores = json!({"kind": "validation", "step": 300, "miou": {"student": 0.5}, "iou": {"student": [0.5, null]}});
        events.record(&scores).unwrap();
        events.picture("validation", 300, (2, 3), b"png").unwrap();
        events.flush().unwrap();
        // A second file of the same second has another name.
        let path = events.path.clone();
        assert_ne!(Events::create(dir.path(), 0).unwrap().path, path);

        let records = read(&path);
        assert_eq!(records.len(), 6);
        assert!(contains(&records[0], b"brain.Event:2"));
        // Field 2, step 300 as a varint; field 7, a message that says START.
        assert!(records[1..].iter().all(|r| contains(r, &[0x10, 0xac, 0x02])));
        assert!(contains(&records[1], &[0x3a, 2, 8, 1]));
        let mut loss = b"train/loss_sup".to_vec();
        loss.push(0x15);
        loss.extend(0.25f32.to_le_bytes());
        assert!(contains(&records[2], &loss) && !contains(&records[2], b"pass_rate"));
        assert!(contains(&records[3], b"epoch/confidence") && contains(&records[3], &36f64.to_le_bytes()));
        assert!(contains(&records[4], b"iou_student/class_00") && !contains(&records[4], b"class_01"));
        assert!(contains(&records[5], b"png"));
    }

    #[test]
    fn files_are_in_order_where_the_clock_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::create(dir.path(), 0).unwrap();
        // As written by a clock that is a day ahead.
        let ahead = now() + 86_400.0;
        events.behind = 86_400.0;
        events.record(&json!({"kind": "step", "step": 7, "lr": 0.1})).unwrap();
        events.flush().unwrap();
        std::fs::write(dir.path().join(format!("{PREFIX}x")), "no number").unwrap();
        let mut torn = std::fs::read(&events.path).unwrap();
        torn.extend([200, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
        std::fs::write(&events.path, torn).unwrap();

        let mut resumed = Events::create(dir.path(), 8).unwrap();
        resumed.flush().unwrap();
        assert!(resumed.path > events.path, "{:?} {:?}", resumed.path, events.path);
        assert!(last_time(&resumed.path).unwrap() > ahead);
        assert!((last_time(&events.path).unwrap() - ahead).abs() < 60.0);
        let third = Events::create(dir.path(), 9).unwrap();
        assert!(third.path > resumed.path);
    }

    #[test]
    fn checksums_are_those_of_tfrecord() {
        // CRC-32C of "123456789" is e3069283 (RFC 3720's check value).
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_checksum(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
