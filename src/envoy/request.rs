//! An HTTP request, and what Envoy's filters see of it on its way.

use std::net::IpAddr;

use serde_json::{Map, Value as Json};

use super::routes::{Entry, VirtualHost};

/// A request as a client makes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRequest {
    /// `GET`.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// The host, with a port if there is one.
    pub authority: String,
    /// With the query.
    pub path: String,
    /// In their order; the names in any case.
    pub headers: Vec<(String, String)>,
    /// Where it comes from.
    pub client: Client,
    /// Dynamic metadata that filters whose work is not computed here have set, by namespace.
    pub metadata: Map<String, Json>,
    /// The name of the listener that takes it; none for the one that its port or its scheme tells.
    pub listener: Option<String>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// Nobody has said.
    #[default]
    Unknown,
    /// The other end of the connection. Which address is the client's is for the configuration to say.
    Connection(IpAddr),
    /// The client's, as Envoy has found it: that of its access log.
    Trusted(IpAddr),
}

/// What is computed here, or why it is not.
pub type Known<T> = Result<T, Unknown>;

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// A request on its way through the filters.
pub(super) struct Seen<'c> {
    pub(super) headers: Headers,
    /// The client's address.
    pub(super) remote: Known<IpAddr>,
    /// The other end of the connection.
    pub(super) direct: Known<IpAddr>,
    pub(super) metadata: Map<String, Json>,
    /// The filters before that may have set any metadata.
    pub(super) opaque: Vec<String>,
    pub(super) virtual_host: Option<&'c VirtualHost>,
    pub(super) route: Option<&'c Entry>,
    /// The hits that a filter has set for the request.
    pub(super) hits: Option<Known<String>>,
    /// The answer has been sent.
    pub(super) is_done: bool,
}

/// The headers, with `:method`, `:path`, `:authority` and `:scheme` among them; the names are in small letters.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(Vec<(String, Known<String>)>);

/// The parameters of a query, percent-encoded as they come.
pub(super) struct Query(Vec<(String, String)>);

impl HttpRequest {
    /// A request for a URL such as `https://api.example.com/search?q=1`; none if it is not one.
    pub fn new(method: &str, url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/{path}"),
        };
        (["http", "https"].contains(&&*scheme) && !authority.is_empty()).then(|| Self {
            method: method.to_owned(),
            scheme,
            authority: authority.to_owned(),
            path,
            ..Self::default()
        })
    }

    /// The port that its authority names.
    pub(super) fn port(&self) -> Option<u16> {
        let (host, port) = self.authority.rsplit_once(':')?;
        let in_brackets = host.starts_with('[') && !host.ends_with(']');
        port.parse().ok().filter(|_| !in_brackets)
    }
}

impl Unknown {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl<'c> Seen<'c> {
    /// Before any filter.
    pub(super) fn new(request: &HttpRequest) -> Self {
        let mut headers = Headers::default();
        for (name, value) in [
            (":method", &request.method),
            (":path", &request.path),
            (":authority", &request.authority),
            (":scheme", &request.scheme),
        ] {
            headers.add(name, Ok(value.clone()));
        }
        for (name, value) in &request.headers {
            headers.add(&name.to_ascii_lowercase(), Ok(value.trim().to_owned()));
        }
        let address = match request.client {
            Client::Unknown => Err(Unknown::new("nobody has said where the request comes from")),
            Client::Connection(address) | Client::Trusted(address) => Ok(address),
        };
        Self {
            headers,
            remote: address.clone(),
            direct: address,
            metadata: request.metadata.clone(),
            opaque: Vec::new(),
            virtual_host: None,
            route: None,
            hits: None,
            is_done: false,
        }
    }

    /// The hits of descriptors that do not say.
    pub(super) fn hits_addend(&self) -> u32 {
        let said = self.hits.as_ref().and_then(|hits| hits.as_ref().ok());
        said.and_then(|hits| hits.parse().ok()).unwrap_or(0)
    }

