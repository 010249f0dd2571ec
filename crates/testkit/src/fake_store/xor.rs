//! The simplest chunk that every XOR decoder reads: no value is compressed.
//!
//! Written from the format alone, so that a fake does not depend on the encoder under test. Source: Prometheus `tsdb/docs/format/chunks.md`.
//! A delta of delta is written as `1111` and 64 bits, unless it is zero; a value as `11`, no leading zeros, 64 significant bits.

/// Encodes samples (milliseconds, value) in order of time; at most 65,535 of them.
pub(super) fn encode(samples: &[(i64, f64)]) -> Vec<u8> {
    let count = u16::try_from(samples.len()).unwrap_or(u16::MAX);
    let mut out = BitWriter { bytes: count.to_be_bytes().to_vec(), used_bits: 8 };
    let (mut last_time, mut last_delta, mut last_value) = (0_i64, 0_i64, 0_u64);
    for (index, (time, value)) in samples.iter().take(usize::from(count)).enumerate() {
        let bits = value.to_bits();
        let delta = time.wrapping_sub(last_time);
        match index {
            0 => {
                for byte in zigzag_varint(*time) {
                    out.write(u64::from(byte), 8);
                }
                out.write(bits, 64);
            }
            1 => {
                for byte in uvarint(delta as u64) {
                    out.write(u64::from(byte), 8);
                }
                write_value(&mut out, bits ^ last_value);
            }
            _ => {
                match delta.wrapping_sub(last_delta) {
                    0 => out.write(0, 1),
                    difference => {
                        out.write(0b1111, 4);
                        out.write(difference as u64, 64);
                    }
                }
                write_value(&mut out, bits ^ last_value);
            }
        }
        if index > 0 {
            last_delta = delta;
        }
        (last_time, last_value) = (*time, bits);
    }
    out.bytes
}

fn write_value(out: &mut BitWriter, difference: u64) {
    if difference == 0 {
        return out.write(0, 1);
    }
    out.write(0b11, 2);
    // No leading zeros; 64 significant bits do not fit into six bits and are written as 0.
    out.write(0, 5);
    out.write(0, 6);
    out.write(difference, 64);
}

struct BitWriter {
    bytes: Vec<u8>,
    /// Bits used of the last byte.
    used_bits: u32,
}

impl BitWriter {
    fn write(&mut self, value: u64, bits: u32) {
        for bit in (0..bits).rev() {
            if self.used_bits == 8 {
                self.bytes.push(0);
                self.used_bits = 0;
            }
            let set = ((value >> bit) & 1) as u8;
            if let Some(last) = self.bytes.last_mut() {
                *last |= set << (7 - self.used_bits);
            }
            self.used_bits += 1;
        }
    }
}

fn uvarint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn zigzag_varint(value: i64) -> Vec<u8> {
    uvarint(((value << 1) ^ (value >> 63)) as u64)
}
