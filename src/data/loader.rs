//! Batches ahead of time: the order of samples, the geometry of their augmentation in parallel, and a thread that keeps a
//! few batches ready. Knows sources and augmentation; nothing of devices or of what the batches are for.
//!
//! Batch s is a pure function of (seed, stream, s): passes over the source follow one another, each in an order of its own and
//! of whole optimiser steps alone, what is left of a pass stays out of it; the augmentation of place j is keyed by
//! s · batch + j. So any batch can be made again alone, on any number of threads, and a resumed run sees what an uninterrupted
//! one would have.

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
    /// Three channels.
    pub shape: Shape,
    /// NHWC.
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

/// One view of images with labels.
#[derive(Clone, Debug, PartialEq)]
pub struct LabeledBatch {
    /// `[batch, crop, 3]`.
    pub images: HostImages,
    /// The strong view's changes of each image; `None` for the weak view.
    pub strong: Option<Vec<Strong>>,
    /// `[batch, crop]`, 255 is ignored.
    pub labels: Vec<u8>,
    /// Which samples of the source these are.
    pub indices: Vec<usize>,
}

/// Two views of each image with the same geometry.
#[derive(Clone, Debug, PartialEq)]
pub struct UnlabeledBatch {
    /// `[batch, crop, 3]`: as they are for the teachers.
    pub images: HostImages,
    /// What the student sees changed in each.
    pub strong: Vec<Strong>,
    /// `[batch, crop]`, 255 where an image has no mask; `None` where none of the source has. To measure with, not to learn from.
    pub labels: Option<Vec<u8>>,
    /// Which samples of the source these are.
    pub indices: Vec<usize>,
}

/// What decides a loader's batches, and how many it keeps ready.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderSpec {
    /// The run's seed.
    pub seed: u64,
    /// Tells the loaders of one run apart.
    pub stream: u16,
    /// Images of a batch.
    pub batch: usize,
    /// Batches of one optimiser step.
    pub batches_per_step: usize,
    /// Both views.
    pub augment: Augment,
    /// Batches that wait, 2 to 4; about as many again are being made and used.
    pub prefetch: usize,
}

/// A deterministic prefetching loader of one kind of batch. Made by [`Loader::labeled`] or [`Loader::unlabeled`]; `next`
/// starts at step 0 unless [`Loader::start`] was called. Dropping it ends its thread.
pub struct Loader<T> {
    make: Arc<dyn Fn(u64) -> Result<T> + Send + Sync>,
    prefetch: usize,
    running: Option<Running<T>>,
}

/// How long a rayon worker that waits sleeps between looks for tasks.
const IDLE: Duration = Duration::from_micros(200);

struct Running<T> {
    batches: Receiver<Result<T>>,
    thread: JoinHandle<()>,
}

/// Optimiser steps of `images` images each in one pass over a source of `len` images: full steps only. A source of fewer images
/// than one step takes makes a step all the same, in which its images occur several times.
pub fn steps_per_pass(len: usize, images: usize) -> u64 {
    (len / images.max(1)).max(1) as u64
}

impl Loader<LabeledBatch> {
    /// One view of images with their labels.
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

    /// The batch of the next step, see [`Loader::next`].
    pub fn next_labeled(&mut self) -> Result<LabeledBatch> {
        self.next()
    }
}

impl Loader<UnlabeledBatch> {
    /// Weak and strong views. Masks of the source decide nothing, and are handed out as [`UnlabeledBatch::labels`].
    ///
    /// # Errors
    /// As [`Loader::labeled`].
    pub fn unlabeled(source: Arc<dyn Source>, spec: LoaderSpec) -> Result<Loader<UnlabeledBatch>> {
        let prefetch = spec.prefetch;
        let plan = Plan::new(source, spec)?;
        Ok(Loader { make: Arc::new(move |step| plan.unlabeled(step)), prefetch, running: None })
    }

    /// The batch of the next step, see [`Loader::next`].
    pub fn next_unlabeled(&mut self) -> Result<UnlabeledBatch> {
        self.next()
    }
}

impl<T: Send + 'static> Loader<T> {
    /// The batch of `step`, made here and now.
    ///
    /// # Errors
    /// Those of the source.
    pub fn batch(&self, step: u64) -> Result<T> {
        (self.make)(step)
    }

    /// Starts over at `from_step`: a thread begins to make batches, [`Loader::next`] gives them in order.
    ///
    /// # Errors
    /// [`Error::Io`] when the system has no thread left.
    pub fn start(&mut self, from_step: u64) -> Result<()> {
        self.stop();
        let (send, batches) = sync_channel(self.prefetch.max(1));
        let make = self.make.clone();
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || produce(&*make, &send, from_step))
            .map_err(Error::io("loader thread"))?;
        self.running = Some(Running { batches, thread });
        Ok(())
    }

    /// The batch of the next step; waits until it is ready.
    ///
    /// # Errors
    /// What went wrong in making it. The loader stops at the first error; [`Loader::start`] begins again.
    #[allow(clippy::should_implement_trait)] // fails instead of ending
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
    /// Ends the thread, after the batch that it is at.
    fn stop(&mut self) {
        if let Some(Running { batches, thread }) = self.running.take() {
            // With the receiver gone its next send fails.
            drop(batches);
            // As in `receive`: the batch that it is at may need this very worker.
            while !thread.is_finished() {
                match rayon::yield_now() {
                    None => break,
                    Some(rayon::Yield::Executed) => {}
                    Some(rayon::Yield::Idle) => std::thread::sleep(IDLE),
                }
            }
            // A panic in there was already reported by the panic hook, and there is no batch to hand out.
            let _ = thread.join();
        }
    }
}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes batches until one fails or nobody listens.
fn produce<T>(make: &dyn Fn(u64) -> Result<T>, send: &SyncSender<Result<T>>, from_step: u64) {
    for step in from_step.. {
        let batch = make(step);
        let failed = batch.is_err();
        if send.send(batch).is_err() || failed {
            return;
        }
    }
}