    /// The path with its query.
    pub(super) fn path(&self) -> String {
        let path = self.headers.first(":path").ok().flatten();
        path.unwrap_or("/").to_owned()
    }

    pub(super) fn query(&self) -> Query {
        Query::of(&self.path())
    }

    /// The metadata at the end of a way; `None` if it is not there.
    pub(super) fn metadata(&self, namespace: &str, way: &[String]) -> Known<Option<&Json>> {
        let found = self.metadata.get(namespace);
        let found = way
            .iter()
            .try_fold(found, |value, name| Some(value?.get(name)));
        match (found.flatten(), self.opaque.last()) {
            (None, Some(filter)) => Err(Unknown(format!(
                "the filter {filter} may set the metadata `{namespace}:{}`",
                way.join(":")
            ))),
            (found, _) => Ok(found),
        }
    }
}

impl Headers {
    fn named(&self, name: &str) -> impl Iterator<Item = &Known<String>> {
        let name = match name {
            "host" => ":authority",
            name => name,
        };
        let named = self.0.iter().filter(move |(other, _)| other == name);
        named.map(|(_, value)| value)
    }

    /// The first value of a header.
    pub(super) fn first(&self, name: &str) -> Known<Option<&str>> {
        let first = self.named(name).next().map(Result::as_ref);
        let first = first.transpose().map_err(Clone::clone)?;
        Ok(first.map(String::as_str))
    }

    /// All values of a header.
    pub(super) fn all(&self, name: &str) -> Known<Vec<&str>> {
        let all = self
            .named(name)
            .map(|value| value.as_deref().map_err(Clone::clone));
        all.collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    pub(super) fn add(&mut self, name: &str, value: Known<String>) {
        let name = match name {
            "host" => ":authority",
            name => name,
        };
        self.0.push((name.to_owned(), value));
    }

    pub(super) fn set(&mut self, name: &str, value: Known<String>) {
        self.remove(|other| other == name);
        self.add(name, value);
    }

    pub(super) fn remove(&mut self, is: impl Fn(&str) -> bool) {
        // The request cannot be without these.
        let stays = |name: &str| name.starts_with(':') || !is(name);
        if [":path", ":method", ":authority", ":scheme"]
            .iter()
            .any(|name| is(name))
        {
            self.0.retain(|(name, _)| !is(name));
        } else {
            self.0.retain(|(name, _)| stays(name));
        }
    }

    /// How many there are of clients' own.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl Query {
    /// Of a path with a query.
    pub(super) fn of(path: &str) -> Self {
        let path = path.split('#').next().unwrap_or_default();
        let query = path.split_once('?').map(|(_, query)| query);
        let pairs = query.unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        });
        Self(pairs.collect())
    }

    /// The first of a name, decoded.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let mut named = self.0.iter().filter(|(other, _)| decoded(other) == name);
        named.next().map(|(_, value)| decoded(value))
    }

    /// The first of a name, as it comes.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// With all decoded, as it is once a filter has changed it.
    pub(super) fn decoded(self) -> Self {
        let pairs = self.0.into_iter();
        Self(
            pairs
                .map(|(name, value)| (decoded(&name), decoded(&value)))
                .collect(),
        )
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| other != name);
    }

    pub(super) fn add(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    /// Put in the place of the query of a path, by name.
    pub(super) fn replace_in(mut self, path: &str) -> String {
        self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let pairs = self.0.iter().map(|(name, value)| format!("{name}={value}"));
        match self.0.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", pairs.collect::<Vec<_>>().join("&")),
        }
    }
}

/// Percent-encoded bytes as they are meant; what is no text then has marks in its place.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = after.get(..2).filter(|_| *first == b'%').and_then(hex);
        bytes.push(byte.unwrap_or(*first));
        rest = match byte {
            Some(_) => after.get(2..).unwrap_or_default(),
            None => after,
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Two hexadecimal digits.
pub(super) fn hex(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| all)
}
