//! Thresholds of the dispatcher: what a user may set, what calibration learns, what the cache file holds.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cuda::CudaDevice;
use super::operation::Operation;
use crate::kernels::Isa;

/// How backends are chosen. No field changes a bit of a result, only its time; a run therefore does not store it.
///
/// Reads and writes as TOML; what is left out has its default.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DispatchConfig {
    /// A ternary product of up to this many tokens reads the packed weights as they are; one of more unpacks them into
    /// panels first. Default: what suits the kernels ([`crate::kernels::KernelTable::ternary_direct_tokens`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_tokens: Option<u32>,
    /// The CUDA device that large calls may go to, and the cost of going there. Default: none, every call stays on the CPU. A
    /// build without feature `cuda` keeps it and does not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda: Option<CudaDevice>,
    /// Settings of single operations.
    pub operations: BTreeMap<Operation, Thresholds>,
}

/// How one operation chooses; work is counted in [`Operation::unit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// A call of less work stays on the calling thread. Default [`Operation::default_serial_below`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_below: Option<u64>,
    /// The same for calls on the context's own threads ([`crate::dispatch::Context::install`]: a step of training, a token),
    /// which need no hand-over. Default: `serial_below`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_below_inside: Option<u64>,
    /// Instruction set of large calls. Default: the context's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isa: Option<Isa>,
    /// Calls of less work than this are small. Default 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_below: Option<u64>,
    /// Instruction set of small calls. Default: that of large ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_isa: Option<Isa>,
    /// With [`DispatchConfig::cuda`]: a call of this work or more goes to the device, one of less does not, whatever the rates
    /// say. Default: the rates decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_from: Option<u64>,
    /// Work a second on the device, copies not counted. Default: not known, so no call goes there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_work_per_s: Option<u64>,
    /// Work a second of large calls on the CPU. Default: not known, so no call leaves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_work_per_s: Option<u64>,
}

/// A threshold no call reaches (TOML has no larger integer).
pub const NEVER: u64 = i64::MAX as u64;

impl DispatchConfig {
    /// Reads TOML. The error is the parser's, on one line.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.message().replace('\n', " "))
    }

    /// The configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("thresholds are plain data")
    }

    /// The settings of `operation`.
    pub fn of(&self, operation: Operation) -> Thresholds {
        self.operations.get(&operation).copied().unwrap_or_default()
    }

    /// The settings of `operation`, to change.
    pub fn of_mut(&mut self, operation: Operation) -> &mut Thresholds {
        self.operations.entry(operation).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let mut config = DispatchConfig { direct_tokens: Some(7), ..Default::default() };
        *config.of_mut(Operation::Norm) = Thresholds {
            serial_below: Some(NEVER),
            serial_below_inside: Some(5),
            isa: Some(Isa::Avx512Vnni),
            small_below: Some(64),
            small_isa: Some(Isa::NeonDotprod),
            ..Default::default()
        };
        let costs = CudaDevice {
            device: 1,
            name: "NVIDIA H200".into(),
            latency_ns: 50_000,
            upload_per_s: 12_000_000_000,
            download_per_s: 11,
        };
        config.cuda = Some(costs);
        let product = config.of_mut(Operation::TernaryMatmul);
        (product.cuda_work_per_s, product.cpu_work_per_s) = (Some(NEVER), Some(3));
        config.of_mut(Operation::KmeansAssign).cuda_from = Some(0);
        let text = config.to_toml();
        assert!(text.contains("[operations.norm]") && text.contains("isa = \"avx512vnni\""), "{text}");
        assert_eq!(DispatchConfig::from_toml(&text).unwrap(), config);
        assert_eq!(DispatchConfig::from_toml("").unwrap(), DispatchConfig::default());
    }

    #[test]
    fn wrong_content_is_named_on_one_line() {
        for text in
            ["direct = 3", "direct_tokens = -1", "[operations.dance]", "[operations.norm]\nisa = \"sse9\"", "= ="]
        {
            let message = DispatchConfig::from_toml(text).unwrap_err();
            assert!(!message.is_empty() && !message.contains('\n'), "{text}: {message}");
        }
    }

    #[test]
    fn names_of_levels_and_operations_are_those_of_serde() {
        for isa in Isa::ALL {
            assert_eq!(serde_json::to_string(&isa).unwrap(), format!("\"{}\"", isa.name()));
        }
        for operation in Operation::ALL {
            assert_eq!(serde_json::to_string(&operation).unwrap(), format!("\"{}\"", operation.name()));
            assert_eq!(Operation::from_name(operation.name()), Some(operation));
        }
    }
}
