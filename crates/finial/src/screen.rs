//! What the newcomer sees.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use finial_client::workload::WorkloadIdentity;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// Standard output; a closed one is no reason to stop serving.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Screen;

impl Screen {
    pub(crate) fn line(self, text: &str) {
        drop(writeln!(std::io::stdout(), "{text}"));
    }

    /// The first identity, in full.
    pub(crate) fn first(self, identity: &WorkloadIdentity, took: Duration) {
        let svid = &identity.svid;
        self.line(&format!("First SVID after {} ms", took.as_millis()));
        self.line(&format!("  SPIFFE ID  {}", svid.id()));
        self.line(&format!("  Serial     {}", svid.serial()));
        self.line(&format!("  Expires    {}", time(svid.not_after())));
    }

    /// One that replaced another, in a line.
    pub(crate) fn rotated(self, identity: &WorkloadIdentity) {
        let svid = &identity.svid;
        self.line(&format!(
            "Rotated: {}  serial {}  expires {}",
            svid.id(),
            svid.serial(),
            time(svid.not_after())
        ));
    }
}

fn time(moment: SystemTime) -> String {
    OffsetDateTime::from(moment)
        .format(TIME)
        .unwrap_or_else(|_| "at a time that has no name".to_owned())
}
