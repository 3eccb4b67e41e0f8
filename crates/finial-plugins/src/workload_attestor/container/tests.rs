use proptest::prelude::*;

use super::*;

mod seen;

const ID: &str = "30659a8817cc0e16b3fc4fb1253423552ce7db0949766eb573f8cce785c28684";
const OTHER: &str = "bc6dcca632c48528b4024723cfe3d4ec7287ca6fc88ce123de424f38c1ab2a7f";
const POD: &str = "00000000-1111-2222-3333-444444444444";
const OTHER_POD: &str = "ffffffff-1111-2222-3333-444444444444";

fn locate_in(cgroup: &str) -> Result<Option<Container>, LocateError> {
    Ok(place(cgroup_rows(cgroup)?)?.container)
}

fn container(id: &str) -> Container {
    Container {
        id: id.to_owned(),
        pod_uid: None,
    }
}

fn in_pod(id: &str, pod: &str) -> Container {
    Container {
        id: id.to_owned(),
        pod_uid: Some(pod.to_owned()),
    }
}

#[test]
fn paths_of_all_engines_are_read() {
    let systemd_pod = POD.replace('-', "_");
    let cases = [
        (format!("/docker/{ID}"), container(ID)),
        (format!("/../{ID}"), container(ID)),
        (format!("/system.slice/docker-{ID}.scope"), container(ID)),
        (format!("/../docker-{ID}.scope"), container(ID)),
        (format!("/../crio-{ID}.scope"), container(ID)),
        (format!("/libpod_parent/libpod-{ID}"), container(ID)),
        (
            format!("/machine.slice/libpod-{ID}.scope/container"),
            container(ID),
        ),
        (
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
            container(ID),
        ),
        (
            format!("/lxc.payload/{ID}/init.scope/system.slice"),
            container(ID),
        ),
        (
            format!("/kubepods/burstable/pod{POD}/{ID}"),
            in_pod(ID, POD),
        ),
        (
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd_pod}.slice/cri-containerd-{ID}.scope"
            ),
            in_pod(ID, POD),
        ),
        (
            format!(
                "/system.slice/containerd.service/kubepods-burstable-pod{systemd_pod}.slice:cri-containerd:{ID}"
            ),
            in_pod(ID, POD),
        ),
        (
            format!("/docker/{OTHER}/kubepods/besteffort/pod{POD}/{ID}"),
            in_pod(ID, POD),
        ),
        (
            format!("/docker/{OTHER}/kubelet/kubepods/pod{POD}/{ID}/sub"),
            in_pod(ID, POD),
        ),
        (
            format!("/../../kubelet-kubepods-besteffort-pod{systemd_pod}.slice/crio-{ID}.scope"),
            in_pod(ID, POD),
        ),
        (format!("/kubepods/pod{POD}/{ID}/"), in_pod(ID, POD)),
    ];

    for (path, expected) in cases {
        assert_eq!(parse_path(&path), Some(expected), "{path}");
    }
}

#[test]
fn what_only_looks_like_a_container_is_none() {
    let paths = [
        "/".to_owned(),
        "/it/t1".to_owned(),
        "/system.slice/wl1.service".to_owned(),
        "/process_api/4140070a16ab0b0793e298b48462566a".to_owned(),
        "/../../init.scope".to_owned(),
        "/system.slice/crio.service".to_owned(),
        format!("/kubepods/burstable/pod{POD}"),
        format!("/docker/{ID}0"),
        format!("/docker/x{ID}"),
        format!("/docker/docker_{ID}"),
        format!("/docker/{}", ID.strip_prefix('3').unwrap()),
        format!("/docker/{}g", ID.strip_prefix('3').unwrap()),
    ];

    for path in paths {
        assert_eq!(parse_path(&path), None, "{path}");
    }
}

#[test]
fn docker_on_cgroup_v1_names_the_container_in_every_row() {
    let rows = format!(
        "9:name=systemd:/docker/{ID}\n8:pids:/docker/{ID}\n1:cpu:/docker/{ID}\n0::/docker/{ID}\n"
    );

    assert_eq!(locate_in(&rows).unwrap(), Some(container(ID)));
}

