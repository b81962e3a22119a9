//! Flags, environment, settings file, exit codes.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::Stdio;

use trivet_harness::{Process, wait_for};

use crate::support::{STEP, Site, command, run, text, trivet};

#[test]
fn the_version_is_where_programs_look_for_it() {
    for flag in ["--version", "-version", "--version=true"] {
        let output = run(&[flag]);
        assert!(output.status.success());
        let first = text(&output.stdout).lines().next().unwrap().to_owned();
        assert_eq!(first, "etcd Version: 3.5.21");
    }
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(text(&help.stdout).contains("--initial-cluster"));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for (words, message) in [
        (
            &["--no-such-flag"][..],
            "flag provided but not defined: -no-such-flag",
        ),
        (&["--name"], "flag needs an argument: -name"),
        (
            &["--auto-tls=maybe"],
            "invalid boolean value \"maybe\" for -auto-tls: parse error",
        ),
        (&["server"], "\"server\" is not a valid flag"),
        (&["grpc-proxy", "start"], "not available"),
    ] {
        let output = run(words);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {errors}");
        assert!(errors.contains(message), "{words:?}: {errors}");
    }
    assert!(text(&run(&["--no-such-flag"]).stderr).contains("Usage:"));
}

#[test]
fn settings_that_cannot_be_meant_are_exit_code_1() {
    let site = Site::new("settings");
    let dir = format!("--data-dir={}", site.path().join("d").display());
    for (words, message) in [
        (
            &["--listen-client-urls=http://127.0.0.1:1"][..],
            "--advertise-client-urls is required",
        ),
        (&["--heartbeat-interval=900"], "at least as 5 times"),
        (
            &["--name=x", "--initial-cluster=y=http://127.0.0.1:1"],
            "couldn't find local name \"x\"",
        ),
        (
            &["--initial-cluster=default=http://127.0.0.1:1"],
            "must name the same URLs",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "--peer-cert-file and --peer-key-file, or --peer-auto-tls, must be given",
        ),
        (&["--discovery=http://d"], "--discovery"),
        (&["--config-file=/nowhere/etcd.yml"], "/nowhere/etcd.yml"),
    ] {
        let mut words = words.to_vec();
        words.push(&dir);
        let output = run(&words);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {errors}");
        assert!(errors.contains(message), "{words:?}: {errors}");
    }
    assert!(
        !site.path().join("d/trivet").exists(),
        "nothing was written"
    );
}

#[test]
fn the_data_of_an_etcd_is_not_touched() {
    let site = Site::new("foreign");
    let dir = site.path().join("etcd");
    std::fs::create_dir_all(dir.join("member/wal")).unwrap();
    let output = run(&["--data-dir", dir.to_str().unwrap()]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("trivet datastore import"), "{errors}");
    assert!(!dir.join("trivet").exists());
}

#[test]
fn a_link_named_etcd_behaves_like_one() {
    let site = Site::new("link");
    let link = site.path().join("etcd");
    symlink(trivet(), &link).unwrap();
    let member = site.member("linked");
    let output = command(&link, &["--version"]).output().unwrap();
    assert!(text(&output.stdout).starts_with("etcd Version: 3.5."));

    // Everything from the environment; a flag wins over it.
    let log = site.path().join("link.log");
    let mut start = command(&link, &["--log-format", "console", "--name", "flag"]);
    start
        .env("ETCD_NAME", "environment")
        .env("ETCD_DATA_DIR", site.path().join("data"))
        .env("ETCD_LISTEN_CLIENT_URLS", &member.client_url)
        .env("ETCD_ADVERTISE_CLIENT_URLS", &member.client_url)
        .env("ETCD_LISTEN_PEER_URLS", &member.peer_url)
        .env("ETCD_INITIAL_ADVERTISE_PEER_URLS", &member.peer_url)
        .env("ETCD_SNAPSHOT_COUNT", "7")
        .env("ETCD_UNHEARD_OF", "x");
    let mut process = Process::start(&mut start, &log).unwrap();
    wait_for("the member", STEP, || {
        process.log().contains("ready to serve client requests")
    })
    .unwrap();
    let text = process.log();
    assert!(text.contains("ETCD_NAME is not used"), "{text}");
    assert!(text.contains("ETCD_UNHEARD_OF is no variable"), "{text}");
    assert!(text.contains("\"flags\":\"snapshot-count\""), "{text}");
    assert!(text.contains("\tINFO\t"), "{text}");
    assert_eq!(member.list().unwrap()[0].name, "flag");
    assert!(process.stop(STEP).unwrap().success());
}

