//! Names of networks' tensors in files: torchvision's, those of PS-MT's authors, mmsegmentation's, this
//! program's. A spelling maps our name of a tensor to the file's name, which begins with a prefix that the
//! file decides.

use std::fmt;

/// Our prefix of a backbone's tensors.
pub const BACKBONE: &str = "encoder.backbone.";
/// A tensor that every backbone has. What precedes it in a file's names are the prefixes.
const ANCHOR: &str = "layer1.0.conv1.weight";

/// What is looked for in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The backbone only.
    Backbone,
    /// A whole network.
    Network,
}

/// The network of a run that a file's network becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Student,
    Teacher1,
    Teacher2,
    /// The file gives it no role.
    Only,
}

impl Role {
    /// Name in checkpoints.
    pub fn name(self) -> &'static str {
        match self {
            Role::Student => "student",
            Role::Teacher1 => "teacher1",
            Role::Teacher2 => "teacher2",
            Role::Only => "network",
        }
    }
}

/// Names of a backbone's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backbone {
    /// As in torchvision, and, with a deep stem, as those of PS-MT's and CPS's authors: our names without our
    /// prefix.
    Plain,
    /// As in mmsegmentation's ResNetV1c: the stem's layers are numbered in one sequence.
    V1c,
    /// As in the `3x3resnet50-imagenet.pth` files: a deep stem's convolutions are `conv1`, `conv2`, `conv3`,
    /// each with its own norm.
    Flat,
}

/// mmsegmentation's stem: ours, theirs.
const V1C_STEM: [(&str, &str); 6] = [
    ("conv1.0.", "stem.0."),
    ("conv1.1.", "stem.1."),
    ("conv1.3.", "stem.3."),
    ("conv1.4.", "stem.4."),
    ("conv1.6.", "stem.6."),
    ("bn1.", "stem.7."),
];

/// The stem of the `3x3resnet50-imagenet.pth` files: ours, theirs. Their `bn1` follows the first convolution,
/// ours the third.
const FLAT_STEM: [(&str, &str); 6] = [
    ("conv1.0.", "conv1."),
    ("conv1.1.", "bn1."),
    ("conv1.3.", "conv2."),
    ("conv1.4.", "bn2."),
    ("conv1.6.", "conv3."),
    ("bn1.", "bn3."),
];

impl Backbone {
    const ALL: [Backbone; 3] = [Backbone::Plain, Backbone::V1c, Backbone::Flat];

    /// Whose names they are, in messages.
    fn whose(self) -> &'static str {
        match self {
            Backbone::Plain => "torchvision's",
            Backbone::V1c => "mmsegmentation's V1c",
            Backbone::Flat => "3x3resnet's",
        }
    }

    /// The file's name, without prefix, of our tensor [`BACKBONE`]`name`.
    pub fn spell(self, name: &str) -> String {
        let stem: &[(&str, &str)] = match self {
            Backbone::Plain => &[],
            Backbone::V1c => &V1C_STEM,
            Backbone::Flat => &FLAT_STEM,
        };
        let renamed = |&(ours, theirs): &(&str, &str)| Some(format!("{theirs}{}", name.strip_prefix(ours)?));
        stem.iter().find_map(renamed).unwrap_or_else(|| name.to_string())
    }
}

/// Names of a network's encoder and decoder, and the role that they imply.
const HALVES: [(&str, &str, Role); 4] = [
    ("encoder_s", "decoder_s", Role::Student),
    ("encoder1", "decoder1", Role::Teacher1),
    ("encoder2", "decoder2", Role::Teacher2),
    ("encoder", "decoder", Role::Only),
];

/// A way in which a file may name its tensors, with the prefix of the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A backbone. The prefix ends with a dot, or is empty.
    Backbone { prefix: String, kind: Backbone },
    /// A whole network, with names `{prefix}{encoder}.…` and `{prefix}{decoder}.…`. The prefix ends with a
    /// dot, or is empty.
    Network { prefix: String, encoder: &'static str, decoder: &'static str, role: Role },
}

