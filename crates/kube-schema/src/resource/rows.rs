//! The rows. Order decides the order of discovery within a group.

use super::Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
use super::{ResourceInfo, Subresource, Verb};

const ALL: &[Verb] = &[
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
];
/// Namespaces are deleted one by one, through their finalizers.
const NO_COLLECTION_DELETE: &[Verb] = &[Create, Delete, Get, List, Patch, Update, Watch];
const SUB: &[Verb] = &[Get, Patch, Update];

const fn status(kind: &'static str, schema: &'static str) -> Subresource {
    Subresource {
        name: "status",
        group: "",
        version: "v1",
        kind,
        verbs: SUB,
        schema,
    }
}

const fn core(
    kind: &'static str,
    list_kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    storage_prefix: &'static str,
    schema: &'static str,
) -> ResourceInfo {
    ResourceInfo {
        group: "",
        version: "v1",
        kind,
        list_kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL,
        subresources: &[],
        storage_prefix: Some(storage_prefix),
        has_spec_generation: false,
        create_on_update: false,
        unconditional_update: true,
        ttl_seconds: None,
        field_labels: &[],
        schema,
    }
}

/// A kind that is posted, answered and forgotten.
const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    schema: &'static str,
) -> ResourceInfo {
    ResourceInfo {
        group,
        namespaced: false,
        verbs: &[Create],
        storage_prefix: None,
        ..core(kind, "", plural, singular, "", schema)
    }
}

/// One hour: upstream's default for events.
const EVENT_TTL_SECONDS: u64 = 3600;

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const EVENTS_GROUP_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];
const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

/// Every served kind.
pub static RESOURCES: &[ResourceInfo] = &[
    ResourceInfo {
        short_names: &["cm"],
        ..core(
            "ConfigMap",
            "ConfigMapList",
            "configmaps",
            "configmap",
            "configmaps",
            "io.k8s.api.core.v1.ConfigMap",
        )
    },
    ResourceInfo {
        short_names: &["ep"],
        create_on_update: true,
        ..core(
            "Endpoints",
            "EndpointsList",
            "endpoints",
            "endpoints",
            "services/endpoints",
            "io.k8s.api.core.v1.Endpoints",
        )
    },
    ResourceInfo {
        short_names: &["ev"],
        create_on_update: true,
        ttl_seconds: Some(EVENT_TTL_SECONDS),
        field_labels: EVENT_FIELDS,
        ..core(
            "Event",
            "EventList",
            "events",
            "event",
            "events",
            "io.k8s.api.core.v1.Event",
        )
    },
    ResourceInfo {
        short_names: &["ns"],
        namespaced: false,
        verbs: NO_COLLECTION_DELETE,
        subresources: &[
            Subresource {
                name: "finalize",
                group: "",
                version: "v1",
                kind: "Namespace",
                verbs: &[Update],
                schema: "io.k8s.api.core.v1.Namespace",
            },
            status("Namespace", "io.k8s.api.core.v1.Namespace"),
        ],
        field_labels: &["status.phase"],
        ..core(
            "Namespace",
            "NamespaceList",
            "namespaces",
            "namespace",
            "namespaces",
            "io.k8s.api.core.v1.Namespace",
        )
    },
    ResourceInfo {
        short_names: &["no"],
        namespaced: false,
        subresources: &[status("Node", "io.k8s.api.core.v1.Node")],
        field_labels: &["spec.unschedulable"],
        ..core(
            "Node",
            "NodeList",
            "nodes",
            "node",
            "minions",
            "io.k8s.api.core.v1.Node",
        )
    },
    ResourceInfo {
        short_names: &["po"],
        categories: &["all"],
        has_spec_generation: true,
        subresources: &[
            Subresource {
                name: "eviction",
                group: "policy",
                version: "v1",
                kind: "Eviction",
                verbs: &[Create],
                schema: "io.k8s.api.policy.v1.Eviction",
            },
            status("Pod", "io.k8s.api.core.v1.Pod"),
        ],
        field_labels: POD_FIELDS,
        ..core(
            "Pod",
            "PodList",
            "pods",
            "pod",
            "pods",
            "io.k8s.api.core.v1.Pod",
        )
    },
    ResourceInfo {
        field_labels: &["type"],
        ..core(
            "Secret",
            "SecretList",
            "secrets",
            "secret",
            "secrets",
            "io.k8s.api.core.v1.Secret",
        )
    },
    ResourceInfo {
        short_names: &["sa"],
        subresources: &[Subresource {
            name: "token",
            group: "authentication.k8s.io",
            version: "v1",
            kind: "TokenRequest",
            verbs: &[Create],
            schema: "io.k8s.api.authentication.v1.TokenRequest",
        }],
        ..core(
            "ServiceAccount",
            "ServiceAccountList",
            "serviceaccounts",
            "serviceaccount",
            "serviceaccounts",
            "io.k8s.api.core.v1.ServiceAccount",
        )
    },
    ResourceInfo {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[status("Service", "io.k8s.api.core.v1.Service")],
        field_labels: &["spec.clusterIP", "spec.type"],
        ..core(
            "Service",
            "ServiceList",
            "services",
            "service",
            "services/specs",
            "io.k8s.api.core.v1.Service",
        )
    },
    review(
        "authentication.k8s.io",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        "io.k8s.api.authentication.v1.SelfSubjectReview",
    ),
    review(
        "authentication.k8s.io",
        "TokenReview",
        "tokenreviews",
        "tokenreview",
        "io.k8s.api.authentication.v1.TokenReview",
    ),
    ResourceInfo {
        namespaced: true,
        ..review(
            "authorization.k8s.io",
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
            "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        )
    },
    review(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    ),
    review(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    ),
    review(
        "authorization.k8s.io",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        "io.k8s.api.authorization.v1.SubjectAccessReview",
    ),
    ResourceInfo {
        group: "coordination.k8s.io",
        create_on_update: true,
        unconditional_update: false,
        ..core(
            "Lease",
            "LeaseList",
            "leases",
            "lease",
            "leases",
            "io.k8s.api.coordination.v1.Lease",
        )
    },
    ResourceInfo {
        group: "discovery.k8s.io",
        has_spec_generation: true,
        ..core(
            "EndpointSlice",
            "EndpointSliceList",
            "endpointslices",
            "endpointslice",
            "endpointslices",
            "io.k8s.api.discovery.v1.EndpointSlice",
        )
    },
    ResourceInfo {
        group: "events.k8s.io",
        short_names: &["ev"],
        create_on_update: true,
        ttl_seconds: Some(EVENT_TTL_SECONDS),
        field_labels: EVENTS_GROUP_FIELDS,
        ..core(
            "Event",
            "EventList",
            "events",
            "event",
            "events",
            "io.k8s.api.events.v1.Event",
        )
    },
];
