//! Data sets: lists, decoding, augmentation, built-in scenes, and a deterministic prefetching loader. Must
//! not know devices, losses or anything above. Its results are batches of bytes on the host, with the colour
//! changes drawn for them.
//!
//! - [`List`], [`Layout`]: from list files to existing files, with checks ([`check_disjoint`]).
//! - [`FolderSource`], [`SceneSource`]: decoded samples by index, behind [`Source`].
//! - [`Augment`]: the weak and strong views of the method; [`resize`] defines their resampling.
//! - [`Loader`]: batches ahead of time, each a pure function of (seed, stream, number).
//! - [`Census`]: what masks hold, and what of it is likely a mistake.
//! - [`survey::survey`] checks a list's files completely, [`split::stratified`] chooses labelled ones.
//! - [`voc_family`]: which published family a labelled list of VOC belongs to.
//! - [`Preset`]: classes, names, colours and layout of known data sets.

mod augment;
pub mod census;
mod decode;
mod fingerprint;
mod jpeg;
mod layout;
pub mod list;
mod loader;
mod mask;
mod orientation;
mod pixels;
mod preset;
mod protocol;
pub mod resize;
mod scenes;
mod source;
pub mod split;
pub mod survey;
mod whole;

pub use augment::{Augment, Geometry};
pub use census::Census;
pub use decode::{check_image, decode_image, decode_upright};
pub use layout::Layout;
pub use list::{List, Masks, check_disjoint};
pub use loader::{HostImages, LabeledBatch, Loader, LoaderSpec, UnlabeledBatch, steps_per_pass};
pub use mask::decode_mask;
pub use orientation::ExifMasks;
pub use pixels::{Mask, RgbImage};
pub use preset::{Preset, class_names, distinct_palette};
pub use protocol::{VocFamily, voc_family};
pub use resize::LabelResize;
pub use scenes::{SceneSource, SceneSpec};
pub use source::{FolderOptions, FolderSource, Sample, Source};