#[test]
fn a_settings_file_is_all_that_counts() {
    let site = Site::new("file");
    let member = site.member("unused");
    let path = site.path().join("etcd.yml");
    let (client, peer) = (&member.client_url, &member.peer_url);
    let yaml = format!(
        "name: filed\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
         listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: filed={peer}\n\
         unheard-of: 1\nclient-transport-security:\n  cert-file:\n",
        site.path().join("data").display()
    );
    std::fs::write(&path, yaml).unwrap();
    let log = site.path().join("file.log");
    let words = ["--config-file", path.to_str().unwrap(), "--name=flag"];
    let mut process = Process::start(&mut command(&trivet(), &words), &log).unwrap();
    wait_for("the member", STEP, || {
        process.log().contains("ready to serve client requests")
    })
    .unwrap();
    assert_eq!(member.list().unwrap()[0].name, "filed");
    let text = process.log();
    assert!(text.contains("no setting is named"), "{text}");
    assert!(
        text.contains("are not used beside a settings file"),
        "{text}"
    );
    assert!(process.stop(STEP).unwrap().success());
}

#[test]
fn the_log_has_etcds_shape_and_goes_where_it_should() {
    let site = Site::new("log");
    let mut member = site.member("logged");
    let file = site.path().join("own.log");
    member.flag(&format!("--log-outputs=stdout,{}", file.display()));
    member.flag("--log-level=warn");
    member.flag("--max-wals=3");
    member.start();
    wait_for("a member", STEP, || member.status().is_ok()).unwrap();
    assert!(member.stop().success());
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines, member.log());
    assert!(!lines.contains("\"level\":\"info\""), "{lines}");
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["level"], "warn");
    assert_eq!(first["flags"], "max-wals");
    assert!(first["ts"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn plain_http_and_grpc_can_be_kept_apart() {
    let mut site = Site::new("http");
    let other = site.member("other");
    let (http, metrics) = (other.client_url.clone(), other.peer_url.clone());
    site.flags(&[
        &format!("--listen-client-http-urls={http}"),
        &format!("--listen-metrics-urls={metrics}"),
    ]);
    let mut member = site.member("apart");
    member.start();
    member.ready();
    member.put("a", "1").unwrap();
    let get = |url: &str, path: &str| {
        let address = url.strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get(&http, "/version").contains("\"etcdserver\":\"3.5.21\""));
    assert!(get(&member.client_url, "/version").starts_with("HTTP/1.1 404"));
    assert!(get(&metrics, "/health").contains("\"health\":\"true\""));
    assert!(get(&metrics, "/metrics").contains("etcd_server_has_leader 1"));
    // gRPC where HTTP lives is not answered.
    let mut wrong = site.member("wrong");
    wrong.client_url = http;
    assert_eq!(
        wrong.put("a", "2").unwrap_err().code(),
        tonic::Code::Unimplemented
    );
    assert!(member.stop().success());
}

#[test]
fn systemd_is_told() {
    let site = Site::new("notify");
    let path = site.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    let member = site.member("told");
    let words = [
        format!("--data-dir={}", member.dir.display()),
        format!("--listen-client-urls={}", member.client_url),
        format!("--advertise-client-urls={}", member.client_url),
        format!("--listen-peer-urls={}", member.peer_url),
        format!("--initial-advertise-peer-urls={}", member.peer_url),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = command(&trivet(), &words)
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut message = [0; 64];
    let length = socket.recv(&mut message);
    let ended = child.kill().and_then(|()| child.wait());
    assert_eq!(&message[..length.unwrap()], b"READY=1");
    assert!(ended.is_ok());
}
