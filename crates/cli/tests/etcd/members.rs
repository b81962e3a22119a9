//! Members that are added, promoted, removed and replaced.

use std::time::Duration;

use crate::support::{Member, STEP, Site, eventually, genuine, leader, trivet};
use trivet_harness::wait_for;

/// Members may be changed once all have been in contact for a while; every test but one has other
/// worries.
fn hasty(name: &str) -> Site {
    let mut site = Site::new(name);
    site.flags(&["--strict-reconfig-check=false"]);
    site
}

#[test]
fn a_voter_is_added_and_then_started() {
    let site = hasty("voter");
    let mut first = site.member("one");
    first.start();
    first.ready();
    first.put("a", "1").unwrap();
    let mut second = site.member("two");
    let added = first.add(&second.peer_url, false).unwrap();
    assert!(added.name.is_empty() && !added.is_learner);
    let listed = first.list().unwrap();
    assert!(listed.iter().all(|member| !member.is_learner));
    // The cluster waits for nobody meanwhile.
    first.put("a", "2").unwrap();
    second.existing(&[&first]);
    second.start();
    second.ready();
    assert_eq!(second.id(), added.id);
    assert_eq!(second.get("a").unwrap().as_deref(), Some("2"));
    // Now two are needed.
    second.kill();
    assert!(first.put("a", "3").is_err());
    second.start();
    second.ready();
    second.put("a", "4").unwrap();
    assert_eq!(first.get("a").unwrap().as_deref(), Some("4"));

    let mut third = site.member("three");
    first.add(&third.peer_url, false).unwrap();
    third.existing(&[&first, &second]);
    third.start();
    third.ready();
    assert_eq!(third.list().unwrap().len(), 3);
    for member in [&mut first, &mut second, &mut third] {
        assert!(member.stop().success());
    }
}

#[test]
fn a_learner_is_promoted_once_it_has_caught_up() {
    let site = hasty("learner");
    let mut members = site.founded(&["a", "b", "c"]);
    let mut learner = site.member("d");
    let added = members[0].add(&learner.peer_url, true).unwrap();
    assert!(added.is_learner);
    let refused = members[0].promote(added.id).unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: can only promote a learner member which is in sync with leader"
    );
    let others: Vec<&Member> = members.iter().collect();
    learner.existing(&others);
    learner.start();
    learner.ready();
    assert!(learner.status().unwrap().is_learner);
    let refused = learner.put("a", "1").unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: rpc not supported for learner"
    );
    // Its name and address came through the cluster.
    let entry = |id| {
        let listed = members[0].list().unwrap();
        listed.into_iter().find(|member| member.id == id).unwrap()
    };
    assert_eq!(entry(added.id).name, "d");
    assert_eq!(entry(added.id).client_ur_ls, [learner.client_url.clone()]);
    eventually("the promotion", || members[1].promote(added.id));
    assert!(!entry(added.id).is_learner);
    wait_for("the learner learns of it", STEP, || {
        learner.put("a", "1").is_ok()
    })
    .unwrap();
    let refused = members[1].promote(added.id).unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: can only promote a learner member"
    );
    members.push(learner);
    for mut member in members {
        assert!(member.stop().success());
    }
}

