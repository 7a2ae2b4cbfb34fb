//! `jwt_authn`: the claims of a token become metadata and headers. Whether a token is good is not looked at here: it is taken
//! for verified, and whoever is told says so.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value as Json;

use super::request::Seen;
use super::tree::{Tree, field, fields, is_named};
use crate::rules::file::{Node, Value};

/// Where claims stand in metadata.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

/// The filter.
#[derive(Clone, Debug)]
pub(super) struct Jwt {
    providers: Vec<Provider>,
    /// Somewhere a requirement lets requests with a failed token pass.
    pub(super) passes_failed: bool,
}

/// One that tokens come from.
#[derive(Clone, Debug)]
struct Provider {
    /// Names of headers, and what stands before the token in them.
    headers: Vec<(String, String)>,
    parameters: Vec<String>,
    payload_in_metadata: Option<String>,
    /// Claims, and the headers that they become.
    claim_headers: Vec<(String, String)>,
    forwards: bool,
}

/// What became of a request at the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Missing,
    /// Taken for verified.
    Read,
    /// It is none that Envoy takes.
    Broken,
}

impl Jwt {
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let providers = field(node, "providers").into_iter().flat_map(fields);
        Self {
            providers: providers
                .map(|(_, node)| Provider::read(tree, node))
                .collect(),
            passes_failed: has(node, "allow_missing_or_failed"),
        }
    }

    /// Does what the filter does with the first token that is there.
    pub(super) fn apply(&self, seen: &mut Seen<'_>) -> Token {
        let found = self.providers.iter().find_map(|provider| {
            let (token, header) = provider.token(seen)?;
            Some((provider, token, header))
        });
        let Some((provider, token, header)) = found else {
            return Token::Missing;
        };
        let Some(claims) = claims(&token) else {
            return Token::Broken;
        };
        for (claim, header) in &provider.claim_headers {
            let value = claim
                .split('.')
                .try_fold(&claims, |value, name| value.get(name));
            let value = match value {
                Some(Json::String(text)) => text.clone(),
                Some(value @ (Json::Number(_) | Json::Bool(_))) => value.to_string(),
                Some(Json::Null | Json::Array(_) | Json::Object(_)) | None => continue,
            };
            seen.headers.set(header, Ok(value));
        }
        if let Some(header) = header.filter(|_| !provider.forwards) {
            seen.headers.remove(|name| name == header);
        }
        if let Some(place) = &provider.payload_in_metadata {
            let there = seen.metadata.entry(NAMESPACE.to_owned());
            let there = there.or_insert_with(|| Json::Object(serde_json::Map::new()));
            if let Json::Object(there) = there {
                // What the caller says of it is more than what an unverified token does.
                there.entry(place.clone()).or_insert(claims);
            }
        }
        Token::Read
    }
}

/// Whether a field of this name is anywhere below.
fn has(node: &Node<'_>, name: &str) -> bool {
    match &node.value {
        Value::Scalar { .. } => false,
        Value::List(items) => items.iter().any(|item| has(item, name)),
        Value::Map(_) => fields(node).any(|(key, node)| is_named(key, name) || has(node, name)),
    }
}

impl Provider {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let pair = |tree: &mut Tree<'_>, node: &Node<'_>, names: [&str; 2]| {
            names.map(|name| tree.text(node, name).unwrap_or_default())
        };
        let mut headers = Vec::new();
        for node in tree.list(node, "from_headers") {
            let [name, prefix] = pair(tree, node, ["name", "value_prefix"]);
            headers.push((name.to_ascii_lowercase(), prefix));
        }
        let parameters = tree.list(node, "from_params").iter();
        let mut parameters: Vec<String> = parameters
            .filter_map(super::tree::scalar)
            .map(str::to_owned)
            .collect();
        if headers.is_empty() && parameters.is_empty() {
            headers.push(("authorization".to_owned(), "Bearer ".to_owned()));
            parameters.push("access_token".to_owned());
        }
        let mut claim_headers = Vec::new();
        for node in tree.list(node, "claim_to_headers") {
            let [header, claim] = pair(tree, node, ["header_name", "claim_name"]);
            claim_headers.push((claim, header.to_ascii_lowercase()));
        }
        Self {
            headers,
            parameters,
            payload_in_metadata: tree.text(node, "payload_in_metadata"),
            claim_headers,
            forwards: tree.is_on(node, "forward"),
        }
    }

    /// The token, and the header that it stands in.
    fn token(&self, seen: &Seen<'_>) -> Option<(String, Option<String>)> {
        let in_headers = self.headers.iter().find_map(|(name, prefix)| {
            let value = seen.headers.first(name).ok()??;
            let token = value.split_once(prefix.as_str()).map(|(_, token)| token)?;
            Some((token.trim().to_owned(), Some(name.clone())))
        });
        let query = seen.query();
        let in_query = || {
            self.parameters
                .iter()
                .find_map(|name| Some((query.get(name)?, None)))
        };
        in_headers.or_else(in_query)
    }
}

/// The claims that a token states.
fn claims(token: &str) -> Option<Json> {
    let mut parts = token.split('.').skip(1);
    let payload = URL_SAFE_NO_PAD
        .decode(parts.next()?.trim_end_matches('='))
        .ok()?;
    let claims: Json = serde_json::from_slice(&payload).ok()?;
    // Envoy takes no token whose own claims are of another kind.
    let is_text = |name| claims.get(name).is_none_or(Json::is_string);
    (claims.is_object() && is_text("sub") && is_text("iss")).then_some(claims)
}