/// Waits for a batch; `None` when the thread is gone. On a rayon worker the wait lends a hand to rayon's own tasks,
/// for with one worker the batch would otherwise never be made.
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

/// Everything that a batch is a function of.
struct Plan {
    source: Arc<dyn Source>,
    spec: LoaderSpec,
    /// The order of the epoch that was last asked for.
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

    /// Step bits of a random key: the stream in the high 16 bits.
    fn key(&self, domain: Domain, number: u64) -> Key {
        Key::new(self.spec.seed, domain, u64::from(self.spec.stream) << 48 | number)
    }

    /// Number of the augmentation's key and sample, for each place of batch `number`.
    fn positions(&self, number: u64) -> Vec<(u64, usize)> {
        let LoaderSpec { batch, batches_per_step, .. } = self.spec;
        let (len, batch, per_step) = (self.source.len() as u64, batch as u64, batches_per_step as u64);
        let batches = per_step * steps_per_pass(self.source.len(), self.spec.batch * batches_per_step);
        let (pass, within) = (number / batches, number % batches);
        // One order serves a pass, several where a step takes more images than there are.
        let orders = (batches * batch).div_ceil(len);
        (0..batch)
            .map(|j| {
                let place = within * batch + j;
                let order = self.order(pass * orders + place / len);
                (number * batch + j, order[(place % len) as usize] as usize)
            })
            .collect()
    }

    /// The order number `epoch` of the source's samples.
    fn order(&self, epoch: u64) -> Arc<Vec<u32>> {
        let mut kept = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((at, order)) if *at == epoch => order.clone(),
            _ => {
                let mut order: Vec<u32> = (0..self.source.len() as u32).collect();
                self.key(Domain::Shuffle, epoch).stream().shuffle(&mut order);
                let order = Arc::new(order);
                *kept = Some((epoch, order.clone()));
                order
            }
        }
    }

    fn labeled(&self, number: u64, view: View) -> Result<LabeledBatch> {
        let LoaderSpec { augment, batch, .. } = &self.spec;
        let places = self.positions(number);
        let [h, w] = augment.crop;
        let (mut data, mut labels) = (vec![0; batch * h * w * 3], vec![0; batch * h * w]);
        let drawn: Vec<Result<(Box2d, Strong)>> = places
            .par_iter()
            .zip(data.par_chunks_exact_mut(h * w * 3).zip(labels.par_chunks_exact_mut(h * w)))
            .map(|(&(p, i), (image, labels))| {
                let sample = self.source.load(i)?;
                let mask = sample.mask.as_ref().ok_or_else(|| missing_mask(&sample))?;
                let mut rng = self.key(Domain::Augment, p).stream();
                let geometry = augment.geometry(sample.image.size, &mut rng);
                WORK.with_borrow_mut(|work| {
                    augment.write_image(&sample.image, &geometry, work, image)?;
                    augment.write_labels(mask, &geometry, work, labels)
                })?;
                Ok((augment.shown(&geometry), augment.strong(&mut rng)))
            })
            .collect();
        let (shown, strong) = drawn.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let images = HostImages { shape: Shape::new(*batch, h, w, 3), data, shown };
        let strong = (view == View::Strong).then_some(strong);
        Ok(LabeledBatch { images, strong, labels, indices: places.into_iter().map(|(_, i)| i).collect() })
    }

    fn unlabeled(&self, number: u64) -> Result<UnlabeledBatch> {
        let LoaderSpec { augment, batch, .. } = &self.spec;
        let places = self.positions(number);
        let [h, w] = augment.crop;
        let mut data = vec![0; batch * h * w * 3];
        let mut labels = (self.source.num_masks() > 0).then(|| vec![IGNORE; batch * h * w]);
        let mut crops: Vec<Option<&mut [u8]>> = match &mut labels {
            Some(labels) => labels.chunks_exact_mut(h * w).map(Some).collect(),
            None => (0..*batch).map(|_| None).collect(),
        };
        let drawn: Vec<Result<(Box2d, Strong)>> = places
            .par_iter()
            .zip(data.par_chunks_exact_mut(h * w * 3).zip(crops.par_iter_mut()))
            .map(|(&(p, i), (image, labels))| {
                let sample = self.source.load(i)?;
                let mut rng = self.key(Domain::Augment, p).stream();
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
        let indices = places.into_iter().map(|(_, i)| i).collect();
        Ok(UnlabeledBatch { images, strong, labels, indices })
    }
}

fn missing_mask(sample: &Sample) -> Error {
    Error::data(Path::new(&sample.name), "expected a mask for this labelled image")
}
