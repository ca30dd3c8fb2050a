//! False alarms on a path that loses packets, by the real judgement over a made-up path: as rare as computed.
//!
//! A LAN, RTT below a millisecond. A healthy peer is asked for something at 0; the transport's probes follow
//! after 4, 12 and 28 ms (RFC 9002 section 6.2.1, two packets each), our own question at half the threshold.
//! Each packet and each answer is lost with probability p, by itself.

use super::*;

const MS: Duration = Duration::from_millis(1);
const TICK: u32 = 5;
/// When the transport sends what elicits an answer, in milliseconds, and how many packets.
const SENDS: [(u32, u32); 4] = [(0, 1), (4, 2), (12, 2), (28, 2)];

/// A generator that needs no seed but a number (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    /// In 0..1.
    fn throw(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether one of `packets` and its answer come through.
    fn answered(&mut self, packets: u32, loss: f64) -> bool {
        (0..packets).any(|_| self.throw() >= loss && self.throw() >= loss)
    }
}

/// What became of one window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    Fine,
    Silent,
    Lost,
}

fn window(dice: &mut Dice, loss: f64, start: Instant) -> Became {
    let (mut window, mut silence) = (Window::default(), None::<Silence>);
    let (mut heard, mut pong, mut asked) = (false, false, start);
    for ms in 0..200 {
        let now = start + ms * MS;
        if let Some((_, packets)) = SENDS.iter().find(|(at, _)| *at == ms) {
            // The answer is there by the next millisecond.
            heard |= dice.answered(*packets, loss);
        }
        if ms % TICK != 0 {
            continue;
        }
        match &mut silence {
            None => match window.sample(now, ms == 0, heard && ms > 0, FLOOR) {
                Sign::Fine if heard && ms > 0 => return Became::Fine,
                Sign::Fine => {}
                Sign::Doubt => heard |= dice.answered(1, loss),
                Sign::Silent => {
                    silence = Some(Silence::declared(now, start, 0, FLOOR));
                    (pong, asked) = (dice.answered(1, loss), now);
                }
            },
            Some(_) if pong => return Became::Silent,
            Some(silence) => {
                if silence.lasts(now, Duration::ZERO) {
                    return Became::Lost;
                }
                if now - asked >= silence.ask_every() {
                    (pong, asked) = (dice.answered(1, loss), now);
                }
            }
        }
    }
    unreachable!("a silence is confirmed within 50 ms");
}

#[test]
fn false_alarms_on_lossy_paths_are_as_rare_as_computed() {
    let start = Instant::now();
    for (percent, windows) in [(1, 1_000_000), (5, 2_000_000), (10, 2_000_000), (30, 1_000_000)] {
        let loss = f64::from(percent) / 100.0;
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ percent as u64);
        let (mut silent, mut lost) = (0_u32, 0_u32);
        for _ in 0..windows {
            match window(&mut dice, loss, start) {
                Became::Fine => {}
                Became::Silent => silent += 1,
                Became::Lost => (silent, lost) = (silent + 1, lost + 1),
            }
        }
        let q = 1.0 - (1.0 - loss) * (1.0 - loss);
        // Declared: none of five packets and the question is answered. Confirmed: nor any of six questions.
        let computed = [q.powi(6), q.powi(12)].map(|rate| rate * f64::from(windows));
        println!(
            "{percent} % loss, {windows} windows: {silent} silent ({:.2} computed), {lost} confirmed ({:.4} \
             computed)",
            computed[0], computed[1]
        );
        for (found, computed) in [(silent, computed[0]), (lost, computed[1])] {
            // Five standard deviations of a count that is rare.
            let margin = 5.0 * computed.sqrt() + 1.0;
            assert!((f64::from(found) - computed).abs() <= margin, "{found} for {computed}");
        }
    }
}
