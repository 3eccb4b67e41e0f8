//! Cgroup files as they were seen on machines, most of them in reports of what went wrong with them. They are what fuzzing starts with,
//! too. Those named after an issue are from spiffe/spire.

use super::*;

/// Name of the file, container and pod in it.
type Seen = (&'static str, Option<&'static str>, Option<&'static str>);

#[test]
fn the_container_is_found_in_every_file_that_was_seen() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/container");
    for (name, id, pod_uid) in SEEN {
        let file = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let found = locate_in(&file).unwrap();
        let expected = id.map(|id| Container {
            id: id.to_owned(),
            pod_uid: pod_uid.map(str::to_owned),
        });
        assert_eq!(found, expected, "{name}");
    }
}

#[rustfmt::skip]
const SEEN: &[Seen] = &[
    ("docker-v1", Some("30659a8817cc0e16b3fc4fb1253423552ce7db0949766eb573f8cce785c28684"), None),
    ("docker-v1-inside", None, None),
    ("docker-v1-observed", Some("bc6dcca632c48528b4024723cfe3d4ec7287ca6fc88ce123de424f38c1ab2a7f"), None),
    ("docker-v1-observer", None, None),
    ("host-v1", None, None),
    ("podman-v1-cgroupfs", Some("77b52f26e8f34e09d4122c96ca36457fc036eaedaeb0dbecdbb3c3743e72f119"), None),
    ("containerd-v1", None, None),
    ("docker-v2", Some("571eeca18c6e0799a21bda93e97ba83e8a3b102ac9f3c5f836c3135c5d5ad748"), None),
    ("docker-v2-inside", None, None),
    ("docker-v2-observed", Some("571eeca18c6e0799a21bda93e97ba83e8a3b102ac9f3c5f836c3135c5d5ad748"), None),
    ("docker-v2-observed-init", None, None),
    ("docker-v2-cgroupns-host", Some("24025bd5f9529e0fc771affe8c64b678097470b5ba59682e1589fbdd6a39f688"), None),
    ("podman-v2-crun", Some("58a42a749c8c8229cb8854e4a9917a87692a4ab1ebc127d977db87ad82976e9a"), None),
    ("podman-v2-cgroupfs", Some("9b78da734fe0b36b2af91a1740824e2ef51595bb7d14e819e69a90898b076cba"), None),
    ("podman-v2-conmon", Some("58a42a749c8c8229cb8854e4a9917a87692a4ab1ebc127d977db87ad82976e9a"), None),
    ("podman-v2-rootless", Some("58a42a749c8c8229cb8854e4a9917a87692a4ab1ebc127d977db87ad82976e9a"), None),
    ("podman-v2-rootless-cgroupfs", Some("58a42a749c8c8229cb8854e4a9917a87692a4ab1ebc127d977db87ad82976e9a"), None),
    ("systemd-v2-service", None, None),
    ("systemd-v2-capture", None, None),
    ("spire-949-k8s-systemd", Some("ab704ba978feea085662fd58c3448624de9287dd50c7d01608b27b08f96c8725"), Some("c68f332c-8897-11e9-9797-525400c9c704")),
    ("spire-1081-kind", Some("aff34703e5e1f89443e9a1bffcc80f43f74d4808a2dd22c8f88c08547b323934"), Some("daa5c7ee-3484-4533-af39-3591564fd03e")),
    ("spire-1518-docker-desktop", Some("e465ef604afb61d4c3c814f899f668368b0f2568c9b592dabcb4bf980b5597a9"), None),
    ("spire-1518-rhel", Some("e465ef604afb61d4c3c814f899f668368b0f2568c9b592dabcb4bf980b5597a9"), None),
    ("spire-1535-guaranteed", Some("a5f33a8bc7e275a722763a9d46f432c59b35bb3edbd8dab7cf77148e90916cde"), Some("0f188573-8e4f-11ea-a9a0-42010a800047")),
    ("spire-1580-containerd-colons", Some("b2a102854b4969b2ce98dc329c86b4fb2b06e4ad2cc8da9d8a7578c9cd2004a2"), Some("72f7f152-440c-66ac-9084-e0fc1d8a910c")),
    ("spire-1547-docker-desktop-k8s", Some("a55d9ac3b312d8a2627824b6d6dd8af66fbec439bf4e0ec22d6d9945ad337a38"), Some("6bd2a4d3-a55a-4450-b6fd-2a7ecc72c904")),
    ("spire-2578-sibling-pod", Some("a3804295d867b752119eab99a9e6364fdf7fe6a4be5af0b11f9915fa7b64ff95"), Some("dfd874dc-ab52-4793-af47-d06b78b68337")),
    ("spire-2578-kubelet", Some("a3804295d867b752119eab99a9e6364fdf7fe6a4be5af0b11f9915fa7b64ff95"), Some("dfd874dc-ab52-4793-af47-d06b78b68337")),
    ("spire-2578-other-class", Some("6d1234da0f5aa7fa0ccae4c7d2d109929eb9a81694e6357bcd4547ab3985911b"), Some("095e82d2-713c-467a-a18a-cbb50a075296")),
    ("spire-2578-same-pod", Some("5b21e3cc4025c7aac5f56423e82b523850b16fb0df59ab2cb0880a66d3a2fb19"), None),
    ("spire-2578-service", None, None),
    ("spire-3183-k8s-node", Some("bbf76635888294204963d9e32e4fae57dcbf8eddb7adeecbd55672cd5fbc2249"), Some("169fbc47-41d0-4df5-be62-6b231010b6c4")),
    ("spire-3183-crio-without-pod", Some("45490e76e0878aaa4d9808f7d2eefba37f093c3efbba9838b6d8ab804d9bd814"), None),
    ("spire-3242-crio-with-pod", Some("030ded69d4c98fcf69c988f75a5eb3a1b4357e1432bd5510c936a40d7e9a1198"), Some("561fd272-d131-47ef-a01b-46a997a778f3")),
    ("spire-4004-v2-inside", None, None),
    ("spire-4004-v2-kubelet", Some("30659a8817cc0e16b3fc4fb1253423552ce7db0949766eb573f8cce785c28684"), Some("2c48913c-b29f-11e7-9350-020968147796")),
    ("spire-4004-v2-sibling", Some("30659a8817cc0e16b3fc4fb1253423552ce7db0949766eb573f8cce785c28684"), Some("2c48913c-b29f-11e7-9350-020968147796")),
    ("spire-4088-crio-arm64", Some("20d8ec296f8e480195d35056548d49a6409966957741d2205601c66fe1effceb"), None),
    ("one-service-for-all", None, None),
    ("session", None, None),
    ("lxc", Some("30659a8817cc0e16b3fc4fb1253423552ce7db0949766eb573f8cce785c28684"), None),
    ("slices-of-its-own", Some("30659a8817cc0e16b3fc4fb1253423552ce7db0949766eb573f8cce785c28684"), None),
];
