//! Exponential backoff with jitter.

use std::time::Duration;

use rand::Rng;

const MULTIPLIER: f64 = 1.5;
const JITTER: f64 = 0.1;

/// Waits that grow by half each time, give or take a tenth, up to a largest interval.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max_interval: Duration,
    max_elapsed: Option<Duration>,
    current: Duration,
    elapsed: Duration,
}

impl Backoff {
    /// Creates a backoff that starts at `initial`. With `max_elapsed` it gives up once the waits add up to more.
    pub fn new(initial: Duration, max_interval: Duration, max_elapsed: Option<Duration>) -> Self {
        Self {
            initial,
            max_interval,
            max_elapsed,
            current: initial.min(max_interval),
            elapsed: Duration::ZERO,
        }
    }

    /// Returns how long to wait before the next try, or `None` when it is time to give up.
    pub fn next(&mut self, rng: &mut impl Rng) -> Option<Duration> {
        let wait = self
            .current
            .mul_f64(rng.random_range(1.0 - JITTER..=1.0 + JITTER));
        let elapsed = self.elapsed.saturating_add(wait);
        if self.max_elapsed.is_some_and(|max| elapsed > max) {
            return None;
        }
        self.elapsed = elapsed;
        self.current = self.current.mul_f64(MULTIPLIER).min(self.max_interval);
        Some(wait)
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.current = self.initial.min(self.max_interval);
        self.elapsed = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn near(wait: Duration, expected_ms: u64) -> bool {
        let expected = Duration::from_millis(expected_ms);
        wait >= expected.mul_f64(0.89) && wait <= expected.mul_f64(1.11)
    }

    #[test]
    fn waits_grow_by_half_up_to_the_largest_interval_and_start_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(2), None);
        for expected_ms in [1000, 1500, 2000, 2000] {
            assert!(near(backoff.next(&mut rng).unwrap(), expected_ms));
        }
        backoff.reset();
        assert!(near(backoff.next(&mut rng).unwrap(), 1000));
    }

    #[test]
    fn it_gives_up_when_the_waits_add_up_to_more_than_allowed() {
        let mut rng = StdRng::seed_from_u64(1);
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second, Some(Duration::from_secs(3)));
        let waits = std::iter::from_fn(|| backoff.next(&mut rng)).count();
        assert!((2..=3).contains(&waits), "{waits}");
    }
}
