//! Steps whose work is done late and in another order than that of the calls, as far as branches allow: the
//! same bits. On a GPU branches run at the same time; here the branch that was called last runs first.

use crate::cuda_common::{DTYPES, PLAIN};
use crate::driver_common::emulator;
use crate::step_common::{arch, rehearse, run};
use psmt_fast::Result;
use psmt_fast::backend::cuda::Cuda;
use psmt_fast::backend::cuda::branches::Branch;
use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use psmt_fast::backend::cuda::recording::{Node, Recording, Work};
use psmt_fast::backend::cuda::tensor_map::{TensorMap, TensorMapSpec};
use psmt_fast::ops::Device;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex};

/// The emulator, with a step's work done at its end.
struct Late {
    under: Arc<dyn Driver>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The step under way.
    recording: Option<Recording>,
    /// Given back during the step.
    freed: Vec<(DevicePtr, usize)>,
    /// Work of each step that was done at its end.
    steps: Vec<Vec<Node>>,
    /// Pieces of work that were done before an earlier one.
    overtakings: usize,
}

impl Late {
    /// Records work, or does it at once outside of a step.
    fn work(&self, work: Work) -> Result<()> {
        match &mut self.state.lock().unwrap().recording {
            Some(recording) => recording.push(work),
            None => self.perform(&work)?,
        }
        Ok(())
    }

    fn perform(&self, work: &Work) -> Result<()> {
        match work {
            Work::Launch { kernel, launch, args } => self.under.launch(kernel, *launch, args),
            Work::Copy { from, to, bytes } => self.under.copy(*from, *to, *bytes),
            Work::Clear { ptr, bytes } => self.under.clear(*ptr, *bytes),
        }
    }

    /// Does the work of the step so far, the latest first that waits for nothing.
    fn settle(&self) -> Result<()> {
        let Some(recording) = self.state.lock().unwrap().recording.take() else { return Ok(()) };
        let nodes = recording.nodes();
        let mut missing: Vec<usize> = nodes.iter().map(|n| n.after.len()).collect();
        let mut ready: BinaryHeap<usize> = (0..nodes.len()).filter(|&i| missing[i] == 0).collect();
        let (mut done, mut latest, mut overtaken) = (0, 0, 0);
        while let Some(i) = ready.pop() {
            self.perform(&nodes[i].work)?;
            done += 1;
            overtaken += usize::from(i < latest);
            latest = latest.max(i);
            for (later, node) in nodes.iter().enumerate().skip(i + 1) {
                if node.after.contains(&i) {
                    missing[later] -= 1;
                    if missing[later] == 0 {
                        ready.push(later);
                    }
                }
            }
        }
        assert_eq!(done, nodes.len());
        let mut state = self.state.lock().unwrap();
        state.overtakings += overtaken;
        state.steps.push(nodes.to_vec());
        let freed = std::mem::take(&mut state.freed);
        drop(state);
        freed.into_iter().for_each(|(ptr, bytes)| self.under.free(ptr, bytes));
        Ok(())
    }
}

impl Driver for Late {
    fn name(&self) -> String {
        self.under.name()
    }
    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        self.under.alloc(bytes)
    }
    fn free(&self, ptr: DevicePtr, bytes: usize) {
        let mut state = self.state.lock().unwrap();
        match state.recording {
            Some(_) => state.freed.push((ptr, bytes)),
            None => self.under.free(ptr, bytes),
        }
    }
    fn upload(&self, to: DevicePtr, data: &[u8]) -> Result<()> {
        if self.state.lock().unwrap().recording.is_none() {
            return self.under.upload(to, data);
        }
        let landed = self.under.alloc(data.len())?;
        self.under.upload(landed, data)?;
        self.work(Work::Copy { from: landed, to, bytes: data.len() })?;
        self.free(landed, data.len());
        Ok(())
    }
    fn download(&self, from: DevicePtr, data: &mut [u8]) -> Result<()> {
        self.settle()?;
        self.under.download(from, data)
    }
    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.work(Work::Copy { from, to, bytes })
    }
    fn clear(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.work(Work::Clear { ptr, bytes })
    }
    fn launch(&self, kernel: &Kernel, launch: Launch, args: &Args) -> Result<()> {
        self.work(Work::Launch { kernel: kernel.clone(), launch, args: args.clone() })
    }
    fn synchronize(&self) -> Result<()> {
        self.settle()
    }
    fn has_wgmma(&self) -> bool {
        self.under.has_wgmma()
    }
    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.under.tensor_map(spec)
    }
    fn begin_step(&self, _kind: &'static str) {
        self.state.lock().unwrap().recording = Some(Recording::default());
    }
    fn branch(&self, turn: Branch) {
        if let Some(recording) = &mut self.state.lock().unwrap().recording {
            recording.turn(turn);
        }
    }
    fn end_step(&self) -> Result<()> {
        self.settle()
    }
}

#[test]
fn branches_that_overtake_each_other_change_no_bit() {
    let arch = arch();
    for dtype in DTYPES {
        let Some(under) = emulator(PLAIN) else { return };
        let expected = run(&Cuda::new(under.clone(), dtype), &arch);
        let late = Arc::new(Late { under, state: Mutex::default() });
        let device = Cuda::new(late.clone(), dtype);
        let (planned, _) = device.planned(|twin| rehearse(twin, &arch)).unwrap().unwrap();
        let (got_losses, got) = run(&planned, &arch);
        let (losses, params) = &expected;
        assert_eq!(&got_losses, losses, "{dtype:?}: bits of the losses");
        let first = got.iter().zip(params).position(|(a, b)| a != b);
        assert_eq!(first, None, "{dtype:?}: the first of the student's parameters that differs");

        let state = late.state.lock().unwrap();
        assert!(state.overtakings >= 3 * 2, "{} pieces of work were overtaken", state.overtakings);
        // Later steps differ from one another in numbers alone, and in few of those, so that one graph serves
        // them all.
        let [.., before, last] = state.steps.as_slice() else { panic!("{} steps", state.steps.len()) };
        let like = |(a, b): (&Node, &Node)| a.work.is_like(&b.work) && a.after == b.after;
        assert!(before.len() == last.len() && before.iter().zip(last).all(like));
        let changed = before.iter().zip(last).filter(|(a, b)| a != b).count();
        assert!(changed * 5 < last.len(), "{changed} of {} pieces of work changed", last.len());
    }
}
