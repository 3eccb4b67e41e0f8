//! The decision: what is the next step of the rotation, if any.

use std::time::SystemTime;

use finial_pki::lifetime::{activate_at, prepare_at};

use super::slot::{SlotId, SlotState, Slots};

/// One step. Every step is idempotent: repeating one after a crash does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make an authority in this slot and publish it.
    Prepare(SlotId),
    /// Let the prepared authority in this slot sign.
    Activate(SlotId),
}

/// What the decision sees of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotView {
    pub(crate) state: SlotState,
    pub(crate) issued_at: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// What the decision sees of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SlotViews {
    pub(crate) a: Option<SlotView>,
    pub(crate) b: Option<SlotView>,
}

impl SlotViews {
    pub(crate) fn of(slots: &Slots) -> Self {
        let view = |slot| {
            slots.get(slot).map(|authority| SlotView {
                state: authority.state,
                issued_at: authority.issued_at,
                not_after: authority.not_after(),
            })
        };
        Self {
            a: view(SlotId::A),
            b: view(SlotId::B),
        }
    }

    const fn get(&self, slot: SlotId) -> Option<SlotView> {
        match slot {
            SlotId::A => self.a,
            SlotId::B => self.b,
        }
    }

    fn find(&self, state: SlotState, now: SystemTime) -> Option<(SlotId, SlotView)> {
        [SlotId::A, SlotId::B]
            .into_iter()
            .filter_map(|slot| Some((slot, self.get(slot)?)))
            .find(|(_, view)| view.state == state && now < view.not_after)
    }
}

/// The next step, if any. Pure: same slots and time, same answer.
///
/// An authority that has expired counts as none, whatever its state.
pub(crate) fn plan(slots: &SlotViews, now: SystemTime) -> Option<Step> {
    let prepared = slots.find(SlotState::Prepared, now).map(|(slot, _)| slot);
    let Some((slot, active)) = slots.find(SlotState::Active, now) else {
        // An expired authority is replaced last: by its key, the journal is found again after a crash.
        let free = match slots.a {
            Some(SlotView {
                state: SlotState::Active,
                ..
            }) => SlotId::B,
            _ => SlotId::A,
        };
        return Some(prepared.map_or(Step::Prepare(free), Step::Activate));
    };
    match prepared {
        Some(prepared) if now >= activate_at(active.issued_at, active.not_after) => {
            Some(Step::Activate(prepared))
        }
        None if now >= prepare_at(active.issued_at, active.not_after) => {
            Some(Step::Prepare(slot.other()))
        }
        Some(_) | None => None,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