#[test]
fn rows_without_a_container_do_not_contradict_rows_with_one() {
    let rows = format!("10:pids:/docker/{ID}\n9:rdma:/\n0::/system.slice/containerd.service\n");

    assert_eq!(locate_in(&rows).unwrap(), Some(container(ID)));
}

#[test]
fn a_pod_outranks_the_container_the_whole_cluster_runs_in() {
    let inner = format!("1:cpuset:/docker/{OTHER}/kubepods/besteffort/pod{POD}/{ID}");
    let outer = format!("0::/docker/{OTHER}/system.slice/containerd.service");

    assert_eq!(
        locate_in(&format!("{inner}\n{outer}\n")).unwrap(),
        Some(in_pod(ID, POD))
    );
    assert_eq!(
        locate_in(&format!("{outer}\n{inner}\n")).unwrap(),
        Some(in_pod(ID, POD))
    );
}

#[test]
fn conflicting_rows_are_refused() {
    let containers = locate_in(&format!("2:cpu:/docker/{ID}\n0::/docker/{OTHER}\n")).unwrap_err();
    let pods = locate_in(&format!(
        "2:cpu:/kubepods/pod{POD}/{ID}\n0::/kubepods/pod{OTHER_POD}/{ID}\n"
    ))
    .unwrap_err();

    assert_eq!(
        containers.to_string(),
        format!("multiple container IDs found (\"{ID}\", \"{OTHER}\")")
    );
    assert_eq!(
        pods.to_string(),
        format!("multiple pod UIDs found (\"{POD}\", \"{OTHER_POD}\")")
    );
}

#[test]
fn a_process_in_no_cgroup_that_tells_is_in_no_container() {
    for nothing in ["9:name=systemd:/\n0::/\n", "0::/../..\n", "0::/\n", ""] {
        assert_eq!(locate_in(nothing).unwrap(), None, "{nothing}");
    }
}

#[test]
fn malformed_files_are_errors() {
    for line in ["0:/x\n", "0\n", "0::/\nx\n"] {
        assert!(
            matches!(locate_in(line), Err(LocateError::Cgroup { .. })),
            "{line}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_is_found_is_a_container_id(path in "[/a-f0-9pod:._\\-é]{0,200}") {
        if let Some(found) = parse_path(&path) {
            prop_assert_eq!(found.id.len(), CONTAINER_ID_LENGTH);
            prop_assert!(found.id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn no_file_makes_it_panic(cgroup in ".{0,200}") {
        drop(locate_in(&cgroup));
    }
}

#[test]
fn a_claim_holds_in_the_cgroup_of_the_first_process_alone() {
    let inside = |caller: &str, first: &str| {
        let [caller, first] = [caller, first].map(|content| cgroup_rows(content).unwrap());
        is_inside(&caller, &first, ID)
    };
    for first in [
        format!("0::/system.slice/docker-{ID}.scope"),
        format!("0::/../docker-{ID}.scope"),
        format!("9:name=systemd:/docker/{ID}\n4:memory:/docker/{ID}\n0::/docker/{ID}"),
        format!("0::/machine.slice/libpod-{ID}.scope"),
    ] {
        assert!(inside(&first, &first), "{first}");
        let own_slice = format!("{first}/system.slice/web.service");
        assert!(inside(&own_slice, &first), "{own_slice}");
        // systemd in the container has moved itself aside
        let moved = format!("{first}/init.scope");
        assert!(inside(&first, &moved), "{moved}");
    }
    let first = format!("4:memory:/docker/{ID}\n0::/docker/{ID}");
    for forged in [
        format!("4:memory:/user.slice/docker/{ID}\n0::/"),
        format!("4:memory:/docker/{OTHER}/{ID}\n0::/docker/{OTHER}"),
        // one row that is right does not make the other so
        format!("4:memory:/docker/{ID}\n0::/user.slice/docker/{ID}"),
        format!("4:memory:/docker/{ID}0\n0::/docker/{ID}0"),
        format!("5:pids:/docker/{ID}"),
        // no path bears the id: the claim came from the mounts
        "4:memory:/\n0::/".to_owned(),
    ] {
        assert!(!inside(&forged, &first), "{forged}");
    }
    assert!(inside("0::/", "0::/"));
    assert!(!inside("0::/..", "0::/"));
}
