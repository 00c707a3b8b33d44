//! Published settings by name: what the authors of PS-MT trained with, and the mIoU they report (their
//! repository's read-me and scripts; Liu et al., CVPR 2022). Lists of images come from the user. Knows keys
//! and numbers only.

use super::load::Overrides;
use crate::data::VocFamily;

/// One published setting.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// As on the command line.
    pub name: &'static str,
    /// Which lists it is for.
    pub lists: Lists,
    /// Number of labelled images.
    pub labeled: usize,
    /// Epochs, of one pass over the unlabelled images each.
    pub epochs: u32,
    /// Weight of the unsupervised loss.
    pub unsup_weight: f64,
    /// What was reported: backbone and mIoU in percent; nothing where the setting is its neighbour's.
    pub published: &'static [(&'static str, f64)],
}

/// A family of lists, with what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// Pascal VOC 2012 with the augmented masks, lists of CPS (Chen et al., 2021).
    VocAugmented,
    /// The same, labelled images of the high-quality masks first.
    VocBlender,
    /// Pascal VOC 2012, labelled images of VOC's own `train.txt`.
    VocHighQuality,
    /// Cityscapes as in CAC (Lai et al., 2021): crops of 720, cross entropy.
    CityscapesCe,
    /// Cityscapes as in CPS: crops of 800, OHEM.
    CityscapesOhem,
}

impl Lists {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Lists::VocAugmented => "VOC 2012 augmented, CPS lists",
            Lists::VocBlender => "VOC 2012 blender lists",
            Lists::VocHighQuality => "VOC 2012 high quality",
            Lists::CityscapesCe => "Cityscapes, 720, CE",
            Lists::CityscapesOhem => "Cityscapes, 800, OHEM",
        }
    }

    /// What the labelled images of such lists look like, of VOC.
    pub fn family(self) -> Option<VocFamily> {
        match self {
            Lists::VocAugmented => Some(VocFamily::Augmented),
            Lists::VocBlender | Lists::VocHighQuality => Some(VocFamily::HighQuality),
            Lists::CityscapesCe | Lists::CityscapesOhem => None,
        }
    }
}

const fn recipe(
    name: &'static str,
    lists: Lists,
    labeled: usize,
    epochs: u32,
    unsup_weight: f64,
    published: &'static [(&'static str, f64)],
) -> Recipe {
    Recipe { name, lists, labeled, epochs, unsup_weight, published }
}

/// T-VAT of the published runs, at its published xi of 1e-6: in single precision its noise has almost no
/// length (`docs/method.md`). The figures belong to it; the exact form has none.
pub const PUBLISHED_TVAT: &str = "finite-difference";

const R50: &str = "resnet50";
const R101: &str = "resnet101";

use Lists::*;

