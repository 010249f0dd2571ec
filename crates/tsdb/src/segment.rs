//! Segment files of a block: `chunks/000001` and on.
