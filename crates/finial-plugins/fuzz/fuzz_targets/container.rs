//! The files of a process name no container, or one whose id stands in them.
#![no_main]

use finial_plugins::workload_attestor::container::locate_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A form feed ends the first file.
    let (cgroup, mountinfo) = text.split_once('\x0c').unwrap_or((text, ""));
    if let Ok(location) = locate_in(cgroup, mountinfo)
        && let Some(container) = location.container
    {
        assert_eq!(container.id.len(), 64);
        assert!(text.contains(&container.id));
        if let Some(pod_uid) = container.pod_uid {
            assert_eq!(pod_uid.len(), 36);
            assert!(text.replace('_', "-").contains(&pod_uid));
        }
    }
});
