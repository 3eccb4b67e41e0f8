//! What agents were told that have lost their stream: most come back within seconds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use spiffe_types::id::SpiffeId;

use crate::registry::View;

/// The last views of so many agents; the oldest is forgotten first.
#[derive(Debug, Default)]
pub(super) struct Parted {
    views: Mutex<Views>,
}

#[derive(Debug, Default)]
struct Views {
    by_agent: HashMap<SpiffeId, View>,
    /// In the order in which agents left; some may have come back since.
    order: VecDeque<SpiffeId>,
}

impl Parted {
    pub(super) fn keep(&self, agent: &SpiffeId, view: View) {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if views.by_agent.insert(agent.clone(), view).is_none() {
            views.order.push_back(agent.clone());
        }
        while views.order.len() > KEPT {
            if let Some(oldest) = views.order.pop_front() {
                views.by_agent.remove(&oldest);
            }
        }
    }

    pub(super) fn take(&self, agent: &SpiffeId) -> Option<View> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let view = views.by_agent.remove(agent)?;
        views.order.retain(|other| other != agent);
        Some(view)
    }
}

const KEPT: usize = 1_000;
