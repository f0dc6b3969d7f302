//! Parameter sharing: linear layers of several blocks that are one tensor (Lan et al., "ALBERT", 2020; Reid et al.,
//! "Subformer", 2021).
//!
//! A shared tensor has one id: one gradient that all uses add to, one optimizer state, one quantization, one entry in a
//! file, under the name of the first block that uses it. Matrices and their biases are shared; norms, a thousandth of the
//! weights, stay each block's own. The embedding shared with the head is [`super::ModelConfig::tie_word_embeddings`].
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::config::ModelConfig;
use super::layers::Declaration;
use super::model::Model;
use crate::nn::{ParamSpec, Precision};
use crate::{Error, Result};

/// A half of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockPart {
    /// Projections to queries, keys and values, and the one back.
    Attention,
    /// The feed-forward layers.
    FeedForward,
}

/// Which blocks share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SharingRule {
    /// Each `interval` consecutive blocks are one.
    CrossLayer {
        /// Blocks that share.
        interval: usize,
    },
    /// All blocks with an even number are one, and all with an odd one.
    Alternate,
    /// All blocks have the same attention.
    Attention,
    /// All blocks have the same feed-forward layers.
    FeedForward,
    /// Each block of an encoder-decoder's decoder has the own attention and the feed-forward layers of the encoder's block
    /// of the same number.
    EncoderDecoder,
    /// The blocks of each group share.
    Custom {
        /// Numbers of blocks, from 0.
        groups: Vec<Vec<usize>>,
        /// What they share; left out: both parts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<BlockPart>,
    },
}

/// Rules that hold together: what any of them joins is one tensor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sharing {
    /// The rules; none: nothing is shared.
    pub rules: Vec<SharingRule>,
    /// Form of the shared matrices; left out: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
}

impl SharingRule {
    fn joins(&self, part: BlockPart, layers: usize) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..layers).collect();
        match self {
            SharingRule::CrossLayer { interval } => all.chunks(*interval).map(<[usize]>::to_vec).collect(),
            SharingRule::Alternate => [0, 1].map(|first| all.iter().copied().skip(first).step_by(2).collect()).to_vec(),
            SharingRule::Attention if part == BlockPart::Attention => vec![all],
            SharingRule::FeedForward if part == BlockPart::FeedForward => vec![all],
            SharingRule::Custom { groups, part: of } if of.is_none_or(|of| of == part) => groups.clone(),
            _ => Vec::new(),
        }
    }
}

impl Sharing {
    /// Whether nothing is shared.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the decoder has the encoder's layers.
    pub(super) fn joins_stacks(&self) -> bool {
        self.rules.contains(&SharingRule::EncoderDecoder)
    }

    /// For each block, the first block with the same `part`.
    pub fn owners(&self, part: BlockPart, layers: usize) -> Vec<usize> {
        let mut owners: Vec<usize> = (0..layers).collect();
        for group in self.rules.iter().flat_map(|rule| rule.joins(part, layers)) {
            let Some(first) = group.iter().map(|&layer| owners[layer]).min() else { continue };
            let joined: Vec<usize> = group.iter().map(|&layer| owners[layer]).collect();
            owners.iter_mut().filter(|owner| joined.contains(owner)).for_each(|owner| *owner = first);
        }
        owners
    }

