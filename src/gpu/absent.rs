//! The driver's place in a build without feature `cuda`: nothing can be opened, so nothing else is ever called.

use std::ffi::c_void;
use std::sync::Arc;

use crate::{Error, Result};

fn absent() -> Error {
    Error::NoDevice("built without CUDA: feature cuda is off".into())
}

pub(super) enum Device {}
pub(super) enum Stream {}
pub(super) enum Memory {}

/// What a device pointer points into.
pub(super) struct Region {
    pub(super) device: usize,
    pub(super) bytes: usize,
}

pub(super) fn device_count() -> Result<usize> {
    Err(absent())
}

impl Device {
    pub(super) fn open(_ordinal: usize) -> Result<Arc<Self>> {
        Err(absent())
    }

    pub(super) fn ordinal(&self) -> usize {
        match *self {}
    }

    pub(super) fn name(&self) -> &str {
        match *self {}
    }

    pub(super) fn free_memory(&self) -> Result<(usize, usize)> {
        match *self {}
    }

    pub(super) fn region(&self, _address: u64) -> Result<Option<Region>> {
        match *self {}
    }
}

impl Stream {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self> {
        match **device {}
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        match *self {}
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        match *self {}
    }

    pub(super) unsafe fn upload(&self, _to: u64, _from: *const u8, _bytes: usize) -> Result<()> {
        match *self {}
    }

    pub(super) unsafe fn download(&self, _to: *mut u8, _from: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }

    pub(super) unsafe fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }

    pub(super) unsafe fn clear(&self, _to: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }

    pub(super) unsafe fn launch(&self, _kernel: &'static str, _arguments: &mut [*mut c_void]) -> Result<()> {
        match *self {}
    }
}

impl Memory {
    pub(super) fn new(device: &Arc<Device>, _bytes: usize) -> Result<Self> {
        match **device {}
    }

    pub(super) fn address(&self) -> u64 {
        match *self {}
    }
}
