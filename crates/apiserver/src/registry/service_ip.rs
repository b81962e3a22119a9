//! Addresses of services.
//!
//! An address is free when no service has it. Every server looks at the store, not at its
//! cache, before it takes one; two services created through two servers in the same instant
//! could still pick the same random address, so each allocation also claims the address under
//! a key of its own, created only if absent, that names the service.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use serde_json::{Value, json};
use trivet_datastore::{DeleteRequest, Expect};
use trivet_kube_schema::{FieldError, ResourceInfo, Status, meta};

use crate::server::Core;

/// Where claims lie.
const CLAIMS: &str = "/registry/trivet/service-addresses/";
const ATTEMPTS: usize = 32;

/// The address at an offset of a network, unless it is outside.
pub(crate) fn address((base, prefix): (IpAddr, u8), offset: u64) -> Option<IpAddr> {
    match base {
        IpAddr::V4(base) => {
            let host_bits = 32u32.checked_sub(prefix.into())?;
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            let offset = u32::try_from(offset).ok().filter(|o| o & mask == 0)?;
            Some(Ipv4Addr::from((u32::from(base) & mask) | offset).into())
        }
        IpAddr::V6(base) => {
            let host_bits = 128u32.checked_sub(prefix.into())?;
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            let offset = Some(u128::from(offset)).filter(|o| o & mask == 0)?;
            Some(Ipv6Addr::from((u128::from(base) & mask) | offset).into())
        }
    }
}

/// Number of offsets to choose from, at most 2^16.
fn range_size((base, prefix): (IpAddr, u8)) -> u64 {
    let width: u8 = if base.is_ipv4() { 32 } else { 128 };
    1 << width.saturating_sub(prefix).min(16)
}

impl Core {
    pub(super) async fn allocate_address(
        &self,
        info: &ResourceInfo,
        service: &mut Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        let spec = service.get("spec").cloned().unwrap_or_else(|| json!({}));
        let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default();
        if text("type") == "ExternalName" || text("clusterIP") == "None" {
            return Ok(());
        }
        let owner = format!(
            "{}/{}",
            meta::namespace(service).unwrap_or_default(),
            meta::name(service)
                .or(meta::generate_name(service))
                .unwrap_or_default()
        );
        let used = self.used_addresses(info);
        let asked = text("clusterIP").to_owned();
        let chosen = if asked.is_empty() {
            self.pick(&used, &owner, dry_run).await?
        } else {
            let address: Option<IpAddr> = asked.parse().ok();
            let free = match address {
                Some(address) if !used.contains(&address) => {
                    dry_run || self.claim(address, &owner, &used).await?
                }
                _ => false,
            };
            if !free {
                let detail =
                    "failed to allocate IP: the provided IP is not valid or already allocated";
                let error = FieldError::invalid("spec.clusterIP", Value::from(asked), detail);
                return Err(Status::invalid(
                    info,
                    meta::name(service).unwrap_or_default(),
                    &[error],
                ));
            }
            asked
        };
        if let Some(object) = service.as_object_mut() {
            let spec = object.entry("spec").or_insert_with(|| json!({}));
            spec["clusterIPs"] = json!([chosen]);
            spec["clusterIP"] = chosen.into();
        }
        Ok(())
    }

    fn used_addresses(&self, info: &ResourceInfo) -> HashSet<IpAddr> {
        let services = self.slot(info).map(|slot| slot.all("")).unwrap_or_default();
        services
            .iter()
            .filter_map(|entry| {
                entry
                    .value()
                    .pointer("/spec/clusterIP")?
                    .as_str()?
                    .parse()
                    .ok()
            })
            .collect()
    }

    async fn pick(
        &self,
        used: &HashSet<IpAddr>,
        owner: &str,
        dry_run: bool,
    ) -> Result<String, Status> {
        let network = self.config.network.service_cidr;
        let size = range_size(network);
        for _ in 0..ATTEMPTS {
            // 0 is the network itself, 1 belongs to Service `kubernetes`, the last is broadcast.
            let offset = 2 + self.config.env.rng.next_u64() % size.saturating_sub(3).max(1);
            let Some(address) = address(network, offset) else {
                continue;
            };
            if !used.contains(&address) && (dry_run || self.claim(address, owner, used).await?) {
                return Ok(address.to_string());
            }
        }
        Err(Status::internal(
            "failed to allocate a serviceIP: range is full",
        ))
    }

    /// Gives the address of a deleted service back. One that is not given back in time is taken
    /// over once the claim is stale.
    pub(super) async fn release_address(&self, info: &ResourceInfo, object: &Value) {
        if (info.group, info.plural) != ("", "services") {
            return;
        }
        let address = object.pointer("/spec/clusterIP").and_then(Value::as_str);
        let Some(address) = address.filter(|a| a.parse::<IpAddr>().is_ok()) else {
            return;
        };
        let key = Bytes::from(format!("{CLAIMS}{address}"));
        let request = DeleteRequest {
            key,
            expect: Expect::Any,
        };
        if let Err(error) = self.config.datastore.delete(request).await {
            tracing::debug!(%error, address, "the address of a deleted service is given back later");
        }
    }

    /// Claims an address for a service; false when another one holds it. A claim whose service
    /// is gone is taken over.
    async fn claim(
        &self,
        address: IpAddr,
        owner: &str,
        used: &HashSet<IpAddr>,
    ) -> Result<bool, Status> {
        let key = Bytes::from(format!("{CLAIMS}{address}"));
        let value = Bytes::from(format!("{owner} {}", self.now_seconds()));
        match self
            .write(key.clone(), value.clone(), Expect::Absent, None)
            .await?
        {
            Ok(_) => Ok(true),
            Err(Some(held)) if !used.contains(&address) && self.is_stale(&held.value) => {
                let expect = Expect::ModRevision(held.mod_revision);
                Ok(self.write(key, value, expect, None).await?.is_ok())
            }
            Err(_) => Ok(false),
        }
    }

    /// A claim that is old and has no service: the creation after it never happened, or the
    /// service was deleted.
    fn is_stale(&self, claim: &[u8]) -> bool {
        const SETTLED_SECONDS: i64 = 60;
        let text = String::from_utf8_lossy(claim);
        let claimed = text
            .rsplit_once(' ')
            .and_then(|(_, at)| at.parse::<i64>().ok())
            .unwrap_or(0);
        self.now_seconds() - claimed > SETTLED_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_stay_inside_the_network() {
        let network = ("10.43.0.0".parse().unwrap(), 16);
        assert_eq!(address(network, 1), Some("10.43.0.1".parse().unwrap()));
        assert_eq!(
            address(network, 65_535),
            Some("10.43.255.255".parse().unwrap())
        );
        assert_eq!(address(network, 65_536), None);
        let six = ("fd00::".parse().unwrap(), 112);
        assert_eq!(address(six, 1), Some("fd00::1".parse().unwrap()));
        assert_eq!(address(("10.0.0.0".parse().unwrap(), 40), 1), None);
        assert_eq!(range_size(network), 65_536);
    }
}
