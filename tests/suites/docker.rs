//! Containers and their identities, with a real engine. Needs Docker: see [`tools::docker`].

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use finial_tests::containers::Containers;
use finial_tests::tools;

const ENGINE: &str = "/var/run/docker.sock:/var/run/docker.sock:ro";

/// A server and an agent as the lab of `deploy/compose` has them, and the identities `/a` and `/b` for the labels `a` and `b`.
fn lab() -> (Containers, String, String) {
    let lab = Containers::start().unwrap();
    let parent = lab
        .start_agent("agent", &["--pid=host", "--cgroupns=private", "-v", ENGINE])
        .unwrap();
    let a = lab.register("/a", &parent, "a").unwrap();
    let b = lab.register("/b", &parent, "b").unwrap();
    (lab, a, b)
}

fn label(name: &str) -> String {
    format!("--label=org.example.workload={name}")
}

/// Calls from the container `name` are refused with `words`.
fn assert_refused(lab: &Containers, name: &str, words: &[&str]) {
    let output = lab.fetch(name).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for word in words {
        assert!(error.contains(word), "{word} is missing in: {error}");
    }
}

#[test]
fn labelled_containers_get_their_identities_and_one_without_a_label_is_refused() {
    let Some(_engine) = tools::docker() else {
        return;
    };
    let (lab, a, b) = lab();
    for namespace in ["private", "host"] {
        let flag = format!("--cgroupns={namespace}");
        let named = |name: &str| format!("{name}-{namespace}");
        lab.start_workload(&named("a"), "agent", &[&label("a"), &flag])
            .unwrap();
        lab.start_workload(
            &named("b"),
            "agent",
            &[&label("b"), &flag, "--user=1000:1000"],
        )
        .unwrap();
        lab.start_workload(&named("stranger"), "agent", &[&flag])
            .unwrap();
        lab.wait_identity(&named("a"), &a);
        lab.wait_identity(&named("b"), &b);
        assert_refused(
            &lab,
            &named("stranger"),
            &["rpc error: code = PermissionDenied desc = no identity issued"],
        );
    }
}

#[test]
fn a_container_keeps_its_identity_through_pause_and_restart_and_lends_it_to_nobody() {
    let Some(_engine) = tools::docker() else {
        return;
    };
    let (lab, a, b) = lab();
    lab.start_workload("a", "agent", &[&label("a")]).unwrap();
    lab.wait_identity("a", &a);

    // Another container in its PID namespace is another container.
    let namespace = format!("--pid=container:{}", lab.name("a"));
    lab.start_workload("b", "agent", &[&label("b"), &namespace])
        .unwrap();
    lab.wait_identity("b", &b);
    lab.start_workload("stranger", "agent", &[&namespace])
        .unwrap();
    assert_refused(&lab, "stranger", &["no identity issued"]);

    lab.act("pause", "a").unwrap();
    lab.wait_identity("b", &b);
    lab.act("unpause", "a").unwrap();
    lab.wait_identity("a", &a);

    for name in ["stranger", "b"] {
        lab.act("kill", name).unwrap();
    }
    lab.act("restart", "a").unwrap();
    lab.wait_identity("a", &a);

    // Its name is no label.
    lab.act("kill", "a").unwrap();
    lab.act("rm", "a").unwrap();
    lab.start_workload("a", "agent", &[]).unwrap();
    assert_refused(&lab, "a", &["no identity issued"]);
}

#[test]
fn an_agent_that_cannot_see_callers_or_engine_and_a_server_without_its_folder_say_what_to_do() {
    let Some(_engine) = tools::docker() else {
        return;
    };
    let lab = Containers::start().unwrap();
    lab.start_agent("blind", &["-v", ENGINE]).unwrap();
    lab.start_workload("unseen", "blind", &[&label("a")])
        .unwrap();
    assert_refused(&lab, "unseen", &["code = Unavailable", "`pid: host`"]);

    let parent = lab.start_lame_agent("alone", &["--pid=host"]).unwrap();
    lab.register("/a", &parent, "a").unwrap();
    lab.start_workload("unknown", "alone", &[&label("a")])
        .unwrap();
    assert_refused(
        &lab,
        "unknown",
        &["code = Unavailable", "docker", "/var/run/docker.sock"],
    );

    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let said = lab.server_fails_on(folder.path()).unwrap();
    assert!(said.contains("chown 1000 /opt/spire/data"), "{said}");
}

/// Makes a cgroup below its own that is named after the container `$VICTIM`, in every hierarchy, enters it, and calls.
const FORGE_CGROUP: &str = r#"
while IFS=: read -r _ hierarchy path; do
    for mount in "/sys/fs/cgroup/${hierarchy#name=}" /sys/fs/cgroup/unified /sys/fs/cgroup; do
        own=$mount$path
        [ -e "$own/cgroup.procs" ] && break
    done
    forged=$own/docker-$VICTIM.scope
    mkdir "$forged"
    for set in cpuset.cpus cpuset.mems; do
        [ -e "$own/$set" ] && read -r value <"$own/$set" && echo "$value" >"$forged/$set"
    done
    echo $$ >"$forged/cgroup.procs"
done </proc/self/cgroup
while IFS=: read -r row; do
    case $row in *$VICTIM*) echo "forged: $row" ;; esac
done </proc/self/cgroup
exec spire-agent api fetch x509
"#;

/// Hides its `/proc`, then shows another's in its place, and calls both times.
const FORGE_PROC: &str = r"
mount -t tmpfs none /proc && spire-agent api fetch x509 || exit
mount -t proc proc /proc && mount --bind /proc/1 /proc/$$ && exec spire-agent api fetch x509
";

#[test]
fn whoever_forges_cgroups_or_mounts_gets_no_identity_but_his_own() {
    let Some(_engine) = tools::docker() else {
        return;
    };
    let (lab, a, b) = lab();
    lab.start_workload("a", "agent", &[&label("a")]).unwrap();
    lab.wait_identity("a", &a);
    let free = [
        "--cap-add=SYS_ADMIN",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--pid=host",
        "--cgroupns=host",
    ];

    let victim = format!("VICTIM={}", lab.id("a").unwrap());
    let cgroups = ["-v", "/sys/fs/cgroup:/sys/fs/cgroup", "-e", &victim];
    let flags = [&free[..], &cgroups].concat();
    let output = lab.run_script("agent", &flags, FORGE_CGROUP).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("forged: "), "{text}{error}");
    assert!(!text.contains(&a), "{text}");
    assert!(error.contains("but is not that container's"), "{error}");

    let label = label("b");
    let flags = [&free[..], &[&label]].concat();
    let output = lab.run_script("agent", &flags, FORGE_PROC).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.matches(&b).count(), 2, "{text}{error}");
    assert!(!text.contains(&a), "{text}");
    lab.wait_identity("a", &a);
}