/// All published settings.
pub const RECIPES: [Recipe; 21] = [
    recipe("voc-662", VocAugmented, 662, 80, 1.5, &[(R50, 72.83), (R101, 75.50)]),
    recipe("voc-1323", VocAugmented, 1323, 80, 1.5, &[(R50, 75.70), (R101, 78.20)]),
    recipe("voc-2646", VocAugmented, 2646, 200, 1.5, &[(R50, 76.43), (R101, 78.72)]),
    recipe("voc-5291", VocAugmented, 5291, 300, 1.5, &[(R50, 77.88), (R101, 79.76)]),
    recipe("voc-blender-662", VocBlender, 662, 80, 1.5, &[(R101, 78.79)]),
    recipe("voc-blender-1323", VocBlender, 1323, 80, 1.5, &[(R101, 80.29)]),
    recipe("voc-blender-2646", VocBlender, 2646, 200, 1.5, &[(R101, 80.66)]),
    recipe("voc-blender-5291", VocBlender, 5291, 300, 1.5, &[(R101, 80.87)]),
    recipe("voc-hq-92", VocHighQuality, 92, 80, 0.06, &[(R101, 65.80)]),
    recipe("voc-hq-183", VocHighQuality, 183, 80, 0.6, &[(R101, 69.58)]),
    recipe("voc-hq-366", VocHighQuality, 366, 80, 0.6, &[(R101, 76.57)]),
    recipe("voc-hq-732", VocHighQuality, 732, 80, 0.6, &[(R101, 78.42)]),
    // Its epochs and weight were not published; these are its neighbour's.
    recipe("voc-hq-1464", VocHighQuality, 1464, 80, 0.6, &[(R101, 80.01)]),
    // No setting was published for 186 images; these are those for 372.
    recipe("cityscapes-ce-186", CityscapesCe, 186, 320, 3.0, &[]),
    recipe("cityscapes-ce-372", CityscapesCe, 372, 320, 3.0, &[(R50, 75.76), (R101, 76.89)]),
    recipe("cityscapes-ce-744", CityscapesCe, 744, 450, 3.0, &[(R50, 76.92), (R101, 77.60)]),
    recipe("cityscapes-ce-1488", CityscapesCe, 1488, 550, 3.0, &[(R50, 77.64), (R101, 79.09)]),
    recipe("cityscapes-ohem-186", CityscapesOhem, 186, 320, 3.0, &[]),
    recipe("cityscapes-ohem-372", CityscapesOhem, 372, 320, 3.0, &[(R50, 77.12)]),
    recipe("cityscapes-ohem-744", CityscapesOhem, 744, 450, 3.0, &[(R50, 78.38)]),
    recipe("cityscapes-ohem-1488", CityscapesOhem, 1488, 550, 3.0, &[(R50, 79.22)]),
];

