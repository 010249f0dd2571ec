//! The generated messages and services, in modules named after their protobuf packages.
//!
//! The code under `src/gen/` is made from `proto/` by `tests/generated.rs` and committed; nobody edits it. Text of labels
//! and data of chunks are `Bytes`, so a decoded frame shares the buffer it came in.

#[allow(clippy::all, rustdoc::all, missing_docs, reason = "generated code is not ours to style")]
pub mod thanos {
    include!("gen/thanos.rs");

    pub mod info {
        include!("gen/thanos.info.rs");
    }
}

#[allow(clippy::all, rustdoc::all, missing_docs, reason = "generated code is not ours to style")]
pub mod prometheus {
    include!("gen/prometheus.rs");
}

#[allow(clippy::all, rustdoc::all, missing_docs, reason = "generated code is not ours to style")]
pub mod hintspb {
    include!("gen/hintspb.rs");
}

/// What is said between components of Parallax alone.
pub mod parallax {
    #[allow(clippy::all, rustdoc::all, missing_docs, reason = "generated code is not ours to style")]
    pub mod v1 {
        include!("gen/parallax.v1.rs");
    }
}

/// What the `hints` fields hold.
pub use prost_types::Any;

/// The encoded `FileDescriptorSet` of everything above, for server reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");
