//! Memory and numbers below the layers: aligned buffers and the counter-based random generator.

mod aligned_buffer;
mod philox;
mod shared_bytes;

pub use aligned_buffer::AlignedBuffer;
pub use philox::{Philox, RandomStream};
pub use shared_bytes::SharedBytes;
