//! What the management server has sent, and what of it holds.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::Resource;
use envoy_types::pb::google::protobuf::Any;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::resource;
use crate::reload::source::{MAX_FILES, MAX_TOTAL};
use crate::reload::{Failure, Form, Written};

/// The most resources: as many as there may be files.
pub(super) const MAX_RESOURCES: usize = MAX_FILES;

/// A resource with its name and version.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) any: Any,
}

/// What has come, by the rules of the two protocols.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Of the last response that was taken, for the refusals of those after it; state of the world only.
    pub(super) version: String,
    /// By name, what holds; delta only.
    applied: BTreeMap<String, Arc<Named>>,
    /// What has come, whether or not it holds: a server sends a good resource once, also beside one that is refused. Delta only.
    received: BTreeMap<String, Arc<Named>>,
}

impl Held {
    /// The versions to begin a stream with: the server sends again what was refused.
    pub(super) fn begin(&mut self) -> HashMap<String, String> {
        self.received = self.applied.clone();
        let held = self.applied.values();
        held.map(|held| (held.name.clone(), held.version.clone()))
            .collect()
    }

    /// What a response changes.
    pub(super) fn change(&mut self, changed: Vec<Resource>, removed: &[String]) {
        for name in removed {
            self.received.remove(name);
        }
        for resource in changed {
            let named = Named {
                name: resource.name.clone(),
                version: resource.version,
                any: resource.resource.unwrap_or_default(),
            };
            self.received.insert(resource.name, Arc::new(named));
        }
    }

    /// All that has come.
    pub(super) fn received(&self) -> Vec<Arc<Named>> {
        self.received.values().cloned().collect()
    }

    /// What has come holds.
    pub(super) fn accept(&mut self) {
        self.applied = self.received.clone();
    }
}

/// The same, if they are not too many or too large together.
pub(super) fn bounded(resources: Vec<Arc<Named>>) -> Result<Vec<Arc<Named>>, Failure> {
    if resources.len() > MAX_RESOURCES {
        let problem = format!("more than {MAX_RESOURCES} resources");
        return Err(Failure::Untaken(problem));
    }
    let sizes = resources.iter().map(|named| named.any.value.len() as u64);
    if sizes.sum::<u64>() > MAX_TOTAL {
        let problem = format!("resources of more than {MAX_TOTAL} bytes");
        return Err(Failure::Untaken(problem));
    }
    Ok(resources)
}

/// Puts resources in an order that hangs on nothing else, since servers send them in any; what they have then differs when
/// they do, and is the same for all instances.
pub(super) fn fingerprint(resources: &mut [Arc<Named>]) -> u128 {
    resources.sort_by(|a, b| a.any.value.cmp(&b.any.value));
    let mut hasher = SipHasher13::new();
    for named in resources {
        (&named.any.type_url, &named.any.value).hash(&mut hasher);
    }
    hasher.finish128().as_u128()
}

/// The resources read.
pub(super) fn written(resources: Vec<Arc<Named>>, fingerprint: u128) -> Written {
    let trees = resources.iter();
    let trees = trees.map(|named| resource::read(&named.any, &named.name));
    let form = Form::Trees(trees.collect());
    Written { form, fingerprint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(bytes: usize) -> Arc<Named> {
        let any = Any {
            type_url: String::new(),
            value: vec![0; bytes],
        };
        let (name, version) = (String::new(), String::new());
        Arc::new(Named { name, version, any })
    }

    #[test]
    fn resources_are_bounded_in_number_and_together() {
        let one = named(1);
        assert!(bounded(vec![Arc::clone(&one); MAX_RESOURCES]).is_ok());
        assert!(bounded(vec![one; MAX_RESOURCES + 1]).is_err());
        let large = named(1 << 20);
        assert!(bounded(vec![Arc::clone(&large); 256]).is_ok());
        assert!(bounded(vec![large; 257]).is_err());
    }

    #[test]
    fn the_order_of_resources_does_not_matter() {
        let print = |sizes: &[usize]| {
            let mut resources: Vec<_> = sizes.iter().copied().map(named).collect();
            fingerprint(&mut resources)
        };
        assert_eq!(print(&[1, 2, 3]), print(&[3, 1, 2]));
        assert_ne!(print(&[1, 2, 3]), print(&[1, 2]));
        assert_ne!(print(&[1, 2]), print(&[3]));
    }

    #[test]
    fn what_came_beside_a_refused_resource_is_not_forgotten() {
        let resource = |name: &str, version: &str| Resource {
            name: name.to_owned(),
            version: version.to_owned(),
            ..Resource::default()
        };
        let mut held = Held::default();
        held.change(vec![resource("a", "1"), resource("b", "1")], &[]);
        held.accept();
        // One of these is wrong, and both are refused.
        held.change(vec![resource("a", "2"), resource("b", "2")], &[]);
        held.change(vec![resource("a", "3")], &[]);
        let versions = |held: &Held| -> Vec<String> {
            let received = held.received();
            received.iter().map(|named| named.version.clone()).collect()
        };
        assert_eq!(versions(&held), ["3", "2"]);
        // On a new stream the server learns what holds, and sends the rest again.
        let begun = held.begin();
        assert_eq!(begun.len(), 2);
        assert!(begun.values().all(|version| version == "1"));
        held.change(Vec::new(), &["a".to_owned(), "of nobody".to_owned()]);
        assert_eq!(versions(&held), ["1"]);
    }
}
