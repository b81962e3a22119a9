//! Nothing a client sends makes the server panic.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::{Server, admin};

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "api",
            "apis",
            "v1",
            "namespaces",
            "default",
            "configmaps",
            "nodes",
            "pods",
            "secrets",
            "events",
            "status",
            "finalize",
            "token",
            "eviction",
            "coordination.k8s.io",
            "leases",
            "healthz",
            "openapi",
            "v2",
            "v3",
            "kube-root-ca.crt",
            "serviceaccounts",
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            "..",
            "%2e%2e",
            "%2F",
            "%00",
            "%ff",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9._~%-]{0,12}",
    ]
}

fn query() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "watch",
        "limit",
        "continue",
        "resourceVersion",
        "resourceVersionMatch",
        "labelSelector",
        "fieldSelector",
        "dryRun",
        "fieldValidation",
        "timeoutSeconds",
        "sendInitialEvents",
        "allowWatchBookmarks",
        "gracePeriodSeconds",
        "propagationPolicy",
        "includeObject",
        "verbose",
    ]);
    let value = prop_oneof![
        "[a-zA-Z0-9=,!()%+._-]{0,16}",
        prop::sample::select(vec![
            "true",
            "1",
            "0",
            "-1",
            "All",
            "Exact",
            "NotOlderThan",
            "18446744073709551615"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec((name, value), 0..4).prop_map(|pairs| {
        pairs
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect::<Vec<_>>()
            .join("&")
    })
}

fn json(depth: u32) -> BoxedStrategy<serde_json::Value> {
    let key = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "spec",
        "status",
        "data",
        "conditions",
        "ownerReferences",
        "resourceVersion",
        "uid",
        "generateName",
        "taints",
        "containers",
        "ports",
        "clusterIP",
        "preconditions",
        "$patch",
        "op",
        "path",
        "value",
        "token",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        prop::sample::select(vec![
            "v1",
            "ConfigMap",
            "a",
            "",
            "default",
            "replace",
            "/metadata/name",
            "é\u{0}"
        ])
        .prop_map(Into::into),
    ];
    leaf.prop_recursive(depth, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| {
                let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v));
                serde_json::Value::Object(fields.collect())
            }),
        ]
    })
    .boxed()
}

#[test]
fn no_request_panics() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Server::start());
    let media = prop::sample::select(vec![
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
        "text/plain",
    ]);
    let accept = prop::sample::select(vec![
        "*/*",
        "application/yaml",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        ";;,=;as=",
    ]);
    let method = prop::sample::select(vec![
        "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS",
    ]);
    let body = prop_oneof![
        json(4).prop_map(|v| v.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(|b| [b"k8s\0".as_slice(), &b].concat()),
    ];
    let requests = (
        method,
        prop::collection::vec(segment(), 0..8),
        query(),
        media,
        accept,
        body,
    );
    let config = Config {
        cases: 1500,
        failure_persistence: None,
        ..Config::default()
    };
    let run = TestRunner::new(config).run(
        &requests,
        |(method, segments, query, media, accept, body)| {
            let target = format!("/{}?{query}", segments.join("/"));
            if target.parse::<http::Uri>().is_err() {
                return Ok(());
            }
            let headers = [("content-type", media), ("accept", accept)];
            // The body of a watch is not read: it may last.
            let response =
                runtime.block_on(server.send(method, &target, &headers, body, Some(admin())));
            prop_assert!(
                response.status() != 500,
                "{method} {target}: {:?}",
                response
            );
            Ok(())
        },
    );
    if let Err(error) = run {
        panic!("{error}");
    }
}