impl Spelling {
    /// Spellings of what is wanted that `names` may follow.
    pub fn suggested<'a>(names: impl Iterator<Item = &'a str> + Clone, wanted: Wanted) -> Vec<Spelling> {
        match wanted {
            Wanted::Backbone => Spelling::backbones(names),
            Wanted::Network => Spelling::networks(names),
        }
    }

    fn backbones<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Spelling> {
        prefixes(names, ANCHOR)
            .into_iter()
            .flat_map(|prefix| Backbone::ALL.map(|kind| Spelling::Backbone { prefix: prefix.clone(), kind }))
            .collect()
    }

    fn networks<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<Spelling> {
        let mut all = Vec::new();
        for (encoder, decoder, role) in HALVES {
            for prefix in prefixes(names.clone(), &format!("{encoder}.backbone.{ANCHOR}")) {
                let word = prefix.trim_end_matches('.').rsplit('.').next();
                let role = match role {
                    Role::Only => [Role::Student, Role::Teacher1, Role::Teacher2]
                        .into_iter()
                        .find(|role| word == Some(role.name()))
                        .unwrap_or(Role::Only),
                    role => role,
                };
                all.push(Spelling::Network { prefix, encoder, decoder, role });
            }
        }
        all
    }

    /// The file's name of our tensor `name`; `None` if this spelling has no such tensor.
    pub fn spell(&self, name: &str) -> Option<String> {
        match self {
            Spelling::Backbone { prefix, kind } => {
                name.strip_prefix(BACKBONE).map(|rest| format!("{prefix}{}", kind.spell(rest)))
            }
            Spelling::Network { prefix, encoder, decoder, .. } => {
                let (half, rest) = name.split_once('.')?;
                let half = if half == "decoder" { decoder } else { encoder };
                Some(format!("{prefix}{half}.{rest}"))
            }
        }
    }

    /// Whether a tensor of the file belongs to this network, so that the network must have a counterpart.
    pub fn claims(&self, name: &str) -> bool {
        let counter = name.ends_with(".num_batches_tracked");
        match self {
            Spelling::Backbone { prefix, .. } => {
                let parts = ["layer", "conv1.", "conv2.", "conv3.", "bn1.", "bn2.", "bn3.", "stem."];
                !counter && name.strip_prefix(prefix).is_some_and(|n| parts.iter().any(|p| n.starts_with(p)))
            }
            Spelling::Network { prefix, encoder, decoder, .. } => {
                let Some(name) = name.strip_prefix(prefix).filter(|_| !counter) else { return false };
                let within = |half: &str| name.strip_prefix(half).and_then(|n| n.strip_prefix('.'));
                // The authors' encoders hold a decoder's convolutions that nothing uses.
                within(decoder).is_some()
                    || within(encoder).is_some_and(|n| !n.starts_with("head.last_conv."))
            }
        }
    }

    /// Prefix of the backbone's tensors in the file.
    pub fn backbone_prefix(&self) -> String {
        match self {
            Spelling::Backbone { prefix, .. } => prefix.clone(),
            Spelling::Network { prefix, encoder, .. } => format!("{prefix}{encoder}.backbone."),
        }
    }

    /// The selector that chooses it in `FILE#PREFIX`: its prefix, or the encoder's if that is empty.
    pub fn selector(&self) -> String {
        match self {
            Spelling::Backbone { prefix, .. } => prefix.clone(),
            Spelling::Network { prefix, encoder, .. } if prefix.is_empty() => format!("{encoder}."),
            Spelling::Network { prefix, .. } => prefix.clone(),
        }
    }

    /// The role that the names imply.
    pub fn role(&self) -> Role {
        match self {
            Spelling::Network { role, .. } => *role,
            Spelling::Backbone { prefix, .. } => {
                let has = |word: &str| prefix.contains(word);
                match () {
                    () if has("encoder_s.") || has("student.") => Role::Student,
                    () if has("encoder1.") || has("teacher1.") => Role::Teacher1,
                    () if has("encoder2.") || has("teacher2.") => Role::Teacher2,
                    () => Role::Only,
                }
            }
        }
    }
}

impl fmt::Display for Spelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spelling::Backbone { prefix, kind } => {
                write!(f, "backbone by {} names", kind.whose())?;
                if prefix.is_empty() { Ok(()) } else { write!(f, " with the prefix {prefix:?}") }
            }
            Spelling::Network { prefix, encoder, decoder, role } => {
                write!(f, "{} as {prefix}{encoder}.* and {prefix}{decoder}.*", role.name())
            }
        }
    }
}

/// What precedes `anchor` in the names that end with it. Momenta, which have their network's names, are left
/// out.
fn prefixes<'a>(names: impl Iterator<Item = &'a str>, anchor: &str) -> Vec<String> {
    names
        .filter_map(|name| name.strip_suffix(anchor))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .filter(|prefix| !prefix.starts_with("momentum."))
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_found_by_their_prefixes() {
        let names = [
            "state_dict.module.encoder_s.backbone.layer1.0.conv1.weight",
            "momentum.student.encoder.backbone.layer1.0.conv1.weight",
            "student.encoder.backbone.layer1.0.conv1.weight",
        ];
        let all = Spelling::suggested(names.iter().copied(), Wanted::Network);
        let roles: Vec<_> = all.iter().map(|s| (s.role(), s.backbone_prefix())).collect();
        let expected = [
            (Role::Student, "state_dict.module.encoder_s.backbone.".to_string()),
            (Role::Student, "student.encoder.backbone.".to_string()),
        ];
        assert_eq!(roles, expected);
        assert_eq!(
            all[0].spell("decoder.upsample.classifier.bias").unwrap(),
            "state_dict.module.decoder_s.upsample.classifier.bias"
        );
        assert!(all[0].claims("state_dict.module.encoder_s.backbone.layer9.x"));
        assert!(!all[0].claims("state_dict.module.encoder_s.head.last_conv.0.weight"));
    }

    #[test]
    fn a_sequence_of_stem_layers_is_spelled() {
        let spelled = |name| Backbone::V1c.spell(name);
        assert_eq!(spelled("conv1.4.running_mean"), "stem.4.running_mean");
        assert_eq!(spelled("bn1.weight"), "stem.7.weight");
        assert_eq!(spelled("layer1.0.bn1.weight"), "layer1.0.bn1.weight");
    }

    #[test]
    fn flat_stems_have_one_norm_per_convolution() {
        let spelled = |name| Backbone::Flat.spell(name);
        assert_eq!(spelled("conv1.0.weight"), "conv1.weight");
        assert_eq!(spelled("conv1.1.bias"), "bn1.bias");
        assert_eq!(spelled("conv1.6.weight"), "conv3.weight");
        assert_eq!(spelled("bn1.running_var"), "bn3.running_var");
        assert_eq!(spelled("layer1.0.conv2.weight"), "layer1.0.conv2.weight");
    }
}
