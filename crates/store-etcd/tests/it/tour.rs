//! Every command of `etcdctl`, line by line on ours and on a genuine etcd: what is printed and
//! how it ends must be the same. To add a line, add a line to [`TOUR`].

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use trivet_datastore::Datastore;

use crate::etcdctl::{command, installed, run};
use trivet_env::Env;

use crate::genuine::Tools;
use crate::support::{Member, PATIENCE, Single, eventually, free_address, settings};

/// How the two outputs are compared. In every one, ids, times and the endpoint are masked.
#[derive(Clone, Copy)]
enum How {
    /// Letter by letter.
    Same,
    /// Lines in any order.
    Set,
    /// Only success and the number of lines and columns: the rest is the server's own.
    Shape,
    /// It goes on for ever: so many lines of it.
    Lines(usize),
}
use How::{Lines, Same, Set, Shape};

/// What is typed, what is put in, how the outputs are compared. `{lease}` is the lease granted
/// last, `{member}` the member's id, `{file}` a file that is new on each side.
const TOUR: &[(&str, &str, How)] = &[
    ("version", "", Same),
    ("put k/1 one", "", Same),
    ("put k/2 two --prev-kv", "", Same),
    ("put k/2 zwei --prev-kv", "", Same),
    ("put k/3", "from input", Same),
    ("put k/4 -w json four", "", Same),
    ("put k/5 five -w fields", "", Same),
    ("put z last", "", Same),
    ("put k/1 --ignore-value", "", Same),
    ("put absent --ignore-value", "", Same),
    ("put k/1 x --lease 4711", "", Same),
    ("put  empty", "", Same),
    ("get k/1", "", Same),
    ("get k/1 -w json", "", Same),
    ("get k/1 -w fields", "", Same),
    ("get k/1 -w protobuf", "", Shape),
    ("get k/1 -w table", "", Same),
    ("get absent", "", Same),
    ("get k/ --prefix", "", Same),
    ("get k/ --prefix --keys-only", "", Same),
    ("get k/ --prefix --limit 2", "", Same),
    ("get k/ --prefix --count-only", "", Same),
    ("get k/ --prefix --count-only -w fields", "", Same),
    ("get k/ --prefix --print-value-only", "", Same),
    ("get k/ --prefix --order DESCEND", "", Same),
    ("get k/ --prefix --sort-by MODIFY --order DESCEND", "", Same),
    ("get k/ --prefix --sort-by VALUE --order ASCEND", "", Same),
    ("get k/ --prefix --sort-by CREATE", "", Same),
    (
        "get k/ --prefix --sort-by VERSION --order DESCEND --limit 1",
        "",
        Same,
    ),
    ("get k/2 k/4", "", Same),
    ("get k/4 --from-key", "", Same),
    ("get --from-key --keys-only a", "", Same),
    ("get k/2 --rev 3", "", Same),
    ("get k/2 --rev 999", "", Same),
    ("get k/1 --consistency s", "", Same),
    ("get k/1 --hex", "", Same),
    ("get k/1 --prefix --from-key", "", Same),
    ("watch --rev 2 --prefix k/", "", Lines(12)),
    ("watch --rev 3 k/2 --prev-kv", "", Lines(6)),
    ("watch --rev 2 k/1 -w json", "", Lines(1)),
    ("watch --rev 2 k/1 k/3", "", Lines(9)),
    (
        "watch --rev 2 k/1 -- env --unset=PATH printenv ETCD_WATCH_KEY ETCD_WATCH_VALUE",
        "",
        Lines(3),
    ),
    ("watch -i", "watch --rev 2 k/1\n", Lines(3)),
    (
        "txn",
        "value(\"k/1\") = \"one\"\n\nput k/6 six\nget k/6\n\nget k/1\n\n",
        Same,
    ),
    (
        "txn",
        "mod(\"k/1\") > \"99\"\n\nput k/6 no\n\nget k/1\ndel z\n\n",
        Same,
    ),
    (
        "txn -w json",
        "create(\"absent\") = \"0\"\n\nput made here\n\nget made\n\n",
        Same,
    ),
    ("txn", "version(\"made\") = \"1\"\n\ndel made\n\n\n", Same),
    (
        "txn",
        "value(\"k/1\") = \"one\"\n\nput a 1\nput a 2\n\n\n",
        Same,
    ),
    ("del k/6", "", Same),
    ("del k/6", "", Same),
    ("del k/5 --prev-kv", "", Same),
    ("del k/3 k/5", "", Same),
    ("del k/4 --from-key -w json", "", Same),
    ("del k --prefix --prev-kv", "", Same),
    ("lease grant 100", "", Same),
    ("lease grant 100 -w json", "", Same),
    ("lease grant nothing", "", Same),
    ("lease grant 9000000001", "", Same),
    ("lease grant 200", "", Same),
    ("put leased v --lease {lease}", "", Same),
    ("put leased w --ignore-lease", "", Same),
    ("get leased -w fields", "", Same),
    ("lease timetolive {lease}", "", Same),
    ("lease timetolive {lease} --keys", "", Same),
    ("lease timetolive 4711", "", Same),
    ("lease list", "", Set),
    ("lease keep-alive --once {lease}", "", Same),
    ("lease keep-alive --once 4711", "", Same),
    ("lease keep-alive {lease}", "", Lines(1)),
    ("lease revoke {lease}", "", Same),
    ("lease revoke {lease}", "", Same),
    ("get leased", "", Same),
    ("lock lane echo held", "", Same),
    ("lock lane", "", Lines(1)),
    ("elect office me", "", Lines(2)),
    ("compaction 5", "", Same),
    ("compaction 5", "", Same),
    ("compaction 999", "", Same),
    ("compaction 7 --physical", "", Same),
    ("get k/1 --rev 3", "", Same),
    ("watch --rev 2 k/1", "", Same),
    ("member list", "", Shape),
    ("member list -w table", "", Shape),
    ("member list -w json", "", Shape),
    ("member add m2", "", Same),
    ("member add m2 --peer-urls nonsense", "", Shape),
    ("member remove 4711", "", Same),
    ("member promote 4711", "", Same),
    ("member promote {member}", "", Same),
    (
        "member update 4711 --peer-urls http://127.0.0.1:1",
        "",
        Same,
    ),
    ("endpoint health", "", Same),
    ("endpoint health --cluster", "", Shape),
    ("endpoint health -w json", "", Shape),
    ("endpoint status", "", Shape),
    ("endpoint status -w fields", "", Shape),
    ("endpoint status -w table", "", Shape),
    ("endpoint hashkv", "", Shape),
    ("endpoint hashkv --rev 999", "", Shape),
    ("alarm list", "", Same),
    ("alarm disarm", "", Same),
    ("defrag", "", Same),
    ("move-leader {member}", "", Same),
    ("move-leader 4711", "", Same),
    ("snapshot save {file}", "", Shape),
    ("snapshot status {file}", "", Shape),
    ("snapshot status {file} -w table", "", Shape),
    ("check nothing", "", Same),
    ("nothing", "", Same),
    ("help", "", Same),
];

