//! Lists, decoding, augmentation, built-in scenes, and a deterministic prefetching loader. Knows nothing above it, no
//! device and no loss; what leaves it are batches of bytes on the host, with the colour changes drawn for them.
//!
//! - [`List`], [`Layout`]: from list files to existing files, with checks ([`check_disjoint`]).
//! - [`FolderSource`], [`SceneSource`]: decoded samples by index, behind [`Source`].
//! - [`Augment`]: the weak and strong views of the method; [`resize`] defines their resampling.
//! - [`Loader`]: batches ahead of time, each a pure function of (seed, stream, step).
//! - [`Census`]: what masks hold, and what of it is likely a mistake.
//! - [`survey::survey`] reads a list's files through, [`split::stratified`] chooses labelled ones.
//! - [`voc_family`]: which published family a labelled list of VOC belongs to.
//! - [`Preset`]: classes, names, colours and layout of known data sets.

pub mod augment;
pub mod census;
mod decode;
mod fingerprint;
mod jpeg;
pub mod layout;
pub mod list;
pub mod loader;
mod mask;
mod orientation;
pub mod preset;
pub mod protocol;
pub mod resize;
pub mod scenes;
pub mod source;
pub mod split;
pub mod survey;
mod whole;

pub use augment::Augment;
pub use census::Census;
pub use decode::{RgbImage, check_image, decode_image, decode_upright};
pub use layout::Layout;
pub use list::{List, Masks, check_disjoint};
pub use loader::{HostImages, LabeledBatch, Loader, LoaderSpec, UnlabeledBatch, steps_per_pass};
pub use mask::{Mask, decode_mask};
pub use orientation::ExifMasks;
pub use preset::{Preset, class_names, distinct_palette, voc_color};
pub use protocol::{VocFamily, voc_family};
pub use resize::LabelResize;
pub use scenes::{SCENE_CLASSES, SceneSource, SceneSpec};
pub use source::{FolderOptions, FolderSource, Sample, Source};
