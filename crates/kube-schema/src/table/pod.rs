//! Cells of Pod: the status cell sums up what its containers do.

use serde_json::Value;

use super::cells::{NONE, age, at, list, name, or, since, text};

pub(super) fn cells(object: &Value, now: i64) -> Vec<Value> {
    let summary = summarize(object);
    let restarts = match (summary.restarts, summary.last_restart) {
        (0, _) | (_, "") => summary.restarts.to_string(),
        (count, last) => format!("{count} ({} ago)", since(last, now)),
    };
    let gates = list(object, "spec.readinessGates");
    let ready_gates = gates
        .iter()
        .filter(|gate| {
            list(object, "status.conditions").iter().any(|condition| {
                text(condition, "type") == text(gate, "conditionType")
                    && text(condition, "status") == "True"
            })
        })
        .count();
    let address = match list(object, "status.podIPs").first() {
        Some(first) => text(first, "ip"),
        None => text(object, "status.podIP"),
    };
    vec![
        name(object),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.into(),
        restarts.into(),
        age(object, now),
        or(address, NONE).into(),
        or(text(object, "spec.nodeName"), NONE).into(),
        or(text(object, "status.nominatedNodeName"), NONE).into(),
        match gates.len() {
            0 => NONE.into(),
            total => format!("{ready_gates}/{total}").into(),
        },
    ]
}

struct Summary<'a> {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: &'a str,
}

fn summarize(pod: &Value) -> Summary<'_> {
    let phase = text(pod, "status.phase");
    let mut summary = Summary {
        status: or(text(pod, "status.reason"), phase).to_owned(),
        ready: 0,
        total: list(pod, "spec.containers").len(),
        restarts: 0,
        last_restart: "",
    };
    let gated = |condition: &Value| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    };
    if list(pod, "status.conditions").iter().any(gated) {
        summary.status = "SchedulingGated".into();
    }
    match initializing(pod, &mut summary) {
        Some(status) => summary.status = status,
        None => running(pod, phase, &mut summary),
    }
    if crate::meta::deletion_timestamp(pod).is_some() {
        summary.status = if text(pod, "status.reason") == "NodeLost" {
            "Unknown"
        } else {
            "Terminating"
        }
        .into();
    }
    summary
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    list(pod, "spec.initContainers").iter().any(|container| {
        text(container, "name") == name && text(container, "restartPolicy") == "Always"
    })
}

fn count_restarts<'a>(status: &'a Value, summary: &mut Summary<'a>) {
    summary.restarts += status
        .get("restartCount")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let finished = text(status, "lastState.terminated.finishedAt");
    // RFC 3339 in UTC orders as text.
    if finished > summary.last_restart {
        summary.last_restart = finished;
    }
}

fn is_true(status: &Value, field: &str) -> bool {
    status.get(field) == Some(&Value::Bool(true))
}

/// What the first unfinished init container says, while there is one.
fn initializing<'a>(pod: &'a Value, summary: &mut Summary<'a>) -> Option<String> {
    let statuses = list(pod, "status.initContainerStatuses");
    let total = list(pod, "spec.initContainers").len();
    summary.total += list(pod, "spec.initContainers")
        .iter()
        .filter(|container| text(container, "restartPolicy") == "Always")
        .count();
    for (index, status) in statuses.iter().enumerate() {
        count_restarts(status, summary);
        let sidecar = is_sidecar(pod, text(status, "name"));
        if sidecar && is_true(status, "ready") {
            summary.ready += 1;
        }
        if let Some(ended) = at(status, "state.terminated") {
            if ended.get("exitCode").and_then(Value::as_i64).unwrap_or(0) == 0 {
                continue;
            }
            return Some(format!("Init:{}", ended_text(ended)));
        }
        if sidecar && is_true(status, "started") {
            continue;
        }
        let waiting = text(status, "state.waiting.reason");
        return Some(match waiting {
            "" | "PodInitializing" => format!("Init:{index}/{total}"),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

fn running<'a>(pod: &'a Value, phase: &str, summary: &mut Summary<'a>) {
    let mut has_running = false;
    for status in list(pod, "status.containerStatuses").iter().rev() {
        count_restarts(status, summary);
        let waiting = text(status, "state.waiting.reason");
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if let Some(ended) = at(status, "state.terminated") {
            summary.status = ended_text(ended);
        } else if is_true(status, "ready") && at(status, "state.running").is_some() {
            has_running = true;
            summary.ready += 1;
        }
    }
    // One container finished, others run: the pod as a whole runs.
    if summary.status == "Completed" && has_running {
        let ready = list(pod, "status.conditions").iter().any(|condition| {
            text(condition, "type") == "Ready" && text(condition, "status") == "True"
        });
        summary.status = if ready { "Running" } else { "NotReady" }.into();
    } else if summary.status.is_empty() {
        summary.status = phase.to_owned();
    }
}

fn ended_text(ended: &Value) -> String {
    let number = |field: &str| ended.get(field).and_then(Value::as_i64).unwrap_or(0);
    match (text(ended, "reason"), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(pod: &Value) -> (String, String, String) {
        let cells = cells(pod, 100);
        let text = |index: usize| cells[index].as_str().unwrap_or_default().to_owned();
        (text(1), text(2), text(3))
    }

    #[test]
    fn status_cell() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        for (status, expected) in [
            (json!({"phase": "Pending"}), ("0/2", "Pending", "0")),
            (
                json!({"phase": "Running", "containerStatuses": [
                    {"ready": true, "restartCount": 2, "state": {"running": {}},
                     "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:00Z"}}},
                    {"ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                ("1/2", "CrashLoopBackOff", "2 (40s ago)"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ("0/2", "Init:0/1", "0"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
                ("0/2", "ExitCode:3", "0"),
            ),
            (
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                    {"state": {"terminated": {"reason": "Completed"}}}, {"ready": true, "state": {"running": {}}}]}),
                ("1/2", "Running", "0"),
            ),
        ] {
            let pod = json!({"spec": spec, "status": status});
            let (ready, text, restarts) = row(&pod);
            assert_eq!(
                (ready.as_str(), text.as_str(), restarts.as_str()),
                expected,
                "{pod}"
            );
        }
        let deleted = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(row(&deleted).1, "Terminating");
    }
}