#[test]
fn a_removed_member_ends_and_stays_away() {
    let site = hasty("removed");
    let mut members = site.founded(&["a", "b", "c"]);
    let all: Vec<&Member> = members.iter().collect();
    let leading = leader(&all);
    let id = members[leading].id();
    // The leader itself, asked through another.
    let asked = (leading + 1) % 3;
    eventually("the removal", || match members[asked].remove(id) {
        Err(status) if status.message() == "etcdserver: member not found" => Ok(()),
        done => done,
    });
    let mut removed = members.remove(leading);
    assert_eq!(removed.ended().code(), Some(0), "{}", removed.log());
    assert!(
        removed.log().contains("permanently removed"),
        "{}",
        removed.log()
    );
    removed.start();
    assert_eq!(removed.ended().code(), Some(1));
    let log = removed.log();
    assert!(
        log.contains("the member has been permanently removed from the cluster"),
        "{log}"
    );
    let refused = members[0].remove(id).unwrap_err();
    assert_eq!(refused.message(), "etcdserver: member not found");

    // One that is down when it is removed finds out when it comes back.
    let id = members[1].id();
    members[1].kill();
    let survivor = &members[0];
    // Two voters of which one is dead: nothing can be agreed upon.
    assert!(survivor.remove(id).is_err());
    members[1].start();
    members[1].ready();
    eventually("the removal", || match members[0].remove(id) {
        Err(status) if status.message() == "etcdserver: member not found" => Ok(()),
        done => done,
    });
    let mut second = members.remove(1);
    assert_eq!(second.ended().code(), Some(0), "{}", second.log());
    members[0].put("alone", "yes").unwrap();
    assert!(members[0].stop().success());
}

#[test]
fn a_dead_member_is_replaced() {
    let site = hasty("replaced");
    let mut members = site.founded(&["a", "b", "c"]);
    members[0].put("kept", "yes").unwrap();
    let dead = members[2].id();
    members[2].kill();
    eventually("the removal", || match members[0].remove(dead) {
        Err(status) if status.message() == "etcdserver: member not found" => Ok(()),
        done => done,
    });
    // The same machine, without its data.
    let mut replacement = members.pop().unwrap();
    std::fs::remove_dir_all(&replacement.dir).unwrap();
    let added = eventually("the addition", || {
        members[0].add(&replacement.peer_url, false)
    });
    assert_ne!(added.id, dead, "an identity is never used again");
    let others: Vec<&Member> = members.iter().collect();
    replacement.existing(&others);
    replacement.start();
    replacement.ready();
    assert_eq!(replacement.id(), added.id);
    assert_eq!(replacement.get("kept").unwrap().as_deref(), Some("yes"));
    members.push(replacement);
    for mut member in members {
        assert!(member.stop().success());
    }
}

#[test]
fn a_list_that_is_wrong_is_named() {
    let site = hasty("wrong");
    let mut first = site.member("one");
    first.start();
    first.ready();
    // Not added at all: it looks for a while, then gives up.
    let mut second = site.member("two");
    let phantom = site.member("phantom");
    first.add(&second.peer_url, false).unwrap();
    second.existing(&[&first, &phantom]);
    second.start();
    assert_eq!(second.ended().code(), Some(1));
    let log = second.log();
    assert!(log.contains("error validating peerURLs"), "{log}");
    assert!(
        log.contains(&format!("phantom={} in the list only", phantom.peer_url)),
        "{log}"
    );
    // With the right one it gets in: nothing was written the first time.
    second.existing(&[&first]);
    second.start();
    second.ready();
    // Once more, with its data gone.
    let copy = second.dir.with_extension("gone");
    assert!(second.stop().success());
    std::fs::rename(&second.dir, &copy).unwrap();
    second.start();
    assert_eq!(second.ended().code(), Some(1));
    let log = second.log();
    assert!(log.contains("has already been bootstrapped"), "{log}");
    std::fs::remove_dir_all(&second.dir).unwrap();
    std::fs::rename(&copy, &second.dir).unwrap();
    second.start();
    second.ready();
    for member in [&mut first, &mut second] {
        assert!(member.stop().success());
    }
}