impl Recipe {
    /// The setting of that name.
    pub fn by_name(name: &str) -> Option<&'static Recipe> {
        RECIPES.iter().find(|r| r.name == name)
    }

    /// Labelled images per step of all cards together, and as many unlabelled ones.
    pub fn batch_size(&self) -> i64 {
        if self.preset() == "voc" { 32 } else { 8 }
    }

    /// Learning rate of that batch.
    pub fn lr(&self) -> f64 {
        if self.preset() == "voc" { 1e-2 } else { 4.5e-3 }
    }

    /// Side of the crops.
    pub fn crop(&self) -> i64 {
        match self.lists {
            CityscapesCe => 720,
            CityscapesOhem => 800,
            _ => 512,
        }
    }

    fn preset(&self) -> &'static str {
        if matches!(self.lists, CityscapesCe | CityscapesOhem) { "cityscapes" } else { "voc" }
    }

    /// Sets its keys where nothing is set.
    pub fn apply(&self, over: &mut Overrides) {
        over.set_default("data.preset", self.preset());
        over.set_default("augment.crop", vec![self.crop(); 2]);
        over.set_default("optim.batch_size", self.batch_size());
        over.set_default("optim.lr", self.lr());
        over.set_default("schedule.train_epochs", i64::from(self.epochs));
        over.set_default("method.unsup_weight", self.unsup_weight);
        over.set_default("method.tvat", PUBLISHED_TVAT);
        over.set_default("augment.label_resize", "nearest-floor");
        over.set_default("model.pretrained_networks", "student");
        if self.preset() == "cityscapes" {
            self.evaluate_cityscapes(over);
            let loss = if self.lists == CityscapesOhem { "ohem" } else { "ce" };
            over.set_default("optim.supervised_loss", loss);
        } else if over.get("eval.window").and_then(|w| w.as_integer()).is_none_or(|w| w == 0) {
            over.set_default("eval.multiple", 8);
        }
    }

    /// The published mIoU of Cityscapes is teacher 1's, of logits added up over windows of 800, those of
    /// crops of 720 too.
    fn evaluate_cityscapes(&self, over: &mut Overrides) {
        over.set_default("eval.window", 800);
        over.set_default("eval.overlap", "logits");
        if over.get("method.algorithm").and_then(|a| a.as_str()) != Some("supervised") {
            over.set_default("eval.network", "teacher1");
        }
        over.set_default("run.val_every", 10);
        over.set_default("run.val_all_from", 0.75);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::load;
    use crate::config::{EvalConfig, PretrainedNetworks, RunConfig};
    use crate::data::LabelResize;
    use crate::eval::{Overlap, Which};
    use crate::method::Tvat;
    use crate::ops::View;

    #[test]
    fn every_recipe_is_a_valid_configuration() {
        for r in &RECIPES {
            let mut over = Overrides::default();
            r.apply(&mut over);
            let c = load(None, &over, None).unwrap();
            crate::config::validate(&c).unwrap();
            assert_eq!((c.method.tvat, c.method.tvat_xi), (Tvat::FiniteDifference, 1e-6));
            let published = (LabelResize::NearestFloor, PretrainedNetworks::Student);
            assert_eq!((c.augment.label_resize, c.model.pretrained_networks), published);
            assert_eq!((c.method.warm_up_passes, c.method.labeled_view), (5, View::Strong));
            assert_eq!(
                (c.schedule.train_epochs, c.method.unsup_weight),
                (u64::from(r.epochs), r.unsup_weight)
            );
            assert!(r.name.ends_with(&format!("-{}", r.labeled)), "{}", r.name);
            assert_eq!(Recipe::by_name(r.name).unwrap().name, r.name);
        }
    }

    #[test]
    fn what_is_given_wins() {
        let mut over = Overrides::default();
        over.set("optim.lr", 0.5);
        RECIPES[0].apply(&mut over);
        let c = load(None, &over, None).unwrap();
        assert_eq!((c.optim.lr, c.optim.batch_size, c.augment.crop), (0.5, 32, [512, 512]));
    }

    fn resolved(name: &str, given: &[&str]) -> RunConfig {
        let mut over = Overrides::default();
        given.iter().for_each(|text| over.assign(text).unwrap());
        Recipe::by_name(name).unwrap().apply(&mut over);
        load(None, &over, None).unwrap()
    }

    #[test]
    fn validation_is_as_released() {
        let eval = |c: &RunConfig| (c.eval.window, c.eval.overlap, c.eval.multiple, c.eval.network);
        for r in &RECIPES {
            let c = resolved(r.name, &[]);
            let (expected, schedule) = match r.preset() {
                "voc" => ((0, Overlap::Probabilities, 8, None), (1, 1.0)),
                _ => ((800, Overlap::Logits, 0, Some(Which::Teacher1)), (10, 0.75)),
            };
            assert_eq!(eval(&c), expected, "{}", r.name);
            assert_eq!((c.run.val_every, c.run.val_all_from), schedule, "{}", r.name);
        }
        // Presets alone have neither form.
        for preset in ["voc", "cityscapes"] {
            let mut over = Overrides::default();
            over.set("data.preset", preset);
            let c = load(None, &over, None).unwrap();
            let window = c.eval.window;
            assert_eq!(c.eval, EvalConfig { window, batch_size: c.eval.batch_size, ..EvalConfig::default() });
            assert_eq!((c.run.val_every, c.run.val_all_from), (1, 1.0));
        }
    }

    #[test]
    fn what_is_given_of_validation_wins() {
        let c = resolved("voc-662", &["eval.window=512"]);
        assert_eq!((c.eval.window, c.eval.multiple), (512, 0));
        let name = "cityscapes-ce-372";
        let c = resolved(name, &["eval.window=0", "eval.network=ensemble", "run.val_every=1"]);
        assert_eq!((c.eval.window, c.eval.network, c.run.val_every), (0, Some(Which::Ensemble), 1));
        // A supervised run has no teachers, and its student decides.
        let c = resolved(name, &["method.algorithm=supervised"]);
        crate::config::validate(&c).unwrap();
        assert_eq!(c.eval.decides(c.method.algorithm), Which::Student);
        let c = resolved(name, &["method.algorithm=mean-teacher"]);
        crate::config::validate(&c).unwrap();
        assert_eq!(c.eval.network, Some(Which::Teacher1));
    }
}
