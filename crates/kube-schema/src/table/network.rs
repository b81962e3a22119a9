//! Cells of Service, Endpoints and EndpointSlice.

use serde_json::Value;

use super::cells::{NONE, age, at, label_text, list, name, or, text};

/// Most addresses or ports shown in one cell.
const SHOWN: usize = 3;

pub(super) fn service(object: &Value, now: i64) -> Vec<Value> {
    let cluster_ip = match list(object, "spec.clusterIPs")
        .first()
        .and_then(Value::as_str)
    {
        Some(address) => address,
        None => text(object, "spec.clusterIP"),
    };
    vec![
        name(object),
        text(object, "spec.type").into(),
        or(cluster_ip, NONE).into(),
        external_address(object).into(),
        ports(object).into(),
        age(object, now),
        label_text(at(object, "spec.selector").and_then(Value::as_object)).into(),
    ]
}

fn external_address(object: &Value) -> String {
    let texts = |path: &str| {
        list(object, path)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
    };
    match text(object, "spec.type") {
        "ExternalName" => text(object, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = list(object, "status.loadBalancer.ingress")
                .iter()
                .map(|entry| or(text(entry, "ip"), text(entry, "hostname")).to_owned());
            let all: Vec<String> = ingress.chain(texts("spec.externalIPs")).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        _ => or(
            &texts("spec.externalIPs").collect::<Vec<_>>().join(","),
            NONE,
        )
        .to_owned(),
    }
}

fn ports(object: &Value) -> String {
    let number = |port: &Value, field: &str| port.get(field).and_then(Value::as_i64).unwrap_or(0);
    let all: Vec<String> = list(object, "spec.ports")
        .iter()
        .map(|port| {
            let protocol = text(port, "protocol");
            match number(port, "nodePort") {
                0 => format!("{}/{protocol}", number(port, "port")),
                node => format!("{}:{node}/{protocol}", number(port, "port")),
            }
        })
        .collect();
    or(&all.join(","), NONE).to_owned()
}

/// The first few of `all`, and how many more there are.
fn first_few(all: &[String], empty: &str) -> String {
    match all.get(..SHOWN) {
        Some(few) if all.len() > SHOWN => {
            format!("{} + {} more...", few.join(","), all.len() - SHOWN)
        }
        _ => or(&all.join(","), empty).to_owned(),
    }
}

pub(super) fn endpoints(object: &Value, now: i64) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        for address in list(subset, "addresses") {
            let ip = text(address, "ip");
            let ports = list(subset, "ports");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            for port in ports {
                let port = port.get("port").and_then(Value::as_i64).unwrap_or(0);
                all.push(match ip.contains(':') {
                    true => format!("[{ip}]:{port}"),
                    false => format!("{ip}:{port}"),
                });
            }
        }
    }
    vec![name(object), first_few(&all, NONE).into(), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Value, now: i64) -> Vec<Value> {
    const UNSET: &str = "<unset>";
    let ports: Vec<String> = list(object, "ports")
        .iter()
        .map(|port| {
            port.get("port")
                .and_then(Value::as_i64)
                .map_or_else(|| "*".to_owned(), |n| n.to_string())
        })
        .collect();
    let addresses: Vec<String> = list(object, "endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        name(object),
        text(object, "addressType").into(),
        first_few(&ports, UNSET).into(),
        first_few(&addresses, UNSET).into(),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_and_ports() {
        let service = json!({"metadata": {"name": "kubernetes"}, "spec": {"type": "ClusterIP", "clusterIP": "10.43.0.1",
            "ports": [{"port": 443, "protocol": "TCP"}, {"port": 80, "nodePort": 30080, "protocol": "TCP"}]}});
        assert_eq!(
            Value::from(super::service(&service, 0)),
            json!([
                "kubernetes",
                "ClusterIP",
                "10.43.0.1",
                "<none>",
                "443/TCP,80:30080/TCP",
                "<unknown>",
                "<none>"
            ])
        );
        let addresses: Vec<Value> = (1..=5)
            .map(|n| json!({"ip": format!("127.0.0.{n}")}))
            .collect();
        let endpoints = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 6443}]}]});
        assert_eq!(
            Value::from(super::endpoints(&endpoints, 0))[1],
            "127.0.0.1:6443,127.0.0.2:6443,127.0.0.3:6443 + 2 more..."
        );
        let slice = json!({"addressType": "IPv4", "ports": [{"port": 6443}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
        assert_eq!(Value::from(endpoint_slice(&slice, 0))[2], "6443");
        assert_eq!(Value::from(endpoint_slice(&json!({}), 0))[3], "<unset>");
    }
}
