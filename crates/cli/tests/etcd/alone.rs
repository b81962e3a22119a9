//! One member.

use crate::support::{Site, etcdctls, run, text};

#[test]
fn one_member_keeps_what_it_acknowledged() {
    let site = Site::new("alone");
    let mut member = site.member("solo");
    member.start();
    member.ready();
    let status = member.status().unwrap();
    assert_eq!(status.version, "3.5.21");
    assert_eq!(status.leader, status.header.unwrap().member_id);
    member.put("a", "1").unwrap();
    // A clean end.
    assert_eq!(member.stop().code(), Some(0));
    member.start();
    member.ready();
    assert_eq!(member.get("a").unwrap().as_deref(), Some("1"));
    member.put("b", "2").unwrap();
    // And the other one.
    member.kill();
    member.start();
    member.ready();
    assert_eq!(member.get("b").unwrap().as_deref(), Some("2"));
    let again = member.status().unwrap().header.unwrap();
    assert_eq!(
        (again.member_id, again.cluster_id),
        (status.leader, status.header.unwrap().cluster_id)
    );

    // Nobody else gets the directory meanwhile.
    let other = site.member("other");
    let dir = format!("--data-dir={}", member.dir.display());
    let output = run(&[
        &dir,
        &format!("--listen-client-urls={}", other.client_url),
        &format!("--advertise-client-urls={}", other.client_url),
        &format!("--listen-peer-urls={}", other.peer_url),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in use by another process"));
    assert!(member.stop().success());
}

#[test]
fn the_last_member_cannot_be_removed() {
    let site = Site::new("last");
    let mut member = site.member("solo");
    member.start();
    member.ready();
    let refused = member.remove(member.id()).unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: re-configuration failed due to not enough started members"
    );
    assert!(member.stop().success());
}

#[test]
fn the_real_etcdctl_sees_an_etcd() {
    for program in etcdctls() {
        let site = Site::new("etcdctl");
        let mut member = site.member("solo");
        member.start();
        member.ready();
        let ask = |words: &[&str]| {
            let output = std::process::Command::new(&program)
                .env("ETCDCTL_API", "3")
                .arg(format!("--endpoints={}", member.client_url))
                .args(words)
                .output()
                .unwrap();
            let text = text(&output.stdout) + &text(&output.stderr);
            assert!(output.status.success(), "{program:?} {words:?}: {text}");
            text
        };
        assert!(ask(&["endpoint", "health"]).contains("is healthy"));
        let status = ask(&["endpoint", "status"]);
        assert!(
            status.contains(", 3.5.21, ") && status.contains(", true, false, "),
            "{status}"
        );
        let id = format!("{:x}", member.id());
        assert_eq!(
            ask(&["member", "list"]),
            format!(
                "{id}, started, solo, {}, {}, false\n",
                member.peer_url, member.client_url
            )
        );
        let added = ask(&["member", "add", "second", "--peer-urls=http://127.0.0.1:1"]);
        // What the runbooks go on with.
        assert!(
            added.contains("ETCD_NAME=\"second\"")
                && added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\"")
                && added.contains(&format!("solo={}", member.peer_url)),
            "{added}"
        );
        assert!(ask(&["member", "list"]).contains(", unstarted, , http://127.0.0.1:1, "));
        assert_eq!(ask(&["put", "a", "1"]), "OK\n");
        assert!(member.stop().success());
    }
}
