use super::*;

fn selectors() -> SelectorSet {
    ["k8s:pod-label:app:web", "unix:gid:7", "unix:uid:7"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect()
}

#[test]
fn selectors_are_logged_only_as_far_as_allowed() {
    let cases: [(&[&str], Option<&str>); 5] = [
        (&[], None),
        (&["unix"], Some("unix:gid:7,unix:uid:7")),
        (&["unix:uid:7"], Some("unix:uid:7")),
        (&["k8s:pod-label"], Some("k8s:pod-label:app:web")),
        (&["unix:uid:", "uni", "docker"], Some("")),
    ];

    for (allowed, expected) in cases {
        let allowed: Vec<_> = allowed.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(
            loggable(&selectors(), &allowed).as_deref(),
            expected,
            "{allowed:?}"
        );
    }
}
