//! Prefetching of batches: the order of samples, the geometry of their augmentation in parallel, and a thread
//! that keeps a few batches ready. Must not know devices or what the batches are for.
//!
//! Batch s is a pure function of (seed, stream, s). Passes over the source follow one another, each in its
//! own order; a pass has whole optimiser steps only and drops the remaining images. The augmentation of image
//! j of batch s is keyed by s · batch + j. So any batch can be made again by itself, on any number of
//! threads, and a resumed run sees the batches that an uninterrupted one would have seen.

use super::augment::{Augment, Workspace};
use super::source::{Sample, Source};
use crate::ops::{Box2d, IGNORE, Shape, Size, Strong, View};
use crate::rng::{Domain, Key};
use crate::{Error, Result};
use rayon::prelude::*;
use std::cell::RefCell;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// 8-bit images on the host, for [`crate::ops::upload_images`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostImages {
    /// `[n, h, w, 3]`.
    pub shape: Shape,
    /// One byte per channel, NHWC.
    pub data: Vec<u8>,
    /// The part of each image that is not padding.
    pub shown: Vec<Box2d>,
}

impl HostImages {
    /// Images of one size without padding: `data` is `[n, size, 3]`.
    pub fn whole(n: usize, (h, w): Size, data: Vec<u8>) -> HostImages {
        HostImages { shape: Shape::new(n, h, w, 3), data, shown: vec![[0, 0, h, w]; n] }
    }
}

/// Images in one view, with labels.
#[derive(Clone, Debug, PartialEq)]
pub struct LabeledBatch {
    /// `[batch, crop, 3]`.
    pub images: HostImages,
    /// The colour changes of each image; `None` for the weak view.
    pub strong: Option<Vec<Strong>>,
    /// `[batch, crop]`, 255 is ignored.
    pub labels: Vec<u8>,
    /// Indices of the samples in the source.
    pub indices: Vec<usize>,
}

/// Images in both views, with the same geometry.
#[derive(Clone, Debug, PartialEq)]
pub struct UnlabeledBatch {
    /// `[batch, crop, 3]`: the weak view, for the teachers.
    pub images: HostImages,
    /// The colour changes of each image in the strong view, for the student.
    pub strong: Vec<Strong>,
    /// `[batch, crop]`, 255 where an image has no mask; `None` if no image of the source has one. To measure
    /// with, not to learn from.
    pub labels: Option<Vec<u8>>,
    /// Indices of the samples in the source.
    pub indices: Vec<usize>,
}

/// Settings of a loader.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderSpec {
    /// The run's seed.
    pub seed: u64,
    /// Number of the loader within the run: loaders of different streams draw independently.
    pub stream: u16,
    /// Images per batch.
    pub batch: usize,
    /// Batches per optimiser step.
    pub batches_per_step: usize,
    /// Augmentation of both views.
    pub augment: Augment,
    /// Batches that are kept ready, 2 to 4; about as many again are being made or used.
    pub prefetch: usize,
}

/// A deterministic prefetching loader of one kind of batch. Made by [`Loader::labeled`] or
/// [`Loader::unlabeled`]; `next` starts at batch 0 unless [`Loader::start`] was called. Dropping it ends its
/// thread.
pub struct Loader<T> {
    make: Arc<dyn Fn(u64) -> Result<T> + Send + Sync>,
    prefetch: usize,
    running: Option<Running<T>>,
}

/// How long a rayon worker that waits sleeps before it looks for tasks again.
const IDLE: Duration = Duration::from_micros(200);

struct Running<T> {
    batches: Receiver<Result<T>>,
    thread: JoinHandle<()>,
}

/// Optimiser steps of `images` images each in one pass over a source of `len` images: full steps only, but at
/// least one. Where one step takes more images than there are, images occur in it several times.
pub fn steps_per_pass(len: usize, images: usize) -> u64 {
    (len / images.max(1)).max(1) as u64
}

impl Loader<LabeledBatch> {
    /// A loader of images in one view, with their labels.
    ///
    /// # Errors
    /// [`Error::Config`] for bad settings, [`Error::Usage`] for a source that is empty or lacks masks.
    pub fn labeled(source: Arc<dyn Source>, spec: LoaderSpec, view: View) -> Result<Loader<LabeledBatch>> {
        if !source.has_masks() {
            return Err(Error::Usage("a labelled source needs a mask for every image".into()));
        }
        let prefetch = spec.prefetch;
        let plan = Plan::new(source, spec)?;
        Ok(Loader { make: Arc::new(move |number| plan.labeled(number, view)), prefetch, running: None })
    }
}

