//! Batches ahead of time: the order of samples, their augmentation in parallel, and a thread that keeps a few batches
//! ready. Knows sources and augmentation; nothing of devices or of what the batches are for.
//!
//! The batch of step s is a pure function of (seed, stream, s): its place j is position p = s · batch + j of an endless
//! sequence, made of one shuffle of the source after the other; the augmentation is keyed by p. So any step can be made
//! again alone, on any number of threads, and a resumed run sees what an uninterrupted one would have.

use super::augment::{Augment, Normalize, Workspace};
use super::source::{Sample, Source};
use crate::ops::Shape;
use crate::rng::{Domain, Key};
use crate::{Error, Result};
use rayon::prelude::*;
use std::cell::RefCell;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Normalised images on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostImages {
    /// Three channels.
    pub shape: Shape,
    /// NHWC.
    pub data: Vec<f32>,
}

impl HostImages {
    fn zeros(n: usize, [h, w]: [usize; 2]) -> HostImages {
        let shape = Shape::new(n, h, w, 3);
        HostImages { shape, data: vec![0.0; shape.len()] }
    }
}

/// Weakly augmented images with labels.
#[derive(Clone, Debug, PartialEq)]
pub struct LabeledBatch {
    /// `[batch, crop, 3]`.
    pub images: HostImages,
    /// `[batch, crop]`, 255 is ignored.
    pub labels: Vec<u8>,
    /// Which samples of the source these are.
    pub indices: Vec<usize>,
}

/// Two views of each image with the same geometry.
#[derive(Clone, Debug, PartialEq)]
pub struct UnlabeledBatch {
    /// `[batch, crop, 3]`, for the teachers.
    pub weak: HostImages,
    /// `[batch, crop, 3]`, for the student.
    pub strong: HostImages,
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
    /// Images a batch.
    pub batch: usize,
    /// Both views.
    pub augment: Augment,
    /// Colours to network input.
    pub normalize: Normalize,
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

impl Loader<LabeledBatch> {
    /// Weak views with labels.
    ///
    /// # Errors
    /// [`Error::Config`] for bad settings, [`Error::Usage`] for a source that is empty or lacks masks.
    pub fn labeled(source: Arc<dyn Source>, spec: LoaderSpec) -> Result<Loader<LabeledBatch>> {
        if !source.has_masks() {
            return Err(Error::Usage("a labelled source needs a mask for every image".into()));
        }
        let prefetch = spec.prefetch;
        let plan = Plan::new(source, spec)?;
        Ok(Loader { make: Arc::new(move |step| plan.labeled(step)), prefetch, running: None })
    }

    /// The batch of the next step, see [`Loader::next`].
    pub fn next_labeled(&mut self) -> Result<LabeledBatch> {
        self.next()
    }
}

impl Loader<UnlabeledBatch> {
    /// Weak and strong views; masks of the source are not looked at.
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
        spec.normalize.validate()?;
        if spec.batch == 0 {
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

    /// Position in the endless sequence and sample, for each place of a batch.
    fn positions(&self, step: u64) -> Vec<(u64, usize)> {
        let len = self.source.len() as u64;
        let first = step * self.spec.batch as u64;
        (first..first + self.spec.batch as u64)
            .map(|p| (p, self.order(p / len)[(p % len) as usize] as usize))
            .collect()
    }

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

    fn labeled(&self, step: u64) -> Result<LabeledBatch> {
        let LoaderSpec { augment, normalize, batch, .. } = &self.spec;
        let places = self.positions(step);
        let mut images = HostImages::zeros(*batch, augment.crop);
        let pixels = augment.crop[0] * augment.crop[1];
        let mut labels = vec![0; batch * pixels];
        let results: Vec<Result<()>> = places
            .par_iter()
            .zip(images.data.par_chunks_exact_mut(pixels * 3).zip(labels.par_chunks_exact_mut(pixels)))
            .map(|(&(p, i), (image, labels))| {
                let sample = self.source.load(i)?;
                let mask = sample.mask.as_ref().ok_or_else(|| missing_mask(&sample))?;
                let geometry =
                    augment.geometry(sample.image.size, &mut self.key(Domain::Augment, p).stream());
                WORK.with_borrow_mut(|work| {
                    augment.sample(&sample.image, &geometry, work)?;
                    augment.write_weak(&geometry, normalize, work, image);
                    augment.write_labels(mask, &geometry, work, labels)
                })
            })
            .collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(LabeledBatch { images, labels, indices: places.into_iter().map(|(_, i)| i).collect() })
    }

    fn unlabeled(&self, step: u64) -> Result<UnlabeledBatch> {
        let LoaderSpec { augment, normalize, batch, .. } = &self.spec;
        let places = self.positions(step);
        let mut weak = HostImages::zeros(*batch, augment.crop);
        let mut strong = HostImages::zeros(*batch, augment.crop);
        let values = augment.crop[0] * augment.crop[1] * 3;
        let results: Vec<Result<()>> = places
            .par_iter()
            .zip(weak.data.par_chunks_exact_mut(values).zip(strong.data.par_chunks_exact_mut(values)))
            .map(|(&(p, i), (weak, strong))| {
                let sample = self.source.load(i)?;
                let mut rng = self.key(Domain::Augment, p).stream();
                let geometry = augment.geometry(sample.image.size, &mut rng);
                let colors = augment.strong(&mut rng);
                WORK.with_borrow_mut(|work| {
                    augment.sample(&sample.image, &geometry, work)?;
                    augment.write_weak(&geometry, normalize, work, weak);
                    augment.write_strong(&geometry, &colors, normalize, work, strong);
                    Ok(())
                })
            })
            .collect();
        results.into_iter().collect::<Result<()>>()?;
        Ok(UnlabeledBatch { weak, strong, indices: places.into_iter().map(|(_, i)| i).collect() })
    }
}

fn missing_mask(sample: &Sample) -> Error {
    Error::data(Path::new(&sample.name), "expected a mask for this labelled image")
}

/// One whole image for evaluation, with its undistorted pixels and its mask.
#[derive(Clone, Debug)]
pub struct WholeImage {
    /// `[1, rows, columns, 3]`, normalised.
    pub images: HostImages,
    /// Pixels, mask and name.
    pub sample: Arc<Sample>,
}

/// Sample `i` whole, normalised, without augmentation.
///
/// # Errors
/// Those of the source.
pub fn load_whole(source: &dyn Source, i: usize, normalize: &Normalize) -> Result<WholeImage> {
    let sample = source.load(i)?;
    let (h, w) = sample.image.size;
    let mut images = HostImages::zeros(1, [h, w]);
    normalize.apply(&sample.image.data, &mut images.data);
    Ok(WholeImage { images, sample })
}
