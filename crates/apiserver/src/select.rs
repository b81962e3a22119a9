//! Which objects of a collection a request is about.

use trivet_kube_schema::selector::{FieldSelector, LabelSelector};
use trivet_kube_schema::{ResourceInfo, Status, from_storage};

use crate::cache::Entry;
use crate::request::Query;

/// Label and field selector of a request.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    info: &'static ResourceInfo,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(crate) fn parse(info: &'static ResourceInfo, query: &Query) -> Result<Self, Status> {
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        let text = |name: &str| query.text(name).unwrap_or_default().to_owned();
        Ok(Self {
            info,
            labels: LabelSelector::parse(&text("labelSelector")).map_err(|e| bad(&e))?,
            fields: FieldSelector::parse(info, &text("fieldSelector")).map_err(|e| bad(&e))?,
        })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that can match.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        if !self.labels.matches_with(|key| entry.label(key)) {
            return false;
        }
        if self.name().is_some_and(|name| name != entry.name()) {
            return false;
        }
        match self.fields.matches_key(entry.namespace(), entry.name()) {
            Some(answer) => answer,
            // Other fields need the whole object.
            None => self.fields.matches(&from_storage(self.info, entry.value())),
        }
    }
}