// Not on the tour: `auth`, `user` and `role` change who may go on with it; `check perf` and
// `check datascale` take a minute and measure; `make-mirror` has its own test below; `completion`
// does not exist in 3.4.

/// One of the two, and what the placeholders mean there.
struct Guest {
    endpoint: String,
    lease: String,
    member: String,
    file: String,
}

impl Guest {
    async fn new(endpoint: String, file: PathBuf) -> Self {
        let (list, _) = run(&endpoint, &["member", "list"], "").await;
        let member = list.split(',').next().unwrap_or_default().to_owned();
        Self {
            endpoint,
            lease: "0".to_owned(),
            member,
            file: file.to_str().unwrap().to_owned(),
        }
    }

    /// What a line prints, and whether it succeeds.
    async fn take(&mut self, line: &str, input: &str, how: How) -> (String, bool) {
        let line = line
            .replace("{lease}", &self.lease)
            .replace("{member}", &self.member)
            .replace("{file}", &self.file);
        let words: Vec<&str> = line.split(' ').collect();
        if let Lines(count) = how {
            return (
                first_lines(&self.endpoint, &words, input, count).await,
                true,
            );
        }
        let (text, success) = run(&self.endpoint, &words, input).await;
        if words.starts_with(&["lease", "grant"]) && success && text.starts_with("lease ") {
            self.lease = text.split(' ').nth(1).unwrap().to_owned();
        }
        (self.masked(&text), success)
    }

    /// Without what is the server's own.
    fn masked(&self, text: &str) -> String {
        let lines = text
            .lines()
            // Logs of the client, with times and random names.
            .filter(|line| !line.starts_with("{\"level\""));
        let lines: Vec<String> = lines
            .map(|line| mask(&line.replace(&self.endpoint, "ENDPOINT")))
            .collect();
        lines.join("\n").replace(&self.file, "FILE")
    }
}

