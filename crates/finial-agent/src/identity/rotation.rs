//! When an SVID is to be replaced.

use std::time::{Duration, SystemTime};

use finial_pki::lifetime::availability_target_applies;
use rand::Rng;

/// The rule for the agent's own SVID and for those of workloads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation {
    /// How long SVIDs shall outlive an outage of the server; only makes renewal earlier.
    pub availability_target: Option<Duration>,
}

impl Rotation {
    /// Draws the moment at which an SVID is to be replaced: when 45 to 55 % of its lifetime remain, or earlier for the
    /// availability target. An SVID that is past that moment when it arrives, because it is short-lived or clocks disagree,
    /// is replaced at half of what remains of it.
    pub fn renew_at(
        &self,
        not_before: SystemTime,
        not_after: SystemTime,
        now: SystemTime,
        rng: &mut impl Rng,
    ) -> SystemTime {
        let lifetime = not_after.duration_since(not_before).unwrap_or_default();
        let mut remaining = lifetime.mul_f64(rng.random_range(0.45..=0.55));
        if let Some(target) = self.availability_target
            && availability_target_applies(not_before, not_after, target)
        {
            let spread = TARGET_SPREAD.mul_f64(rng.random_range(0.0..1.0));
            remaining = remaining.max(target + spread);
        }
        let renew_at = not_after.checked_sub(remaining).unwrap_or(not_after);
        if renew_at > now {
            return renew_at;
        }
        now + not_after.duration_since(now).unwrap_or_default() / 2
    }

    /// Whether the availability target is configured, and void for such a lifetime.
    pub fn falls_back(&self, not_before: SystemTime, not_after: SystemTime) -> bool {
        self.availability_target
            .is_some_and(|target| !availability_target_applies(not_before, not_after, target))
    }
}

const TARGET_SPREAD: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn draw(rotation: Rotation, not_after: u64, now: u64) -> impl Iterator<Item = SystemTime> {
        let mut rng = StdRng::seed_from_u64(7);
        (0..200).map(move |_| rotation.renew_at(at(0), at(not_after), at(now), &mut rng))
    }

    #[test]
    fn svids_are_renewed_around_half_of_their_lifetime() {
        for renew_at in draw(Rotation::default(), 1000, 10) {
            assert!(at(450) <= renew_at && renew_at <= at(550), "{renew_at:?}");
        }
    }

    #[test]
    fn an_availability_target_makes_renewal_earlier_and_never_later() {
        let hour = 3600;
        let early = Rotation {
            availability_target: Some(Duration::from_hours(48)),
        };
        for renew_at in draw(early, 72 * hour, 0) {
            assert!(renew_at <= at(24 * hour), "{renew_at:?}");
            assert!(renew_at > at(24 * hour - 600), "{renew_at:?}");
        }
        let late = Rotation {
            availability_target: Some(Duration::from_hours(24)),
        };
        for renew_at in draw(late, 100 * hour, 0) {
            assert!(renew_at <= at(55 * hour), "{renew_at:?}");
        }
    }

    #[test]
    fn a_target_that_leaves_too_little_is_void() {
        let rotation = Rotation {
            availability_target: Some(Duration::from_hours(24)),
        };
        assert!(rotation.falls_back(at(0), at(36 * 3600)));
        assert!(!rotation.falls_back(at(0), at(36 * 3600 + 1)));
        assert!(!Rotation::default().falls_back(at(0), at(60)));
    }

    #[test]
    fn an_svid_that_arrives_past_its_moment_is_not_renewed_at_once() {
        // One second to live, backdated by ten: half of eleven has long passed.
        for renew_at in draw(Rotation::default(), 11, 10) {
            assert_eq!(renew_at, at(10) + Duration::from_millis(500));
        }
    }
}
