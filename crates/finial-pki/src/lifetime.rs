//! When to rotate, as pure functions of issue, expiry and now.

use std::time::{Duration, SystemTime};

/// When the next authority is prepared: half the lifetime before expiry, at most 30 days.
///
/// Between preparation and activation it spreads through every agent's bundle.
pub fn prepare_at(issued: SystemTime, not_after: SystemTime) -> SystemTime {
    before(
        not_after,
        (lifetime(issued, not_after) / 2).min(MAX_PREPARATION),
    )
}

/// When the next authority starts to sign: a sixth of the lifetime before the old one's expiry, at most 7 days.
pub fn activate_at(issued: SystemTime, not_after: SystemTime) -> SystemTime {
    before(
        not_after,
        (lifetime(issued, not_after) / 6).min(MAX_ACTIVATION),
    )
}

/// Says whether an SVID should be renewed: when at most 45 to 55 % of its lifetime remain.
///
/// `jitter`, from 0 to 1, picks the threshold. It is drawn anew at each check, so that many SVIDs issued at once are not all
/// renewed at once.
pub fn svid_is_due(
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
    jitter: f64,
) -> bool {
    let threshold =
        lifetime(not_before, not_after).mul_f64(jitter.clamp(0.0, 1.0).mul_add(0.1, 0.45));
    remaining(not_after, now) <= threshold
}

/// Says the same with an availability target: an SVID is also due when no more than the target, and up to ten minutes, remain.
///
/// The target can only make renewal earlier; it is void where it leaves 12 hours or less of the lifetime.
pub fn svid_is_due_for(
    not_before: SystemTime,
    not_after: SystemTime,
    now: SystemTime,
    availability_target: Option<Duration>,
    jitter: f64,
) -> bool {
    let early = availability_target
        .filter(|target| availability_target_applies(not_before, not_after, *target))
        .is_some_and(|target| {
            remaining(not_after, now) <= target + TARGET_SPREAD.mul_f64(jitter.clamp(0.0, 1.0))
        });
    early || svid_is_due(not_before, not_after, now, jitter)
}

/// Says whether the lifetime leaves an availability target room.
pub fn availability_target_applies(
    not_before: SystemTime,
    not_after: SystemTime,
    target: Duration,
) -> bool {
    lifetime(not_before, not_after)
        .checked_sub(target)
        .is_some_and(|rest| rest > MIN_BESIDE_TARGET)
}

/// Says whether the server's own SVID should be renewed: at half its lifetime.
pub fn server_svid_is_due(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    remaining(not_after, now) <= lifetime(not_before, not_after) / 2
}

fn lifetime(start: SystemTime, end: SystemTime) -> Duration {
    end.duration_since(start).unwrap_or(Duration::ZERO)
}

fn remaining(not_after: SystemTime, now: SystemTime) -> Duration {
    not_after.duration_since(now).unwrap_or(Duration::ZERO)
}

fn before(time: SystemTime, distance: Duration) -> SystemTime {
    time.checked_sub(distance).unwrap_or(time)
}

const MAX_PREPARATION: Duration = Duration::from_hours(30 * 24);
const MAX_ACTIVATION: Duration = Duration::from_hours(7 * 24);
const TARGET_SPREAD: Duration = Duration::from_mins(10);
const MIN_BESIDE_TARGET: Duration = Duration::from_hours(12);

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(hours)
    }

    #[test]
    fn a_day_long_authority_is_replaced_after_12_hours_and_retired_after_20() {
        assert_eq!(prepare_at(at(0), at(24)), at(12));
        assert_eq!(activate_at(at(0), at(24)), at(20));
    }

    #[test]
    fn a_ten_year_authority_is_replaced_30_days_and_retired_7_days_before_its_end() {
        let end = 10 * 365 * 24;
        assert_eq!(prepare_at(at(0), at(end)), at(end - 30 * 24));
        assert_eq!(activate_at(at(0), at(end)), at(end - 7 * 24));
    }

    #[test]
    fn an_svid_is_due_between_45_and_55_percent_whatever_the_jitter() {
        for jitter in [0.0, 0.3, 1.0] {
            assert!(!svid_is_due(at(0), at(100), at(44), jitter));
            assert!(svid_is_due(at(0), at(100), at(55), jitter));
        }
        assert!(
            svid_is_due(at(0), at(100), at(46), 1.0) && !svid_is_due(at(0), at(100), at(46), 0.0)
        );
        assert!(svid_is_due(at(0), at(1), at(7), 0.0), "expired is due");
    }

    #[test]
    fn an_availability_target_makes_renewal_earlier_and_never_later() {
        let target = Some(Duration::from_hours(72));
        assert!(svid_is_due_for(at(0), at(96), at(24), target, 0.0));
        assert!(!svid_is_due_for(at(0), at(96), at(23), target, 0.0));
        assert!(svid_is_due_for(
            at(0),
            at(96),
            at(53),
            Some(Duration::from_hours(24)),
            0.0
        ));
        assert!(
            !svid_is_due_for(at(0), at(80), at(9), target, 0.0),
            "void: only 8 hours beside the target"
        );
    }
}
