//! Members that found a cluster together.

use std::time::Duration;

use crate::support::{Member, Site, eventually, leader, list, time_until};

#[test]
fn three_founders_and_the_loss_of_leaders() {
    let site = Site::new("three");
    let mut members = site.founded(&["infra0", "infra1", "infra2"]);
    let ids: Vec<u64> = members.iter().map(Member::id).collect();
    for (number, member) in members.iter().enumerate() {
        member.put(&format!("k{number}"), "1").unwrap();
        let listed = member.list().unwrap();
        assert_eq!(listed.len(), 3);
        assert!(listed.is_sorted_by_key(|member| member.id));
        for (known, id) in members.iter().zip(&ids) {
            let entry = listed.iter().find(|entry| entry.id == *id).unwrap();
            assert_eq!(entry.name, known.name);
            assert_eq!(entry.peer_ur_ls, std::slice::from_ref(&known.peer_url));
            assert_eq!(entry.client_ur_ls, std::slice::from_ref(&known.client_url));
        }
    }
    // SIGTERM hands leadership over first.
    let all: Vec<&Member> = members.iter().collect();
    let first = leader(&all);
    assert_eq!(members[first].stop().code(), Some(0));
    let next = (first + 1) % 3;
    let handed_over = time_until("a write after the end of the leader", || {
        members[next].put("after", "term").is_ok()
    });
    println!("SIGTERM to the next write: {handed_over:?}");
    members[first].start();
    members[first].ready();

    let all: Vec<&Member> = members.iter().collect();
    let second = leader(&all);
    members[second].kill();
    let next = (second + 1) % 3;
    let elected = time_until("a write after the death of the leader", || {
        members[next].put("after", "kill").is_ok()
    });
    println!("kill -9 to the next write: {elected:?}");
    assert!(elected < Duration::from_secs(20));
    members[second].start();
    members[second].ready();
    for member in &members {
        assert_eq!(
            eventually("what was written", || member.get("after")).as_deref(),
            Some("kill")
        );
        for number in 0..3 {
            let value = member.get(&format!("k{number}")).unwrap();
            assert_eq!(value.as_deref(), Some("1"));
        }
    }
    for mut member in members {
        assert!(member.stop().success());
    }
}

#[test]
fn nobody_serves_before_there_is_a_quorum() {
    let site = Site::new("quorum");
    let mut members: Vec<Member> = ["a", "b"].iter().map(|name| site.member(name)).collect();
    let list = list(&members);
    for member in &mut members {
        member.flag(&format!("--initial-cluster={list}"));
    }
    members[0].start();
    time_until("the first waits", || members[0].log().contains("starting"));
    assert!(!members[0].is_ready());
    // It can be stopped while it waits, and goes on where it was.
    assert!(members[0].stop().success());
    members[0].start();
    members[1].start();
    for member in &members {
        member.ready();
    }
    // A restart waits for a quorum as well, and metrics do not.
    for member in &mut members {
        assert!(member.stop().success());
    }
    members[0].start();
    time_until("it waits", || {
        members[0].log().contains("waiting for a quorum")
    });
    assert!(!members[0].is_ready());
    members[1].start();
    for member in &members {
        member.ready();
    }
    for mut member in members {
        assert!(member.stop().success());
    }
}

#[test]
fn members_with_different_lists_do_not_come_together() {
    let site = Site::new("lists");
    let mut members = site.founded(&["a", "b"]);
    let mut stranger = site.member("c");
    let wrong = format!("{},c={}", list(&members), stranger.peer_url);
    stranger.flag(&format!("--initial-cluster={wrong}"));
    stranger.start();
    assert_eq!(stranger.ended().code(), Some(1));
    let log = stranger.log();
    assert!(log.contains("cluster ID mismatch: http://"), "{log}");
    assert!(log.contains("same list of members"), "{log}");

    // A founder whose data is gone is not let in under its old identity.
    let right = list(&members);
    assert!(members[1].stop().success());
    std::fs::remove_dir_all(&members[1].dir).unwrap();
    members[1].flag(&format!("--initial-cluster={right}"));
    members[1].start();
    assert_eq!(members[1].ended().code(), Some(1));
    let log = members[1].log();
    assert!(log.contains("has already been bootstrapped"), "{log}");
    assert!(members[0].stop().success());
}

#[test]
fn one_of_three_goes_on_alone() {
    let site = Site::new("alone");
    let mut members = site.founded(&["a", "b", "c"]);
    members[0].put("kept", "yes").unwrap();
    assert_eq!(members[1].get("kept").unwrap().as_deref(), Some("yes"));
    for member in &mut members {
        member.kill();
    }
    let mut survivor = members.swap_remove(1);
    survivor.flag("--force-new-cluster");
    survivor.start();
    survivor.ready();
    assert_eq!(survivor.get("kept").unwrap().as_deref(), Some("yes"));
    survivor.put("more", "yes").unwrap();
    let listed = survivor.list().unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str()), (1, "b"));
    assert!(survivor.stop().success());
    survivor.flag("--force-new-cluster=false");
    survivor.start();
    survivor.ready();
    assert_eq!(survivor.get("more").unwrap().as_deref(), Some("yes"));
    assert!(survivor.stop().success());
}
