//! The open connections, by user: where there is no room for another, the user who has the most gives one up.
//!
//! Files are few, connections cost their owner nothing, and everybody on the node may connect. Without this, one user's idle
//! connections would keep every other workload from its identity.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All open connections. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    limit: usize,
    open: Arc<Mutex<Open>>,
}

/// Connections in the order of their coming.
#[derive(Debug, Default)]
struct Open {
    by_user: HashMap<u32, BTreeMap<u64, CancellationToken>>,
    size: usize,
    next: u64,
}

/// The place of one connection; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    user: u32,
    number: u64,
    evicted: CancellationToken,
}

impl Crowd {
    /// Makes a crowd of so many at most.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Arc::default(),
        }
    }

    /// Takes a place for a connection of `user`, at the cost of another when there is none.
    pub(super) fn enter(&self, user: u32) -> Place {
        let evicted = CancellationToken::new();
        let mut open = self.lock();
        while open.size >= self.limit && open.evict_one() {}
        let number = open.next;
        open.next += 1;
        open.size += 1;
        let places = open.by_user.entry(user).or_default();
        places.insert(number, evicted.clone());
        drop(open);
        Place {
            crowd: self.clone(),
            user,
            number,
            evicted,
        }
    }

    /// Ends the longest open connection of the user who has the most.
    pub(super) fn make_room(&self) {
        self.lock().evict_one();
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn evict_one(&mut self) -> bool {
        let largest = self.by_user.values_mut().max_by_key(|places| places.len());
        let Some((_, oldest)) = largest.and_then(BTreeMap::pop_first) else {
            return false;
        };
        oldest.cancel();
        self.size -= 1;
        true
    }
}

impl Place {
    /// Resolves when the place is needed for somebody else.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.crowd.lock();
        let Some(places) = open.by_user.get_mut(&self.user) else {
            return;
        };
        let was_open = places.remove(&self.number).is_some();
        if places.is_empty() {
            open.by_user.remove(&self.user);
        }
        open.size -= usize::from(was_open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_with_the_most_connections_gives_up_the_oldest() {
        let crowd = Crowd::new(7);
        let modest = [crowd.enter(1), crowd.enter(1)];
        let greedy: Vec<_> = std::iter::repeat_with(|| crowd.enter(2)).take(5).collect();

        crowd.make_room();
        let newcomers = [crowd.enter(3), crowd.enter(3)];

        let evicted = |place: &Place| place.evicted.is_cancelled();
        assert!(!modest.iter().chain(&newcomers).any(evicted));
        let gone: Vec<_> = greedy.iter().map(evicted).collect();
        assert_eq!(gone, [true, true, false, false, false]);
    }

    #[test]
    fn a_connection_that_has_ended_is_forgotten() {
        let crowd = Crowd::new(1);
        let first = crowd.enter(1);
        let second = crowd.enter(1);
        assert!(first.evicted.is_cancelled());
        drop((first, second));

        let open = crowd.lock();
        assert!(open.by_user.is_empty());
        assert_eq!(open.size, 0);
    }
}
