//! Lists: from the cache where it is known to be new enough, from the store where an exact
//! revision is asked for.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use trivet_datastore::Error;
use trivet_kube_schema::{FieldError, ResourceInfo, Status};

use crate::cache::{Entry, Slot};
use crate::registry::store_error;
use crate::request::Query;
use crate::respond::ListMeta;
use crate::select::Selection;
use crate::server::Core;

/// Keys read from the store at a time when a selector leaves most of them out.
const SCAN_PAGE: usize = 500;
/// Keys read from the store at a time at most.
const READ_MAX: usize = 10_000;

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// What `resourceVersion` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Everything committed before the request.
    Newest,
    /// Whatever is at hand.
    Any,
    /// At least that revision.
    NotOlderThan(u64),
    /// Exactly that revision.
    Exact(u64),
}

/// The query parameters of a list or watch that both understand.
#[derive(Debug, Clone)]
pub(crate) struct ListOptions {
    /// `None`: not given.
    pub(crate) version: Option<u64>,
    pub(crate) version_match: Option<Match>,
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) bookmarks: bool,
    pub(crate) timeout_seconds: Option<u64>,
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, Status> {
    let Some(text) = query.text(name) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!(
            "strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    })
}

fn invalid(error: FieldError) -> Status {
    Status::invalid_kind("meta.k8s.io", "ListOptions", "", &[error])
}

impl ListOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        let version = match query.text("resourceVersion") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                invalid(FieldError::invalid(
                    "resourceVersion",
                    text,
                    "strconv.ParseUint: invalid syntax",
                ))
            })?),
        };
        let version_match = match query.text("resourceVersionMatch") {
            None => None,
            Some("Exact") => Some(Match::Exact),
            Some("NotOlderThan") => Some(Match::NotOlderThan),
            Some(other) => {
                let known = &["Exact", "NotOlderThan", ""];
                return Err(invalid(FieldError::not_supported(
                    "resourceVersionMatch",
                    other,
                    known,
                )));
            }
        };
        Ok(Self {
            version,
            version_match,
            limit: number(query, "limit")?.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            continue_token: query.text("continue").map(str::to_owned),
            send_initial_events: query.flag("sendInitialEvents"),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            timeout_seconds: number(query, "timeoutSeconds")?,
        })
    }

    /// The rules for lists.
    pub(crate) fn freshness(&self) -> Result<Freshness, Status> {
        if self.send_initial_events.is_some() {
            let detail = "sendInitialEvents is forbidden for list";
            return Err(invalid(FieldError::forbidden("sendInitialEvents", detail)));
        }
        if self.version_match.is_some() && self.continue_token.is_some() {
            let detail = "resourceVersionMatch is forbidden when continue is provided";
            return Err(invalid(FieldError::forbidden(
                "resourceVersionMatch",
                detail,
            )));
        }
        match (self.version, self.version_match) {
            (None, Some(_)) => {
                let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                Err(invalid(FieldError::forbidden(
                    "resourceVersionMatch",
                    detail,
                )))
            }
            (None, None) => Ok(Freshness::Newest),
            (Some(0), Some(Match::Exact)) => {
                let detail =
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                Err(invalid(FieldError::forbidden(
                    "resourceVersionMatch",
                    detail,
                )))
            }
            (Some(0), _) => Ok(Freshness::Any),
            (Some(n), Some(Match::Exact)) => Ok(Freshness::Exact(n)),
            (Some(n), Some(Match::NotOlderThan)) => Ok(Freshness::NotOlderThan(n)),
            (Some(n), None) if self.limit > 0 => Ok(Freshness::Exact(n)),
            (Some(n), None) => Ok(Freshness::NotOlderThan(n)),
        }
    }

    /// The rules for watches: how fresh the start is, unless it is a past revision.
    pub(crate) fn check_watch(&self) -> Result<(), Status> {
        match (self.send_initial_events, self.version_match) {
            (Some(_), Some(Match::NotOlderThan)) | (None, None) => Ok(()),
            (Some(_), _) => {
                let detail =
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                Err(invalid(FieldError::forbidden(
                    "resourceVersionMatch",
                    detail,
                )))
            }
            (None, Some(_)) => {
                let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                Err(invalid(FieldError::forbidden(
                    "resourceVersionMatch",
                    detail,
                )))
            }
        }
    }
}

