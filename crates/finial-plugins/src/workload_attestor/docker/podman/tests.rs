use std::os::unix::net::UnixStream;

use finial_plugin::workload::Peer;

use super::*;

fn cgroup(path: &str) -> Cgroup {
    Cgroup {
        hierarchy: String::new(),
        path: path.to_owned(),
    }
}

fn this_process() -> Workload {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    Peer::capture(&ours).unwrap().open().unwrap()
}

/// Where `podman` sends questions about container 77 of this process, in cgroups of `paths`.
fn engine(podman: &Podman, paths: &[&str]) -> Result<Option<String>, String> {
    let cgroups: Vec<_> = paths.iter().map(|path| cgroup(path)).collect();
    match podman.engine_of(&this_process(), &cgroups, "77") {
        Ok(asked) => Ok(asked.map(|asked| asked.engine.address().to_string())),
        Err(error) => Err(error.to_string()),
    }
}

fn trusting() -> Podman {
    Podman::new(None, Some(ROOTLESS_SOCKET)).unwrap()
}

fn in_slice(user: u32) -> String {
    format!("/user.slice/user-{user}.slice/user@{user}.service/user.slice/libpod-77.scope")
}

#[test]
fn the_cgroup_tells_whose_engine_to_ask() {
    let podman = trusting();
    let user = this_process().uid();
    let rootful = Ok(Some("/run/podman/podman.sock".to_owned()));
    let rootless = Ok(Some(format!("/run/user/{user}/podman/podman.sock")));
    let own = in_slice(user);
    let own = own.as_str();

    assert_eq!(engine(&podman, &["/docker/77"]), Ok(None));
    for path in [
        "/machine.slice/libpod-77.scope/container",
        "/libpod_parent/libpod-77",
        "/../../machine.slice/libpod-77.scope",
        "/user.slice/user-99999999999.slice/libpod-77.scope",
    ] {
        assert_eq!(engine(&podman, &[path]), rootful, "{path}");
    }
    let with_cgroupfs = format!("/user.slice/user-{user}.slice/user.slice/libpod/77");
    let from_a_namespace = format!("/../..{own}");
    for path in [own, &with_cgroupfs, &from_a_namespace] {
        assert_eq!(engine(&podman, &[path]), rootless, "{path}");
    }
    // version 1: only some hierarchies are the user's to make cgroups in
    let session = format!("/user.slice/user-{user}.slice/session-1.scope");
    assert_eq!(engine(&podman, &[&session, own, "/"]), rootless);
}

#[test]
fn only_the_slice_at_the_root_is_a_users() {
    let podman = trusting();
    let user = this_process().uid();
    let rootful = Ok(Some("/run/podman/podman.sock".to_owned()));
    // Whoever may make cgroups in a container names them as he likes.
    for path in [
        format!("/docker/88{}", in_slice(user)),
        format!("/docker/88/user-{user}.slice/libpod-77.scope"),
        format!("/../88{}", in_slice(user)),
        format!("/system.slice/foo.service{}", in_slice(user)),
        format!("/user.slice/x/user-{user}.slice/libpod-77.scope"),
    ] {
        assert_eq!(engine(&podman, &[&path]), rootful, "{path}");
    }
    // The slice it is in counts, not what it calls another one further down.
    let other = user + 1;
    let path = format!(
        "/user.slice/user-{other}.slice/user@{other}.service/machine.slice/libpod-77.scope"
    );
    engine(&podman, &[&path]).unwrap_err();
    let path = format!("/user.slice/user-{other}.slice{}", in_slice(user));
    engine(&podman, &[&path]).unwrap_err();
    // A row that bears another id says nothing about this one.
    let path = in_slice(user).replace("77", "88");
    assert_eq!(engine(&podman, &[&path, "/docker/77"]), Ok(None));
}

#[test]
fn the_engine_of_a_user_is_not_asked_about_processes_of_others() {
    // As `sudo` leaves them in the slice of who ran it.
    let user = this_process().uid();
    let error = engine(&trusting(), &[&in_slice(user + 1)]).unwrap_err();
    assert!(
        error.contains(&format!("user {user} runs a process in")),
        "{error}"
    );
}

#[test]
fn the_engine_of_a_user_must_be_that_users_and_is_asked_in_turns() {
    let podman = trusting();
    let process = this_process();
    let ask = || {
        let cgroups = [cgroup(&in_slice(process.uid()))];
        podman.engine_of(&process, &cgroups, "77").unwrap().unwrap()
    };
    let (one, two) = (ask(), ask());
    assert!(matches!(
        one.engine.address(),
        Address::Unix { owner: Some(owner), .. } if *owner == process.uid()
    ));
    assert!(Arc::ptr_eq(&one.turns.unwrap(), &two.turns.unwrap()));
    let cgroups = [cgroup("/machine.slice/libpod-77.scope")];
    let rootful = podman.engine_of(&process, &cgroups, "77");
    assert!(rootful.unwrap().unwrap().turns.is_none());
}

#[test]
fn the_engines_of_users_are_believed_only_where_the_operator_says_so() {
    let podman = Podman::new(None, None).unwrap();
    let error = engine(&podman, &[&in_slice(this_process().uid())]).unwrap_err();
    assert!(error.contains("set podman_socket_path_template"), "{error}");
}

#[test]
fn a_user_namespace_stands_for_the_users_it_maps() {
    let rootless = "         0       1000          1\n         1     100000      65536\n";
    assert!(is_mapped(rootless, 1000));
    assert!(is_mapped(rootless, 165_535));
    assert!(!is_mapped(rootless, 1001));
    assert!(!is_mapped(rootless, 165_536));
    assert!(!is_mapped("         0          0 4294967295\n", 1000));
    assert!(!is_mapped("", 0));
}

#[test]
fn the_namespace_of_the_agent_itself_stands_for_nobody() {
    let process = this_process();
    assert!(!maps_user(&process, process.uid()).unwrap());
}

#[test]
fn a_template_has_one_place_for_the_user() {
    assert_eq!(
        split_template("unix:///a%%/%d/b").unwrap(),
        ("unix:///a%/".into(), "/b".into())
    );
    for template in ["unix:///a", "unix:///%d/%d", "unix:///%s", "unix:///%d%"] {
        assert_eq!(split_template(template), None, "{template}");
        assert!(Podman::new(None, Some(template)).is_err(), "{template}");
    }
}
