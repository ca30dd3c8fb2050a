//! Bytes that look random, are the same for the same seed, and can be checked at any place: a byte lost,
//! doubled or moved anywhere in a gigabyte is seen.

/// The stream of bytes of one seed.
#[derive(Debug, Clone)]
pub struct Noise {
    seed: u64,
    at: u64,
}

impl Noise {
    /// The stream from its beginning.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// Where it is.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            let word = word(self.seed, self.at / 8).to_le_bytes();
            let within = usize::try_from(self.at % 8).unwrap_or(0);
            let take = (8 - within).min(buffer.len() - filled);
            buffer[filled..filled + take].copy_from_slice(&word[within..within + take]);
            filled += take;
            self.at += take as u64;
        }
    }

    /// Whether these are the next bytes; steps over them.
    ///
    /// # Errors
    /// The place of the first that differs.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (mut expected, mut rest) = ([0; 8192], bytes);
        while !rest.is_empty() {
            let begun = self.at;
            let length = rest.len().min(expected.len());
            self.fill(&mut expected[..length]);
            if rest[..length] != expected[..length] {
                let off = rest.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
                return Err(format!("byte {} differs", begun + off as u64));
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

/// SplitMix64 of the word's number.
fn word(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_are_the_same_stream() {
        let (mut whole, mut pieces) = (vec![0; 1000], Vec::new());
        Noise::new(7).fill(&mut whole);
        let mut noise = Noise::new(7);
        for size in [1, 3, 8, 13, 975] {
            let mut piece = vec![0; size];
            noise.fill(&mut piece);
            pieces.extend(piece);
        }
        assert_eq!(whole, pieces);
        whole[500] ^= 1;
        assert_eq!(Noise::new(7).check(&whole), Err("byte 500 differs".into()));
    }
}
