use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn at(hours: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(hours)
}

fn view(state: SlotState, issued: u64, not_after: u64) -> SlotView {
    SlotView {
        state,
        issued_at: at(issued),
        not_after: at(not_after),
    }
}

fn slots(a: impl Into<Option<SlotView>>, b: impl Into<Option<SlotView>>) -> SlotViews {
    SlotViews {
        a: a.into(),
        b: b.into(),
    }
}

#[test]
fn a_day_long_authority_goes_through_its_life_on_time() {
    let active = view(SlotState::Active, 0, 24);
    let prepared = view(SlotState::Prepared, 12, 36);
    for (slots, now, expected) in [
        (slots(None, None), 0, Some(Step::Prepare(SlotId::A))),
        (
            slots(view(SlotState::Prepared, 0, 24), None),
            0,
            Some(Step::Activate(SlotId::A)),
        ),
        (slots(active, None), 11, None),
        (slots(active, None), 12, Some(Step::Prepare(SlotId::B))),
        (slots(active, prepared), 19, None),
        (slots(active, prepared), 20, Some(Step::Activate(SlotId::B))),
        (
            slots(view(SlotState::Old, 0, 24), view(SlotState::Active, 12, 36)),
            20,
            None,
        ),
        (
            slots(view(SlotState::Old, 0, 24), view(SlotState::Active, 12, 36)),
            24,
            Some(Step::Prepare(SlotId::A)),
        ),
    ] {
        assert_eq!(plan(&slots, at(now)), expected, "{slots:?} at {now}");
    }
}

#[test]
fn a_server_that_slept_past_every_expiry_starts_again() {
    let slept = slots(
        view(SlotState::Active, 0, 24),
        view(SlotState::Prepared, 12, 36),
    );
    assert_eq!(
        plan(&slept, at(30)),
        Some(Step::Activate(SlotId::B)),
        "the prepared one is still good"
    );
    assert_eq!(plan(&slept, at(40)), Some(Step::Prepare(SlotId::B)));
}

/// Carries a step out the way the rotator does, in the abstract.
fn carry_out(slots: &mut SlotViews, step: Step, now: SystemTime, ttl: Duration) {
    let place = |slots: &mut SlotViews, slot, view| match slot {
        SlotId::A => slots.a = view,
        SlotId::B => slots.b = view,
    };
    match step {
        Step::Prepare(slot) => {
            let view = SlotView {
                state: SlotState::Prepared,
                issued_at: now,
                not_after: now + ttl,
            };
            place(slots, slot, Some(view));
        }
        Step::Activate(slot) => {
            let new = slots.get(slot).expect("only what is there is activated");
            let old = slots.get(slot.other()).map(|old| match old.state {
                SlotState::Active => SlotView {
                    state: SlotState::Old,
                    ..old
                },
                SlotState::Prepared | SlotState::Old => old,
            });
            place(
                slots,
                slot,
                Some(SlotView {
                    state: SlotState::Active,
                    ..new
                }),
            );
            place(slots, slot.other(), old);
        }
    }
}

fn any_view() -> impl Strategy<Value = Option<SlotView>> {
    let state = prop_oneof![
        Just(SlotState::Prepared),
        Just(SlotState::Active),
        Just(SlotState::Old)
    ];
    proptest::option::of((state, 0..2_000_000_u64, 1..4_000_000_u64).prop_map(
        |(state, issued, lifetime)| SlotView {
            state,
            issued_at: UNIX_EPOCH + Duration::from_secs(issued),
            not_after: UNIX_EPOCH + Duration::from_secs(issued + lifetime),
        },
    ))
}

proptest! {
    #[test]
    fn from_any_state_it_settles_with_one_live_active_authority(
        a in any_view(), b in any_view(), now in 0..8_000_000_u64, ttl in 60..400_000_000_u64,
    ) {
        let mut slots = slots(a, b);
        prop_assume!(!matches!((a, b), (Some(a), Some(b)) if a.state == SlotState::Active && b.state == SlotState::Active));
        let (now, ttl) = (UNIX_EPOCH + Duration::from_secs(now), Duration::from_secs(ttl));
        let mut steps = 0;
        while let Some(step) = plan(&slots, now) {
            if let Step::Activate(slot) = step {
                let activated = slots.get(slot).expect("there is something to activate");
                prop_assert_eq!(activated.state, SlotState::Prepared, "only what was published is activated");
                prop_assert!(now < activated.not_after);
            }
            if let Step::Prepare(slot) = step {
                let lost = slots.get(slot);
                let is_live_active = lost.is_some_and(|lost| lost.state == SlotState::Active && now < lost.not_after);
                prop_assert!(!is_live_active, "the active authority is never overwritten");
            }
            carry_out(&mut slots, step, now, ttl);
            steps += 1;
            prop_assert!(steps <= 4, "it settles");
        }
        prop_assert!(slots.find(SlotState::Active, now).is_some());
    }

    #[test]
    fn over_a_long_life_there_is_always_exactly_one_active_authority(
        ttl in 3_600..40_000_000_u64, ticks in proptest::collection::vec(1..2_000_000_u64, 1..60),
    ) {
        let ttl = Duration::from_secs(ttl);
        let mut slots = SlotViews::default();
        let mut now = UNIX_EPOCH;
        for tick in ticks {
            while let Some(step) = plan(&slots, now) {
                carry_out(&mut slots, step, now, ttl);
            }
            let active = [slots.a, slots.b].into_iter().flatten().filter(|view| view.state == SlotState::Active);
            prop_assert_eq!(active.count(), 1);
            now += Duration::from_secs(tick);
        }
    }
}