/// Ids, times and terms.
fn mask(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let word: String = rest
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '.' || *c == 'µ')
            .collect();
        if word.is_empty() {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        rest = &rest[word.len()..];
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let hex = word.chars().all(|c| c.is_ascii_hexdigit());
        let time = word
            .strip_suffix("ms")
            .or_else(|| word.strip_suffix("µs"))
            .or_else(|| word.strip_suffix('s'));
        let is_time = time.is_some_and(|time| time.contains('.') && time.parse::<f64>().is_ok());
        let term = masked.ends_with("raft_term\":") || masked.ends_with("\"RaftTerm\" : ");
        masked.push_str(match () {
            () if hex && word.len() >= 14 && digits > 3 => "ID",
            () if is_time => "TIME",
            () if term => "TERM",
            // What is left of a lease changes while one looks.
            () if masked.ends_with("remaining(") => "LEFT",
            () => &word,
        });
    }
    masked
}

/// The first lines of something that goes on for ever, which is ended then.
async fn first_lines(endpoint: &str, words: &[&str], input: &str, count: usize) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut child = command(endpoint, words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while seen.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, receiver.recv()).await {
            Ok(Some(line)) => seen.push(mask(&line)),
            Ok(None) | Err(_) => break,
        }
    }
    // Interrupted, as by Ctrl-C: locks and elections clean up behind them.
    interrupt(&mut child).await;
    drop(stdin);
    seen.join("\n")
}

async fn interrupt(child: &mut Child) {
    let _ = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    let deadline = Instant::now() + Duration::from_secs(5);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Lines and columns.
fn shape(text: &str) -> Vec<usize> {
    text.lines().map(|line| line.split(", ").count()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_prints_the_same() {
    for tools in Tools::all() {
        tour(&tools).await;
    }
}

async fn tour(tools: &Tools) {
    let dir = tempfile::tempdir().unwrap();
    let genuine = tools.start(&dir.path().join("genuine")).await;
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    config.clients[0].address = free_address();
    config.client_urls = vec![format!("http://{}", config.clients[0].address)];
    let member = Member::open(config).await;
    eventually("the member has told its address", || async {
        let (list, _) = run(&member.address(), &["member", "list"], "").await;
        list.contains(&member.address())
    })
    .await;
    let mut ours = Guest::new(member.address(), dir.path().join("ours.db")).await;
    let mut theirs = Guest::new(genuine.endpoint.clone(), dir.path().join("theirs.db")).await;
    let mut different = Vec::new();
    for &(line, input, how) in TOUR {
        let (a, b) = tokio::join!(ours.take(line, input, how), theirs.take(line, input, how));
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let same = match how {
            Same | Lines(_) => a == b && (a.1 || !a.0.is_empty()),
            Set => (sorted(&a.0), a.1) == (sorted(&b.0), b.1),
            Shape => (shape(&a.0), a.1) == (shape(&b.0), b.1),
        };
        if !same {
            different.push(format!(
                "etcdctl {line}\n--- ours ({}):\n{}\n--- etcd ({}):\n{}\n",
                a.1, a.0, b.1, b.0
            ));
        }
    }
    assert!(
        different.is_empty(),
        "beside {}: {}",
        tools.name,
        different.join("\n")
    );
    member.store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_follows() {
    if !installed() {
        return;
    }
    let (source, mirror) = (Single::start().await, Single::start().await);
    let (from, to) = (source.member.address(), mirror.member.address());
    assert!(run(&from, &["put", "m/1", "before"], "").await.1);
    let words = ["make-mirror", "--prefix", "m/", "--dest-prefix", "n/", &to];
    let mut child = command(&from, &words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let shows = |key: &'static str, text: &'static str| {
        let to = to.clone();
        async move { run(&to, &["get", key, "--print-value-only"], "").await.0 == text }
    };
    eventually("what was there is copied", || shows("n/1", "before\n")).await;
    assert!(run(&from, &["put", "m/2", "after"], "").await.1);
    assert!(run(&from, &["del", "m/1"], "").await.1);
    eventually("what comes is copied", || shows("n/2", "after\n")).await;
    eventually("what goes is deleted", || shows("n/1", "")).await;
    interrupt(&mut child).await;
    source.member.store.shutdown().await;
    mirror.member.store.shutdown().await;
}

#[test]
fn ids_and_times_are_masked_and_nothing_else() {
    assert_eq!(
        mask("lease 694d8c2a1b3f5d07 granted with TTL(100s), remaining(99s)"),
        "lease ID granted with TTL(100s), remaining(LEFT)"
    );
    assert_eq!(
        mask("is healthy: successfully committed proposal: took = 1.234567ms"),
        "is healthy: successfully committed proposal: took = TIME"
    );
    assert_eq!(
        mask("{\"cluster_id\":14841639068965178418,\"revision\":7,\"raft_term\":12}"),
        "{\"cluster_id\":ID,\"revision\":7,\"raft_term\":TERM}"
    );
}
