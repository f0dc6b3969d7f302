//! capi.
