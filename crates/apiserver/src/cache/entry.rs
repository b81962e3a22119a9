//! One object as the cache holds it: ready bytes plus what selectors and controllers ask for.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};
use trivet_datastore::KeyValue;
use trivet_kube_schema::ResourceInfo;
use trivet_kube_schema::codec::{MediaType, decode};

/// A reference from a dependent to its owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Owner {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// An object at one revision.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Store key.
    pub(crate) key: Bytes,
    /// Where `[namespace/]name` begins in the key.
    identity_at: usize,
    /// Revision of the last change.
    pub(crate) revision: u64,
    /// The whole object as JSON, `kind`, `apiVersion` and `resourceVersion` included.
    pub(crate) body: Bytes,
    /// Length of `{"kind":…,"apiVersion":…,`, which items of lists leave out.
    type_length: usize,
    pub(crate) uid: Box<str>,
    /// Sorted by key.
    labels: Box<[(Box<str>, Box<str>)]>,
    pub(crate) owners: Box<[Owner]>,
    /// Whether `deletionTimestamp` is set.
    pub(crate) deleting: bool,
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow)]
    metadata: ProbeMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProbeMeta<'a> {
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    labels: Option<Map<String, Value>>,
    owner_references: Option<Vec<Owner>>,
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource_version: Option<Cow<'a, str>>,
}

/// How objects of one kind begin in the store and in answers.
#[derive(Debug)]
pub(crate) struct Header {
    /// `{"kind":"Pod","apiVersion":"v1",`
    types: Vec<u8>,
    /// The same and `"metadata":{`.
    full: Vec<u8>,
}

const METADATA: &[u8] = b"\"metadata\":{";

impl Header {
    pub(crate) fn new(info: &ResourceInfo) -> Self {
        let types = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",",
            info.kind,
            info.api_version()
        );
        let types = types.into_bytes();
        let full = [types.as_slice(), METADATA].concat();
        Self { types, full }
    }

    /// The object in the form it is stored in: type first, then metadata without a
    /// resourceVersion, then the rest in key order.
    pub(crate) fn encode(&self, object: &Value) -> Vec<u8> {
        let mut out = self.types.clone();
        out.extend_from_slice(b"\"metadata\":");
        let mut metadata = object
            .get("metadata")
            .cloned()
            .unwrap_or_else(|| Value::Object(Map::new()));
        if let Some(map) = metadata.as_object_mut() {
            map.remove("resourceVersion");
        }
        write(&mut out, &metadata);
        for (name, value) in object.as_object().into_iter().flatten() {
            if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
                out.push(b',');
                write(&mut out, &Value::String(name.clone()));
                out.push(b':');
                write(&mut out, value);
            }
        }
        out.push(b'}');
        out
    }

    /// Puts `resourceVersion` into stored bytes. Foreign bytes are decoded and rewritten
    /// first; `None` when they cannot be understood at all.
    pub(crate) fn with_revision(&self, stored: &[u8], revision: u64) -> Option<Vec<u8>> {
        if let Some(rest) = stored.strip_prefix(self.full.as_slice()) {
            let version = format!("\"resourceVersion\":\"{revision}\"");
            let mut out = Vec::with_capacity(stored.len() + version.len() + 1);
            out.extend_from_slice(&self.full);
            out.extend_from_slice(version.as_bytes());
            if rest.first() != Some(&b'}') {
                out.push(b',');
            }
            out.extend_from_slice(rest);
            return Some(out);
        }
        let object = decode_foreign(stored)?;
        let canonical = self.encode(&object);
        if !canonical.starts_with(&self.full) {
            return None;
        }
        self.with_revision(&canonical, revision)
    }
}

fn write(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value serialises into memory");
}

/// Objects that another program wrote: JSON in another key order, or protobuf.
fn decode_foreign(stored: &[u8]) -> Option<Value> {
    let media = if stored.starts_with(b"k8s\0") {
        MediaType::Protobuf
    } else {
        MediaType::Json
    };
    decode(stored, media)
        .ok()
        .map(|d| d.value)
        .filter(Value::is_object)
}

impl Entry {
    /// Builds the entry for a stored pair; `None` when the value is not an object.
    pub(crate) fn new(header: &Header, prefix_length: usize, pair: &KeyValue) -> Option<Self> {
        let revision = pair.mod_revision.0;
        let mut body = header.with_revision(&pair.value, revision)?;
        let mut probe: Probe<'_> = serde_json::from_slice(&body).ok()?;
        probe.metadata.resource_version.as_ref()?;
        let uid = probe.metadata.uid.as_ref().into();
        let labels = probe.metadata.labels.take().unwrap_or_default();
        let labels = labels
            .into_iter()
            .filter_map(|(key, value)| Some((key.into(), value.as_str()?.into())))
            .collect();
        let owners = probe
            .metadata
            .owner_references
            .take()
            .unwrap_or_default()
            .into();
        let deleting = probe.metadata.deletion_timestamp.is_some();
        body.shrink_to_fit();
        Some(Self {
            key: pair.key.clone(),
            identity_at: prefix_length,
            revision,
            body: body.into(),
            type_length: header.types.len(),
            uid,
            labels,
            owners,
            deleting,
        })
    }

    /// The same object as it was when it was deleted at `revision`.
    pub(crate) fn deleted(&self, header: &Header, revision: u64) -> Self {
        // The body carries a resourceVersion of its own right behind the header.
        let tail = &self.body[header.full.len()..];
        let skip = tail
            .iter()
            .position(|b| *b == b',' || *b == b'}')
            .unwrap_or(0);
        let mut body = Vec::with_capacity(self.body.len() + 4);
        body.extend_from_slice(&header.full);
        body.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
        body.extend_from_slice(&tail[skip..]);
        Self {
            key: self.key.clone(),
            identity_at: self.identity_at,
            revision,
            body: body.into(),
            type_length: self.type_length,
            uid: self.uid.clone(),
            labels: self.labels.clone(),
            owners: self.owners.clone(),
            deleting: self.deleting,
        }
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let at = self
            .labels
            .binary_search_by(|(own, _)| (**own).cmp(key))
            .ok()?;
        Some(&self.labels[at].1)
    }

    /// `[namespace/]name`.
    pub(crate) fn identity(&self) -> &str {
        std::str::from_utf8(&self.key[self.identity_at..]).unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        let identity = self.identity();
        identity.split_once('/').map_or(identity, |(_, name)| name)
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.identity()
            .split_once('/')
            .map(|(namespace, _)| namespace)
    }

    /// The object as an item of a typed list: without kind and apiVersion, in two pieces.
    pub(crate) fn write_item(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        out.extend_from_slice(&self.body[self.type_length..]);
    }

    /// The object as a tree.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the entry was parsed when it was built")
    }

    /// Bytes that the entry keeps in memory, roughly.
    pub(crate) fn weight_bytes(&self) -> usize {
        256 + self.key.len() + self.body.len()
    }
}