    /// Error: an interval of 0, a block that the model does not have.
    pub(super) fn validate(&self, layers: usize) -> Result<()> {
        for rule in &self.rules {
            match rule {
                SharingRule::CrossLayer { interval: 0 } => {
                    return Err(Error::invalid("parameter_sharing.interval", "at least 1", 0));
                }
                SharingRule::Custom { groups, .. } => {
                    if let Some(layer) = groups.iter().flatten().find(|&&layer| layer >= layers) {
                        let expected = format!("blocks below num_hidden_layers = {layers}");
                        return Err(Error::invalid("parameter_sharing.groups", expected, layer));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A tensor with several uses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SharedTensor {
    /// Its name in the model and in files.
    pub name: String,
    /// Its elements.
    pub elements: usize,
    /// The names it stands for, its own first.
    pub users: Vec<String>,
}

/// What sharing saves.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SharingInfo {
    /// Parameters, each use counted.
    pub total: usize,
    /// Parameters, each tensor counted once.
    pub unique: usize,
    /// `1 - unique / total`.
    pub reduction: f64,
    /// Bytes of the unique tensors with matrices packed as dense codes ([`Precision::packed_bytes`]), the rest f32.
    pub packed_bytes: usize,
    /// The tensors with several uses.
    pub shared: Vec<SharedTensor>,
}

impl ModelConfig {
    /// Who shares with whom in a model of this configuration, and what that saves. Error: a configuration that
    /// [`ModelConfig::validate`] refuses.
    pub fn sharing_info(&self) -> Result<SharingInfo> {
        self.validate()?;
        let Declaration { parameters, roles, .. } = Model::declare(self);
        let mut users: Vec<Vec<String>> = vec![Vec::new(); parameters.len()];
        roles.into_iter().for_each(|(name, id)| users[id.index()].push(name));
        let total = parameters.iter().zip(&users).map(|(spec, users)| spec.len() * users.len()).sum();
        let unique = parameters.iter().map(ParamSpec::len).sum();
        let packed_bytes = parameters.iter().map(|spec| spec.precision.packed_bytes(spec.len(), 1)).sum();
        let reduction = 1.0 - unique as f64 / total as f64;
        let shared = parameters.iter().zip(users).filter(|(_, users)| users.len() > 1);
        let shared = shared.map(|(spec, users)| SharedTensor { name: spec.name.clone(), elements: spec.len(), users });
        Ok(SharingInfo { total, unique, reduction, packed_bytes, shared: shared.collect() })
    }
}

/// For each block, the first one with the same attention, and with the same feed-forward layers.
#[derive(Debug)]
pub(super) struct BlockOwners {
    attention: Vec<usize>,
    feed_forward: Vec<usize>,
    joins_stacks: bool,
}

impl BlockOwners {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let layers = config.num_hidden_layers.max(config.decoder.map_or(0, |decoder| decoder.layers));
        let owners = |part| config.parameter_sharing.owners(part, layers);
        let joins_stacks = config.parameter_sharing.joins_stacks();
        BlockOwners {
            attention: owners(BlockPart::Attention),
            feed_forward: owners(BlockPart::FeedForward),
            joins_stacks,
        }
    }

    pub(super) fn of(&self, config: &ModelConfig, part: BlockPart, layer: usize) -> BlockOwner {
        let owners = if part == BlockPart::Attention { &self.attention } else { &self.feed_forward };
        let is_shared = self.joins_stacks || owners.iter().filter(|&&owner| owner == owners[layer]).count() > 1;
        let precision = config.parameter_sharing.precision.filter(|_| is_shared).unwrap_or(config.precision);
        let joins_stacks = self.joins_stacks;
        BlockOwner { own: format!(".{layer}."), owner: format!(".{}.", owners[layer]), joins_stacks, precision }
    }
}

/// Turns the names of a block's linear layers into those of the block that owns them.
#[derive(Debug)]
pub(super) struct BlockOwner {
    own: String,
    owner: String,
    joins_stacks: bool,
    /// Form of the part's matrices.
    pub precision: Precision,
}

impl BlockOwner {
    pub(super) fn name(&self, own: &str) -> String {
        let owner = own.replacen(&self.own, &self.owner, 1);
        if self.joins_stacks && !owner.contains(".encoder_attn.") {
            return owner.replacen(".decoder.", ".encoder.", 1);
        }
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(rules: Vec<SharingRule>, part: BlockPart) -> Vec<usize> {
        Sharing { rules, precision: None }.owners(part, 6)
    }

    #[test]
    fn rules_join_blocks() {
        use BlockPart::{Attention, FeedForward};
        let custom = |part| SharingRule::Custom { groups: vec![vec![4, 1], vec![2, 3]], part };
        assert_eq!(owners(vec![], Attention), [0, 1, 2, 3, 4, 5]);
        assert_eq!(owners(vec![SharingRule::CrossLayer { interval: 4 }], Attention), [0, 0, 0, 0, 4, 4]);
        assert_eq!(owners(vec![SharingRule::Alternate], FeedForward), [0, 1, 0, 1, 0, 1]);
        assert_eq!(owners(vec![SharingRule::Attention], Attention), [0; 6]);
        assert_eq!(owners(vec![SharingRule::Attention], FeedForward), [0, 1, 2, 3, 4, 5]);
        assert_eq!(owners(vec![SharingRule::FeedForward], FeedForward), [0; 6]);
        assert_eq!(owners(vec![custom(None)], FeedForward), [0, 1, 2, 2, 1, 5]);
        assert_eq!(owners(vec![custom(Some(Attention))], FeedForward), [0, 1, 2, 3, 4, 5]);
        // Together: {0, 1}, {2, 3}, {4, 5} and {1, 4} join to {0, 1, 4, 5}.
        assert_eq!(owners(vec![SharingRule::CrossLayer { interval: 2 }, custom(None)], Attention), [0, 0, 2, 2, 0, 0]);
    }

    #[test]
    fn rules_are_read_and_checked() {
        let text = r#"{"rules": [{"strategy": "cross-layer", "interval": 2}, {"strategy": "custom", "groups": [[0, 3]],
            "part": "feed-forward"}, {"strategy": "alternate"}], "precision": "int8"}"#;
        let sharing: Sharing = serde_json::from_str(text).unwrap();
        assert_eq!((sharing.rules.len(), sharing.precision), (3, Some(Precision::Int8)));
        assert_eq!(serde_json::from_str::<Sharing>(&serde_json::to_string(&sharing).unwrap()).unwrap(), sharing);
        assert!(sharing.validate(3).unwrap_err().to_string().contains("below num_hidden_layers = 3, found 3"));
        let zero = Sharing { rules: vec![SharingRule::CrossLayer { interval: 0 }], precision: None };
        assert!(zero.validate(3).unwrap_err().to_string().contains("interval"));
    }
}