/// The answers to changes of members at moments at which they may be unsafe.
fn strict_answers(program: std::path::PathBuf) -> Vec<String> {
    let site = Site::with("strict", program, "http");
    let mut answers = Vec::new();
    let mut note = |what: &str, outcome: Result<(), tonic::Status>| {
        let outcome = match outcome {
            Ok(()) => "done".to_owned(),
            Err(status) => format!("{:?} {}", status.code(), status.message()),
        };
        answers.push(format!("{what}: {outcome}"));
    };
    let add = |member: &Member, url: &str, learner| member.add(url, learner).map(drop);
    let mut members = site.founded(&["a", "b", "c"]);
    note("add at once", add(&members[0], "http://127.0.0.1:1", false));
    note(
        "add a learner at once",
        add(&members[0], "http://127.0.0.1:1", true),
    );
    let id = members[2].id();
    note("remove at once", members[0].remove(id));
    // What is waited for has no other sign than the answer itself.
    wait_for("five seconds of contact", STEP, || {
        add(&members[0], "http://127.0.0.1:1", true).is_ok()
    })
    .unwrap();
    note(
        "add a second learner",
        add(&members[0], "http://127.0.0.1:2", true),
    );
    note(
        "add a known URL",
        add(&members[0], &members[1].peer_url, false),
    );
    let learner = members[0]
        .list()
        .unwrap()
        .iter()
        .find(|member| member.is_learner)
        .unwrap()
        .id;
    note("promote what never ran", members[0].promote(learner));
    note("promote a voter", members[0].promote(id));
    note("remove the learner", members[0].remove(learner));
    note("remove it again", members[0].remove(learner));
    // One of three is dead.
    members[2].kill();
    // A URL that is taken: nothing comes of asking.
    let taken = members[0].peer_url.clone();
    wait_for("the loss to be seen", STEP, || {
        add(&members[0], &taken, false)
            .is_err_and(|status| status.message() == "etcdserver: unhealthy cluster")
    })
    .unwrap();
    note(
        "add beside a dead one",
        add(&members[0], "http://127.0.0.1:1", false),
    );
    let healthy = members[1].id();
    note("remove a healthy one", members[0].remove(healthy));
    eventually("a leader", || members[0].put("a", "1"));
    note("remove the dead one", members[0].remove(id));
    members.pop();
    note("three again", add(&members[0], "http://127.0.0.1:3", false));
    note(
        "four of which two run",
        add(&members[0], "http://127.0.0.1:4", false),
    );
    note("remove a started one", members[0].remove(healthy));
    for mut member in members {
        member.kill();
    }
    answers
}

#[test]
fn changes_are_as_strict_as_etcds() {
    let ours = strict_answers(trivet());
    let expected = [
        "add at once: Unavailable etcdserver: unhealthy cluster",
        "add a learner at once: Unavailable etcdserver: unhealthy cluster",
        "remove at once: Unavailable etcdserver: unhealthy cluster",
        "add a second learner: FailedPrecondition etcdserver: too many learner members in cluster",
        "add a known URL: FailedPrecondition etcdserver: Peer URLs already exists",
        "promote what never ran: FailedPrecondition etcdserver: can only promote a learner member which is in sync with leader",
        "promote a voter: FailedPrecondition etcdserver: can only promote a learner member",
        "remove the learner: done",
        "remove it again: NotFound etcdserver: member not found",
        "add beside a dead one: Unavailable etcdserver: unhealthy cluster",
        "remove a healthy one: Unavailable etcdserver: unhealthy cluster",
        "remove the dead one: done",
        "three again: done",
        "four of which two run: Unknown etcdserver: re-configuration failed due to not enough started members",
        "remove a started one: Unknown etcdserver: re-configuration failed due to not enough started members",
    ];
    assert_eq!(ours, expected);
    if let Some(etcd) = genuine() {
        assert_eq!(strict_answers(etcd), expected, "of the genuine etcd");
    }
}

#[test]
fn a_new_leader_is_soon_found_when_one_is_asked_to_go() {
    let site = hasty("handover");
    let mut members = site.founded(&["a", "b", "c"]);
    let all: Vec<&Member> = members.iter().collect();
    let leading = leader(&all);
    members[leading]
        .process()
        .signal(rustix::process::Signal::TERM)
        .unwrap();
    let next = (leading + 1) % 3;
    let taken =
        crate::support::time_until("the next write", || members[next].put("a", "1").is_ok());
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    assert!(members[leading].ended().success());
    for (number, member) in members.iter_mut().enumerate() {
        if number != leading {
            assert!(member.stop().success());
        }
    }
}
