//! The two places that authorities take turns in.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use finial_pki::x509::Issuer;
use finial_plugin::key_manager::KeyId;
use spiffe_types::bundle::AuthorityId;

/// One of the two places. The authority that signs is in one while its successor is made in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SlotId {
    A,
    B,
}

impl SlotId {
    /// Reads the name that journals use.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "A" => Some(Self::A),
            "B" => Some(Self::B),
            _ => None,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The key of the X.509 authority in this slot, as SPIRE names it: its key managers' keys are found again.
    pub(crate) fn x509_key_id(self) -> KeyId {
        KeyId::new(format!("x509-CA-{self}"))
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an authority is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SlotState {
    /// Published, but not signing yet.
    Prepared,
    /// Signing.
    Active,
    /// No longer signing, but still believed.
    Old,
}

/// An authority in its slot.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    pub(crate) slot: SlotId,
    pub(crate) state: SlotState,
    pub(crate) issued_at: SystemTime,
    pub(crate) id: AuthorityId,
    pub(crate) issuer: Issuer,
    /// Intermediates between the authority and a root, when another authority signed it.
    pub(crate) upstream_chain: Vec<Bytes>,
    /// The authority that signed it, when it is another.
    pub(crate) upstream_id: Option<AuthorityId>,
}

impl Authority {
    pub(crate) const fn not_after(&self) -> SystemTime {
        self.issuer.not_after()
    }
}

/// Both slots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    a: Option<Authority>,
    b: Option<Authority>,
}

impl Slots {
    pub(crate) const fn get(&self, slot: SlotId) -> Option<&Authority> {
        match slot {
            SlotId::A => self.a.as_ref(),
            SlotId::B => self.b.as_ref(),
        }
    }

    pub(crate) fn put(&mut self, authority: Authority) {
        let place = match authority.slot {
            SlotId::A => &mut self.a,
            SlotId::B => &mut self.b,
        };
        *place = Some(authority);
    }

    pub(crate) fn clear(&mut self, slot: SlotId) {
        match slot {
            SlotId::A => self.a = None,
            SlotId::B => self.b = None,
        }
    }

    pub(crate) fn active(&self) -> Option<&Authority> {
        self.iter()
            .find(|authority| authority.state == SlotState::Active)
    }

    /// The one that is not active: prepared or old.
    pub(crate) fn next(&self) -> Option<&Authority> {
        self.iter()
            .find(|authority| authority.state != SlotState::Active)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Authority> {
        [&self.a, &self.b].into_iter().flatten()
    }

    /// Makes the authority in `slot` the active one, and the one that was active old.
    pub(crate) fn activate(&mut self, slot: SlotId) {
        for authority in [&mut self.a, &mut self.b].into_iter().flatten() {
            if authority.slot == slot {
                authority.state = SlotState::Active;
            } else if authority.state == SlotState::Active {
                authority.state = SlotState::Old;
            }
        }
    }
}
