//! A word to the system's allocator about the buffers that answers pass through.
//!
//! glibc gives the memory of a large buffer back to the system when it is freed, and takes it again, page by page, for the next one: a fifth of the time that a large
//! answer takes. From which size on it does so it learns: from the largest buffer that it has given back so far, up to 32 MiB; it also keeps twice as much at the end of
//! each of its heaps (mallopt(3), `M_MMAP_THRESHOLD`). Other allocators are not concerned.

/// Larger than any buffer that is used again and again: what a block fetches at once of a local file, what it makes of that, and a frame. Twice as much is what an
/// idle heap may keep.
const LARGEST_BUFFER_BYTES: usize = 4 << 20;

/// Has the allocator keep what buffers of usual sizes take, for the next ones. The memory is not touched, so that this costs none.
pub fn keep() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGEST_BUFFER_BYTES)));
}
