//! Foreign data in the way: refused before anything is written.

use std::fs;

use trivet_harness::Process;

use crate::support::{STEP, Scenario};

#[test]
fn foreign_datastores_are_never_touched() {
    let scenario = Scenario::new("guard");
    let cases: [(&str, &str, &[u8]); 3] = [
        (
            "etcd/member/wal/0000000000000000-0000000000000000.wal",
            "etcd",
            b"wal",
        ),
        ("state.db", "state.db", b"SQLite format 3\0"),
        (
            "state.dqlite/metadata1",
            "dqlite",
            &[1, 0, 0, 0, 0, 0, 0, 0],
        ),
    ];
    for (place, (file, word, content)) in cases.into_iter().enumerate() {
        let number = 20 + place as u8;
        let db = scenario.cluster.data_dir(number).join("server/db");
        let path = db.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mut command = scenario.cluster.server_command(number);
        command.arg("--cluster-init");
        let log = scenario.scratch().join(format!("guard-{number}.log"));
        let mut process = Process::start(&mut command, &log).unwrap();
        let status = process
            .wait(STEP)
            .unwrap_or_else(|error| panic!("{error}: {}", process.log()));
        assert_eq!(status.code(), Some(3), "{}", process.log());
        assert!(process.log().contains(word), "{}", process.log());
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(
            fs::read_dir(&db).unwrap().count(),
            1,
            "something was written beside {file}"
        );
        assert!(
            !scenario
                .cluster
                .data_dir(number)
                .join("server/tls")
                .exists()
        );
    }
}