/// Where a chunked list goes on.
#[derive(Debug, PartialEq, Eq)]
struct Continue {
    /// The snapshot's revision; `None` to go on at the newest.
    revision: Option<u64>,
    /// Identity of the last object returned, relative to the collection.
    last: String,
}

impl Continue {
    fn encode(&self) -> String {
        let revision = self
            .revision
            .map_or(-1, |r| i64::try_from(r).unwrap_or(i64::MAX));
        let token =
            json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{}\0", self.last)});
        BASE64_URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str) -> Option<Self> {
        let token: Value =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        if token.get("v")? != "meta.k8s.io/v1" {
            return None;
        }
        let last = token.get("start")?.as_str()?.strip_suffix('\0')?.to_owned();
        let revision = u64::try_from(token.get("rv")?.as_i64()?)
            .ok()
            .filter(|r| *r > 0);
        (!last.is_empty()).then_some(Self { revision, last })
    }
}

/// Objects and the metadata of their list.
pub(crate) struct Listing {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) meta: ListMeta,
}

/// Where to read.
struct Place<'a> {
    slot: &'a Slot,
    /// `""` or `namespace/`.
    scope: String,
    selection: &'a Selection,
    limit: usize,
}

/// `""` or `namespace/`: how identities in a collection begin.
pub(crate) fn scope(info: &ResourceInfo, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) if info.namespaced => format!("{namespace}/"),
        _ => String::new(),
    }
}

