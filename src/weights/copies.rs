//! Which of several networks in a file are averages or moving averages of another: query and key encoders,
//! online and target networks, models and their EMA. Decided by names only.

/// Words in the name of a copy.
const COPY: [&str; 10] =
    ["ema", "avg", "average", "averaged", "swa", "momentum", "target", "teacher", "k", "key"];
/// Words that do not distinguish networks, or that mark the one that was trained.
const PLAIN: [&str; 14] = [
    "model", "models", "net", "network", "module", "state", "dict", "backbone", "encoder", "online", "base",
    "q", "query", "student",
];

/// The words of a prefix such as `model_ema.module.`, without numbers.
fn words(prefix: &str) -> Vec<String> {
    let words = prefix.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
    words.filter(|w| !w.is_empty() && w.parse::<u64>().is_err()).collect()
}

/// Whether the network with the prefix `copy` is a copy of the one with the prefix `of`: it has more words of
/// copies, and the words that distinguish networks are the same.
pub fn is_copy(copy: &str, of: &str) -> bool {
    let (copy, of) = (words(copy), words(of));
    let marked = |words: &[String]| words.iter().filter(|w| COPY.contains(&w.as_str())).count();
    let own = |words: &[String]| -> Vec<String> {
        let plain = |w: &&String| !COPY.contains(&w.as_str()) && !PLAIN.contains(&w.as_str());
        words.iter().filter(plain).cloned().collect()
    };
    marked(&copy) > marked(&of) && own(&copy) == own(&of)
}

/// Index of the one of `prefixes` that all others are copies of.
pub fn original(prefixes: &[String]) -> Option<usize> {
    (0..prefixes.len()).find(|&i| {
        let others = prefixes.iter().enumerate().filter(|(j, _)| *j != i);
        others.into_iter().all(|(_, other)| is_copy(other, &prefixes[i]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_pairs_have_an_original() {
        let original = |prefixes: &[&str]| {
            let prefixes: Vec<String> = prefixes.iter().map(|p| p.to_string()).collect();
            original(&prefixes).map(|i| prefixes[i].clone())
        };
        for (first, second) in [
            ("encoder_q.", "encoder_k."),
            ("state_dict.module.encoder_q.", "state_dict.module.encoder_k."),
            ("query_encoder.", "key_encoder."),
            ("online_network.encoder.", "target_network.encoder."),
            ("online.net.", "target.net."),
            ("online_encoder.", "target_encoder."),
            ("model.backbone.", "model_ema.module.backbone."),
            ("model.", "ema."),
            ("model.", "ema_model."),
            ("model.", "avg_model.module."),
            ("model_state_dict.", "swa_model_state_dict."),
            ("state_dict.", "state_dict_ema."),
            ("state_dict.", "ema_state_dict."),
            ("", "ema."),
            ("backbone.", "momentum_encoder.module.0."),
            ("backbone.", "momentum_backbone."),
            ("module.base_encoder.", "module.momentum_encoder."),
            ("encoder.", "encoder_ema."),
            ("student.backbone.", "teacher.backbone."),
            ("branch_a.", "branch_a_ema."),
        ] {
            assert_eq!(original(&[first, second]).as_deref(), Some(first), "{first} {second}");
            assert_eq!(original(&[second, first]).as_deref(), Some(first), "{second} {first}");
        }
        assert_eq!(
            original(&["encoder_k.", "model_ema.encoder_q.", "encoder_q."]).as_deref(),
            Some("encoder_q.")
        );
        for pair in [
            ["a.", "b."],
            ["source.backbone.", "target.backbone."],
            ["rgb.encoder_q.", "depth.encoder_k."],
            ["model.0.", "model.1."],
            ["branch_a.", "branch_b_ema."],
            ["model.", "net."],
        ] {
            assert_eq!(original(&pair), None, "{pair:?}");
        }
    }
}
