//! Replicas into one series, at sample and chunk level.
