//! The cgroup file of a process names no container, or one whose id stands in it.
#![no_main]

use finial_plugins::workload_attestor::container::locate_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|cgroup: &str| {
    if let Ok(location) = locate_in(cgroup)
        && let Some(container) = location.container
    {
        assert_eq!(container.id.len(), 64);
        assert!(cgroup.contains(&container.id));
        if let Some(pod_uid) = container.pod_uid {
            assert_eq!(pod_uid.len(), 36);
            assert!(cgroup.replace('_', "-").contains(&pod_uid));
        }
    }
});
