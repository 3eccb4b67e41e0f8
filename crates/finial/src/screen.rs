//! What the newcomer sees.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use finial_client::workload::WorkloadIdentity;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// Prints a line to standard output; a closed one is no reason to stop serving.
pub(crate) fn line(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// The first identity, in full.
pub(crate) fn first(identity: &WorkloadIdentity, took: Duration) {
    let svid = &identity.svid;
    line(&format!("First SVID after {} ms", took.as_millis()));
    line(&format!("  SPIFFE ID  {}", svid.id()));
    line(&format!("  Serial     {}", svid.serial()));
    line(&format!("  Expires    {}", time(svid.not_after())));
}

/// One that replaced another, in a line.
pub(crate) fn rotated(identity: &WorkloadIdentity) {
    let svid = &identity.svid;
    line(&format!(
        "Rotated: {}  serial {}  expires {}",
        svid.id(),
        svid.serial(),
        time(svid.not_after())
    ));
}

fn time(moment: SystemTime) -> String {
    OffsetDateTime::from(moment)
        .format(TIME)
        .unwrap_or_else(|_| "at a time that has no name".to_owned())
}