impl Core {
    /// Reads a collection by the rules of `options`.
    pub(crate) async fn list(
        &self,
        info: &'static ResourceInfo,
        namespace: Option<&str>,
        options: &ListOptions,
        selection: &Selection,
    ) -> Result<Listing, Status> {
        let freshness = options.freshness()?;
        let place = Place {
            slot: self.slot(info)?,
            scope: scope(info, namespace),
            selection,
            limit: options.limit,
        };
        if let Some(token) = &options.continue_token {
            if options.version.is_some_and(|v| v != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let Some(token) = Continue::decode(token) else {
                return Err(Status::bad_request("continue key is not valid"));
            };
            return match token.revision {
                Some(revision) => self.list_page(&place, revision, Some(&token.last)).await,
                None => {
                    let published = self.fresh_cache(Freshness::Newest).await?;
                    Ok(from_cache(&place, published, Some(&token.last)))
                }
            };
        }
        match freshness {
            Freshness::Exact(revision) => self.list_page(&place, revision, None).await,
            other => {
                let published = self.fresh_cache(other).await?;
                let limit = if other == Freshness::Any {
                    0
                } else {
                    place.limit
                };
                Ok(from_cache(&Place { limit, ..place }, published, None))
            }
        }
    }

    /// Waits until the cache is as fresh as needed and returns the revision it is complete at.
    pub(crate) async fn fresh_cache(&self, freshness: Freshness) -> Result<u64, Status> {
        let wanted = match freshness {
            Freshness::Newest => self.newest_revision().await?,
            Freshness::Any => 0,
            Freshness::NotOlderThan(revision) | Freshness::Exact(revision) => revision,
        };
        if !self
            .cache
            .wait_for(wanted, self.config.timings.cache_wait)
            .await
        {
            let current = self.cache.revision();
            return Err(match freshness {
                Freshness::Newest => Status::timeout(
                    "the cache of this server did not catch up with the datastore",
                    1,
                ),
                _ => Status::too_large_resource_version(wanted, current),
            });
        }
        Ok(self.cache.revision())
    }

    /// A page at exactly one revision.
    async fn list_page(
        &self,
        place: &Place<'_>,
        revision: u64,
        last: Option<&str>,
    ) -> Result<Listing, Status> {
        let cached = self.cache.revision();
        // Nothing of this resource changed since: the cache is the snapshot.
        if cached >= revision {
            let listing = from_cache(place, revision, last);
            if listing.meta.revision == revision {
                return Ok(listing);
            }
        }
        let prefix = format!("{}{}", place.slot.prefix, place.scope);
        let mut last = last.map(str::to_owned);
        let mut entries = Vec::new();
        loop {
            let after = last.as_ref().map(|last| format!("{prefix}{last}"));
            let missing = match place.limit {
                0 => SCAN_PAGE,
                limit => limit - entries.len(),
            };
            let size = if place.selection.is_everything() {
                missing
            } else {
                missing.max(SCAN_PAGE)
            };
            let size = size.min(READ_MAX);
            let page = match self
                .range(prefix.clone(), after, size, Some(revision))
                .await
            {
                Ok(page) => page,
                Err(Error::Compacted { .. }) => {
                    return Err(match last {
                        Some(last) => Status::expired_continue(
                            Continue {
                                revision: None,
                                last,
                            }
                            .encode(),
                        ),
                        None => Status::expired_list(),
                    });
                }
                Err(error) => return Err(store_error(&error)),
            };
            let (mut seen, total) = (0, page.items.len());
            for pair in &page.items {
                seen += 1;
                last = std::str::from_utf8(&pair.key[prefix.len()..])
                    .ok()
                    .map(str::to_owned);
                let Some(entry) = place.slot.entry(pair) else {
                    continue;
                };
                if place.selection.matches(&entry) {
                    entries.push(Arc::new(entry));
                    if place.limit > 0 && entries.len() == place.limit {
                        break;
                    }
                }
            }
            let full = place.limit > 0 && entries.len() == place.limit;
            let more = page.more || seen < total;
            if full || !more {
                let remaining = page.count.saturating_sub(seen as u64) as usize;
                return Ok(listing(
                    place,
                    entries,
                    revision,
                    if more { last } else { None },
                    remaining,
                ));
            }
        }
    }
}

/// A page of the cache's current state.
fn from_cache(place: &Place<'_>, published: u64, last: Option<&str>) -> Listing {
    let after = last.map(|last| format!("{}{last}", place.scope));
    if place.selection.is_everything() {
        let read = place
            .slot
            .snapshot(&place.scope, after.as_deref(), place.limit, published);
        let next = read.entries.last().filter(|_| read.remaining > 0);
        let next = next.map(|entry| entry.identity()[place.scope.len()..].to_owned());
        return listing(place, read.entries, read.revision, next, read.remaining);
    }
    let read = place
        .slot
        .snapshot(&place.scope, after.as_deref(), 0, published);
    let mut matching = read
        .entries
        .into_iter()
        .filter(|entry| place.selection.matches(entry));
    let limit = if place.limit == 0 {
        usize::MAX
    } else {
        place.limit
    };
    let entries: Vec<_> = matching.by_ref().take(limit).collect();
    let more = matching.next().is_some();
    let next = entries
        .last()
        .filter(|_| more)
        .map(|e| e.identity()[place.scope.len()..].to_owned());
    listing(place, entries, read.revision, next, 0)
}

fn listing(
    place: &Place<'_>,
    entries: Vec<Arc<Entry>>,
    revision: u64,
    next: Option<String>,
    remaining: usize,
) -> Listing {
    // Counting what a selector would still find would mean reading it.
    let remaining = (next.is_some() && place.selection.is_everything()).then_some(remaining);
    let continue_token = next.map(|last| {
        Continue {
            revision: Some(revision),
            last,
        }
        .encode()
    });
    Listing {
        entries,
        meta: ListMeta {
            revision,
            continue_token,
            remaining,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_and_garbage_does_not() {
        for token in [
            Continue {
                revision: Some(7),
                last: "ns/a".to_owned(),
            },
            Continue {
                revision: None,
                last: "a".to_owned(),
            },
        ] {
            assert_eq!(Continue::decode(&token.encode()), Some(token));
        }
        for garbage in ["", "e30", "!!", "eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ"] {
            assert_eq!(Continue::decode(garbage), None, "{garbage}");
        }
    }
}
