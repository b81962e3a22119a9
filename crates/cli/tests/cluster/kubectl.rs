//! The everyday commands of every kubectl on this machine, against one server.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use trivet_harness::{Client, wait_for, wait_for_value};

use crate::support::{STEP, Scenario, kubectls};

/// One kubectl with a cluster.
struct Session<'a> {
    scenario: &'a Scenario,
    kubectl: Client,
}

impl Session<'_> {
    fn ok(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        self.run(&arguments)
    }

    fn run(&self, arguments: &[&str]) -> String {
        let kubeconfig = self.scenario.cluster.kubeconfig(1);
        self.kubectl
            .kubectl_ok(&kubeconfig, &self.scenario.scratch(), arguments)
            .unwrap()
    }

    /// The standard error of a command that must fail.
    fn fails(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let kubeconfig = self.scenario.cluster.kubeconfig(1);
        let output = self
            .kubectl
            .kubectl(&kubeconfig, &self.scenario.scratch(), &arguments)
            .unwrap();
        assert!(!output.status.success(), "kubectl {line} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A command in the background with its output in a file.
    fn background(&self, line: &str, file: &std::path::Path) -> Child {
        Command::new(&self.kubectl.path)
            .env("KUBECONFIG", self.scenario.cluster.kubeconfig(1))
            .env("HOME", self.scenario.scratch())
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(file).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.scenario.scratch().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

#[test]
fn everyday_commands() {
    let mut scenario = Scenario::new("kubectl");
    scenario.cluster.found().unwrap();
    scenario.cluster.wait_ready(1, STEP).unwrap();
    for kubectl in kubectls() {
        println!("kubectl {}", kubectl.version);
        let session = Session {
            scenario: &scenario,
            kubectl,
        };
        wait_for_value("the node to be Ready", STEP, || {
            let table = session.ok("get nodes --no-headers");
            anyhow::ensure!(table.contains(" Ready "), "{table}");
            Ok(())
        })
        .unwrap();
        discovery(&session);
        namespaces_and_config_maps(&session);
        secrets(&session);
        nodes(&session);
        watching(&session);
    }
    scenario.cluster.stop(Duration::from_secs(20)).unwrap();
}

fn discovery(session: &Session<'_>) {
    assert!(session.ok("version -o json").contains("v1.35"));
    let resources = session.ok("api-resources --no-headers");
    for kind in [
        "ConfigMap",
        "Secret",
        "Node",
        "Namespace",
        "Lease",
        "Pod",
        "EndpointSlice",
    ] {
        assert!(resources.contains(kind), "{kind} is missing:\n{resources}");
    }
    assert!(session.ok("get --raw /readyz").contains("ok"));
    assert!(session.ok("auth can-i create configmaps").contains("yes"));
    assert!(session.ok("explain configmap.data").contains("data"));
    let services = session.ok("get svc,endpoints -n default");
    assert!(services.contains("10.43.0.1"), "{services}");
    assert!(services.contains(":6443"), "{services}");
}

fn namespaces_and_config_maps(session: &Session<'_>) {
    let namespaces = session.ok("get ns --no-headers");
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(namespaces.contains(name), "{namespaces}");
    }
    assert!(session.ok("create namespace shop").contains("created"));
    assert!(
        session
            .fails("create namespace shop")
            .contains("AlreadyExists")
    );
    session.ok("create configmap settings -n shop --from-literal=colour=red --from-literal=size=5");
    assert_eq!(
        session.ok("get cm settings -n shop -o jsonpath={.data.colour}"),
        "red"
    );
    let table = session.ok("get cm -n shop");
    assert!(
        table.starts_with("NAME") && table.contains("DATA") && table.contains("AGE"),
        "{table}"
    );
    session.ok("label cm settings -n shop tier=front");
    session.ok("annotate cm settings -n shop note=hello");
    assert!(
        session
            .ok("get cm -n shop -l tier=front -o name")
            .contains("configmap/settings")
    );
    assert!(
        session
            .ok("get cm -n shop -l tier!=front -o name")
            .lines()
            .all(|l| !l.contains("settings"))
    );
    assert!(
        session
            .ok("describe cm settings -n shop")
            .contains("colour")
    );
    assert!(
        session
            .ok("get cm settings -n shop -o yaml")
            .contains("kind: ConfigMap")
    );
    assert!(
        session
            .ok("get cm settings -n shop -o json")
            .contains("\"ConfigMap\"")
    );
    session.run(&[
        "patch",
        "cm",
        "settings",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        r#"{"data":{"size":null}}"#,
    ]);
    session.run(&[
        "patch",
        "cm",
        "settings",
        "-n",
        "shop",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/data/new","value":"1"}]"#,
    ]);
    assert_eq!(
        session
            .ok("get cm settings -n shop -o jsonpath={.data}")
            .replace(' ', ""),
        r#"{"colour":"red","new":"1"}"#
    );
    let manifest = session.file(
        "applied.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied, namespace: shop}\ndata: {a: '1'}\n",
    );
    assert!(
        session
            .ok(&format!("apply -f {manifest}"))
            .contains("created")
    );
    assert!(
        session
            .ok(&format!("apply -f {manifest}"))
            .contains("unchanged")
    );
    let manifest = session.file(
        "applied.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied, namespace: shop}\ndata: {b: '2'}\n",
    );
    assert!(
        session
            .ok(&format!("apply -f {manifest}"))
            .contains("configured")
    );
    assert_eq!(
        session
            .ok("get cm applied -n shop -o jsonpath={.data}")
            .replace(' ', ""),
        r#"{"b":"2"}"#
    );
    assert!(
        session
            .fails("get cm missing -n shop")
            .contains("configmaps \"missing\" not found")
    );
    let wrong = session.file(
        "wrong.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong}\ndatum: {}\n",
    );
    assert!(
        session
            .fails(&format!("create -f {wrong}"))
            .contains("datum")
    );
    session.ok("delete cm settings -n shop");
    session.ok("delete namespace shop --timeout=30s");
    assert!(session.fails("get cm applied -n shop").contains("NotFound"));
}

fn secrets(session: &Session<'_>) {
    session.ok("create secret generic door --from-literal=key=open");
    assert_eq!(
        session.ok("get secret door -o jsonpath={.data.key}"),
        "b3Blbg=="
    );
    let table = session.ok("get secret door --no-headers");
    assert!(table.contains("Opaque"), "{table}");
    session.ok("delete secret door");
}

fn nodes(session: &Session<'_>) {
    let wide = session.ok("get nodes -o wide");
    assert!(
        wide.contains("INTERNAL-IP") && wide.contains("KERNEL-VERSION"),
        "{wide}"
    );
    let described = session.ok("describe node server-1");
    assert!(described.contains("no container runtime"), "{described}");
    assert!(described.contains("Taints:"), "{described}");
    session.ok("label node server-1 rack=a --overwrite");
    assert!(
        session
            .ok("get nodes -l rack=a -o name")
            .contains("node/server-1")
    );
    session.ok("annotate node server-1 seen=yes --overwrite");
    session.ok("label node server-1 rack-");
    session.ok("annotate node server-1 seen-");
    let manifest = session.file(
        "node.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: paper}\n",
    );
    assert!(
        session
            .ok(&format!("create -f {manifest}"))
            .contains("created")
    );
    assert!(session.ok("get node paper --no-headers").contains("paper"));
    session.ok("delete node paper");
}

fn watching(session: &Session<'_>) {
    let file = session
        .scenario
        .scratch()
        .join(format!("watch-{}.txt", session.kubectl.version));
    let mut watch = session.background("get cm -w --no-headers", &file);
    let seen = |text: &str| {
        std::fs::read_to_string(&file)
            .unwrap_or_default()
            .contains(text)
    };
    // Something that exists is listed first: from then on the watch is open.
    wait_for("the list", STEP, || seen("kube-root-ca.crt")).unwrap();
    session.ok("create configmap watched --from-literal=a=b");
    wait_for("the event", STEP, || seen("watched")).unwrap();
    let _ = watch.kill();
    let _ = watch.wait();
    session.ok("delete configmap watched");
}