impl Loader<UnlabeledBatch> {
    /// A loader of images in both views. Masks of the source do not affect them and become
    /// [`UnlabeledBatch::labels`].
    ///
    /// # Errors
    /// [`Error::Config`] for bad settings, [`Error::Usage`] for a source that is empty.
    pub fn unlabeled(source: Arc<dyn Source>, spec: LoaderSpec) -> Result<Loader<UnlabeledBatch>> {
        let prefetch = spec.prefetch;
        let plan = Plan::new(source, spec)?;
        Ok(Loader { make: Arc::new(move |number| plan.batch(number, false)), prefetch, running: None })
    }
}

impl<T: Send + 'static> Loader<T> {
    /// Batch `number`, made on the calling thread and rayon's.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub fn batch(&self, number: u64) -> Result<T> {
        (self.make)(number)
    }

    /// Starts a thread that makes batches from number `first` on; [`Loader::next`] returns them in order.
    ///
    /// # Errors
    /// [`Error::Io`] when the system has no thread left.
    pub fn start(&mut self, first: u64) -> Result<()> {
        self.stop();
        let (send, batches) = sync_channel(self.prefetch.max(1));
        let make = self.make.clone();
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || produce(&*make, &send, first))
            .map_err(Error::io("loader thread"))?;
        self.running = Some(Running { batches, thread });
        Ok(())
    }

    /// The next batch; waits until it is ready.
    ///
    /// # Errors
    /// As [`Source::load`]. The loader stops at the first error; [`Loader::start`] starts it again.
    #[allow(clippy::should_implement_trait)] // an iterator would end where this fails
    pub fn next(&mut self) -> Result<T> {
        if self.running.is_none() {
            self.start(0)?;
        }
        match self.running.as_ref().map(|r| receive(&r.batches)) {
            Some(Some(batch)) => batch,
            _ => Err(Error::data("loader", "stopped after an earlier error")),
        }
    }
}

