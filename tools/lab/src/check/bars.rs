//! How far a right result may be off: the largest relative error that passes, by op, tensor and precision.
//! `docs/precision.md` has the reasons and what PyTorch is off by on the same files.

/// Largest relative error of a float32 result on a device that computes in float32, where nothing else is
/// said.
pub const DEFAULT_TOLERANCE: f64 = 1e-4;

/// The same on a device that keeps activations in bf16 (8 bits of mantissa).
pub const BF16_TOLERANCE: f64 = 2e-2;

/// Error of a gradient in float32 that has passed one unit of a small network that rounding has carried to
/// the other side of its kink.
const FLIP: f64 = 2e-3;

/// The bar of a tensor that right implementations of bf16 miss by more than its own size: its error is
/// printed, and it must be finite, no more.
pub const UNJUDGED: f64 = f64::INFINITY;

/// By what results are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bars {
    /// One relative error for all; integers must be right.
    Flat(f64),
    /// The table's, of a device that computes in f32 (or wider).
    F32,
    /// The table's, of a device with activations in bf16.
    Bf16,
}

/// Parts of a network, by how far rounding grows before it reaches them on the way back.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Classifier,
    Decoder,
    /// ASPP and the reduction of the low-level features.
    Head,
    /// The convolution and batch norm of the image-pooling branch, which sees one value per image: with two
    /// images its gradient is what is left of terms 1e5 times larger.
    Pooling,
    Backbone,
}

fn part(name: &str) -> Part {
    for (word, part) in [
        ("classifier", Part::Classifier),
        ("decoder.", Part::Decoder),
        ("global_pooling", Part::Pooling),
        ("encoder.head", Part::Head),
    ] {
        if name.contains(word) {
            return part;
        }
    }
    Part::Backbone
}

impl Bars {
    /// The bar of a float32 tensor `out.<tensor>` of an op's fixture.
    pub fn of(self, op: &str, tensor: &str) -> f64 {
        let (narrow, wide) = match op {
            "tvat" => (DEFAULT_TOLERANCE, 0.15),
            "network" => network(tensor),
            "train_step" => train_step(tensor),
            _ => (DEFAULT_TOLERANCE, BF16_TOLERANCE),
        };
        match self {
            Bars::Flat(tolerance) => tolerance,
            Bars::F32 => narrow,
            Bars::Bf16 => wide,
        }
    }

    /// Largest relative error of counts that need not be equal; 0 where they must be. Whether a pixel's
    /// confidence falls into one bin or the next is up to the rounding of whole networks in a training step.
    pub fn of_counts(self, op: &str) -> f64 {
        match (self, op) {
            (Bars::F32, "train_step") => 1e-3,
            (Bars::Bf16, "train_step") => 0.08,
            _ => 0.0,
        }
    }

    /// The bar of a training step's gradient, or student's parameter, in f32 where a pixel is as near to the
    /// confidence threshold as rounding: one pixel more or less among hundreds. 0 for what it cannot touch.
    pub fn of_pixel(self, tensor: &str) -> f64 {
        match (self, tensor.split_once('.')) {
            (Bars::F32, Some(("grad" | "student", _))) => 0.15,
            _ => 0.0,
        }
    }

    /// The bar of the length of noise, which is given whatever its direction.
    pub fn of_length(self) -> f64 {
        match self {
            Bars::Flat(tolerance) => tolerance,
            Bars::F32 => DEFAULT_TOLERANCE,
            Bars::Bf16 => 5e-3,
        }
    }

    /// The bar of all gradients of a network's encoder together.
    pub fn of_encoder(self) -> f64 {
        match self {
            Bars::Flat(tolerance) => tolerance,
            Bars::F32 => FLIP,
            Bars::Bf16 => 0.85,
        }
    }
}

/// In f32 and in bf16.
fn network(tensor: &str) -> (f64, f64) {
    match tensor.strip_prefix("grad.") {
        Some(name) => match part(name) {
            Part::Classifier => (DEFAULT_TOLERANCE, 0.1),
            Part::Decoder => (FLIP, 0.6),
            Part::Head => (FLIP, 0.8),
            Part::Pooling | Part::Backbone => (FLIP, UNJUDGED),
        },
        None if tensor == "logits" => (DEFAULT_TOLERANCE, 0.08),
        None if tensor == "logits_eval_after" => (DEFAULT_TOLERANCE, 0.03),
        None => (DEFAULT_TOLERANCE, BF16_TOLERANCE),
    }
}

/// In f32 and in bf16.
fn train_step(tensor: &str) -> (f64, f64) {
    let running = tensor.ends_with("running_mean") || tensor.ends_with("running_var");
    let (group, name) = tensor.split_once('.').unwrap_or((tensor, ""));
    match (group, part(name)) {
        ("loss_sup" | "loss_unsup", _) => (DEFAULT_TOLERANCE, 0.04),
        // A drawn direction would be off by 1.4.
        ("r_l" | "r_u", _) => (1e-2, 1.0),
        ("grad", Part::Classifier) => (5e-4, 0.25),
        ("grad", Part::Decoder) => (1e-2, 0.95),
        ("grad", Part::Head | Part::Pooling) => (1e-2, UNJUDGED),
        ("grad", Part::Backbone) => (3e-2, UNJUDGED),
        (_, Part::Decoder) if running => (DEFAULT_TOLERANCE, 0.05),
        (_, Part::Head) if running => (DEFAULT_TOLERANCE, 0.25),
        _ if running => (DEFAULT_TOLERANCE, BF16_TOLERANCE),
        // Parameters move by the learning rate times their gradient, small ones by more than they are.
        ("student", Part::Backbone) => (3e-3, UNJUDGED),
        ("student", Part::Pooling) => (DEFAULT_TOLERANCE, 0.3),
        ("student", _) => (DEFAULT_TOLERANCE, 0.03),
        (_, Part::Backbone) => (DEFAULT_TOLERANCE, 0.05),
        _ => (DEFAULT_TOLERANCE, 1e-3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_find_their_bars() {
        for (op, tensor, narrow, wide) in [
            ("conv2d", "dweight", 1e-4, 2e-2),
            ("tvat", "r", 1e-4, 0.15),
            ("network", "grad.decoder.upsample.classifier.bias", 1e-4, 0.1),
            ("network", "grad.decoder.upsample.last_conv.0.weight", 2e-3, 0.6),
            ("network", "grad.encoder.head.aspp.red_conv.weight", 2e-3, 0.8),
            ("network", "grad.encoder.head.aspp.global_pooling_conv.weight", 2e-3, UNJUDGED),
            ("network", "grad.encoder.backbone.bn1.bias", 2e-3, UNJUDGED),
            ("network", "student.encoder.backbone.bn1.running_mean", 1e-4, 2e-2),
            ("train_step", "r_l", 1e-2, 1.0),
            ("train_step", "student.encoder.head.reduce.1.running_var", 1e-4, 0.25),
            ("train_step", "teacher1.decoder.upsample.classifier.bias", 1e-4, 1e-3),
        ] {
            assert_eq!(Bars::F32.of(op, tensor), narrow, "{op} {tensor}");
            assert_eq!(Bars::Bf16.of(op, tensor), wide, "{op} {tensor}");
            assert_eq!(Bars::Flat(0.5).of(op, tensor), 0.5);
        }
    }
}
