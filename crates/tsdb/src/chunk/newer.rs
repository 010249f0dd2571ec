//! The one place that asks what the processor can do.
//!
//! Decoding XOR is made of shifts by any number of bits and of counting ones: newer processors have instructions for these, which a program that also has to run
//! on others may only use behind a question. So such work is compiled twice.

/// Work that is worth compiling twice. Its method has to be inlined, or it is compiled once only.
pub(super) trait BitWork {
    type Output;

    fn run(self) -> Self::Output;
}

/// Does the work with the instructions of this processor.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "a function for newer processors is called where the processor is one")]
#[inline]
pub(super) fn run<W: BitWork>(work: W) -> W::Output {
    #[target_feature(enable = "bmi1,bmi2,lzcnt")]
    fn with_bmi<W: BitWork>(work: W) -> W::Output {
        work.run()
    }
    // What is found is remembered: later questions are a load and a comparison.
    if is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
    {
        // SAFETY: this processor has the instructions that the function was compiled for.
        return unsafe { with_bmi(work) };
    }
    work.run()
}

/// There is one way.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn run<W: BitWork>(work: W) -> W::Output {
    work.run()
}