impl<T> Loader<T> {
    /// Ends the thread, after the batch that it is making.
    fn stop(&mut self) {
        if let Some(Running { batches, thread }) = self.running.take() {
            // Its next send then fails.
            drop(batches);
            // As in `receive`: the batch that it is making may need this rayon worker.
            while !thread.is_finished() {
                match rayon::yield_now() {
                    None => break,
                    Some(rayon::Yield::Executed) => {}
                    Some(rayon::Yield::Idle) => std::thread::sleep(IDLE),
                }
            }
            // A panic of the thread was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes batches until one fails or the receiver is dropped.
fn produce<T>(make: &dyn Fn(u64) -> Result<T>, send: &SyncSender<Result<T>>, first: u64) {
    for number in first.. {
        let batch = make(number);
        let failed = batch.is_err();
        if send.send(batch).is_err() || failed {
            return;
        }
    }
}

/// Waits for a batch; `None` when the thread has ended. A rayon worker executes other tasks while it waits:
/// with one worker, the batch would otherwise never be made.
fn receive<T>(batches: &Receiver<T>) -> Option<T> {
    loop {
        match rayon::yield_now() {
            None => return batches.recv().ok(),
            Some(rayon::Yield::Executed) => match batches.try_recv() {
                Ok(batch) => return Some(batch),
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return None,
            },
            Some(rayon::Yield::Idle) => match batches.recv_timeout(IDLE) {
                Ok(batch) => return Some(batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        }
    }
}

/// Everything that a batch depends on besides its number.
struct Plan {
    source: Arc<dyn Source>,
    spec: LoaderSpec,
    /// The order that was used last, by its number.
    order: Mutex<Option<(u64, Arc<Vec<u32>>)>>,
}

thread_local! {
    static WORK: RefCell<Workspace> = RefCell::default();
}

impl Plan {
    fn new(source: Arc<dyn Source>, spec: LoaderSpec) -> Result<Plan> {
        spec.augment.validate()?;
        if spec.batch == 0 || spec.batches_per_step == 0 {
            return Err(Error::config("loader", "batch: expected at least one image, got 0"));
        }
        if source.is_empty() || u32::try_from(source.len()).is_err() {
            return Err(Error::Usage(format!(
                "expected a source of 1 to 2^32 - 1 images, got {}",
                source.len()
            )));
        }
        Ok(Plan { source, spec, order: Mutex::new(None) })
    }

    /// A random key of this loader: the stream is in the high 16 bits of its step.
    fn key(&self, domain: Domain, number: u64) -> Key {
        Key::new(self.spec.seed, domain, u64::from(self.spec.stream) << 48 | number)
    }

    /// For each image of batch `number`, the number of its augmentation's key and its index in the source.
    fn positions(&self, number: u64) -> Vec<(u64, usize)> {
        let LoaderSpec { batch, batches_per_step, .. } = self.spec;
        let (len, batch, per_step) = (self.source.len() as u64, batch as u64, batches_per_step as u64);
        let batches = per_step * steps_per_pass(self.source.len(), self.spec.batch * batches_per_step);
        let (pass, within) = (number / batches, number % batches);
        // A pass uses one order, or several where a step takes more images than there are.
        let orders = (batches * batch).div_ceil(len);
        (0..batch)
            .map(|j| {
                let place = within * batch + j;
                let order = self.order(pass * orders + place / len);
                (number * batch + j, order[(place % len) as usize] as usize)
            })
            .collect()
    }

    /// Order `number` of the source's samples.
    fn order(&self, number: u64) -> Arc<Vec<u32>> {
        let mut kept = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((at, order)) if *at == number => order.clone(),
            _ => {
                let mut order: Vec<u32> = (0..self.source.len() as u32).collect();
                self.key(Domain::Shuffle, number).stream().shuffle(&mut order);
                let order = Arc::new(order);
                *kept = Some((number, order.clone()));
                order
            }
        }
    }

    fn labeled(&self, number: u64, view: View) -> Result<LabeledBatch> {
        let UnlabeledBatch { images, strong, labels, indices } = self.batch(number, true)?;
        let strong = (view == View::Strong).then_some(strong);
        Ok(LabeledBatch { images, strong, labels: labels.unwrap_or_default(), indices })
    }

    /// Batch `number`, with labels where the source has any; if `need_masks`, an image without a mask is an
    /// error.
    fn batch(&self, number: u64, need_masks: bool) -> Result<UnlabeledBatch> {
        let LoaderSpec { augment, batch, .. } = &self.spec;
        let positions = self.positions(number);
        let [h, w] = augment.crop;
        let mut data = vec![0; batch * h * w * 3];
        let has_labels = need_masks || self.source.num_masks() > 0;
        let mut labels = has_labels.then(|| vec![IGNORE; batch * h * w]);
        let mut crops: Vec<Option<&mut [u8]>> = match &mut labels {
            Some(labels) => labels.chunks_exact_mut(h * w).map(Some).collect(),
            None => (0..*batch).map(|_| None).collect(),
        };
        let drawn: Vec<Result<(Box2d, Strong)>> = positions
            .par_iter()
            .zip(data.par_chunks_exact_mut(h * w * 3).zip(crops.par_iter_mut()))
            .map(|(&(key, i), (image, labels))| {
                let sample = self.source.load(i)?;
                if need_masks && sample.mask.is_none() {
                    return Err(missing_mask(&sample));
                }
                let mut rng = self.key(Domain::Augment, key).stream();
                let geometry = augment.geometry(sample.image.size, &mut rng);
                WORK.with_borrow_mut(|work| {
                    augment.write_image(&sample.image, &geometry, work, image)?;
                    match (&sample.mask, labels) {
                        (Some(mask), Some(labels)) => augment.write_labels(mask, &geometry, work, labels),
                        _ => Ok(()),
                    }
                })?;
                Ok((augment.shown(&geometry), augment.strong(&mut rng)))
            })
            .collect();
        let (shown, strong) = drawn.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let images = HostImages { shape: Shape::new(*batch, h, w, 3), data, shown };
        let indices = positions.into_iter().map(|(_, i)| i).collect();
        Ok(UnlabeledBatch { images, strong, labels, indices })
    }
}

fn missing_mask(sample: &Sample) -> Error {
    Error::data(Path::new(&sample.name), "expected a mask for this labelled image")
}
