//! A request to what Tollgate is asked: through the listener's settings, its route, and its filters in their order.

use std::net::IpAddr;

use super::filters::{
    Filter, Kind, MILLION, PerFilter, RateLimitFilter, Requests, Said, VirtualHostLimits,
};
use super::jwt::Token;
use super::limits::RateLimit;
use super::read::{Addresses, Manager, Routes, Strip, Underscores};
use super::request::{Client, HttpRequest, Seen, Unknown};
use super::routes::{Entry, Found, Table, VirtualHost};
use super::{Call, Configuration, Dropped, Sent, paths};

impl Configuration {
    /// What Tollgate is asked for a request. The error is what keeps that from being known at all.
    pub fn requests(&self, request: &HttpRequest) -> Result<Sent, Unknown> {
        let manager = self.manager(request)?;
        let mut sent = Sent {
            listener: manager.name.clone(),
            ..Sent::default()
        };
        let mut seen = Seen::new(request);
        if let Err(ends) = manager.receive(request, &mut seen, &mut sent) {
            sent.ends = Some(ends);
            return Ok(sent);
        }
        let Routes::Table(table) = manager.routes else {
            return Err(Unknown(format!(
                "the routes of the listener `{}` come from a management server: give what `/config_dump` says, which has them",
                manager.name
            )));
        };
        let Some(table) = self.tables.get(table) else {
            return Ok(sent);
        };
        let (virtual_host, entry) = match table.find(&seen)? {
            Found::Route(virtual_host, entry) => (virtual_host, entry),
            Found::Nowhere(why) => {
                sent.ends = Some(why);
                return Ok(sent);
            }
        };
        sent.virtual_host = Some(virtual_host.name.clone());
        sent.route = Some(entry.line);
        seen.virtual_host = Some(virtual_host);
        seen.route = Some(entry);
        let way = Way {
            configuration: self,
            manager,
            table,
            virtual_host,
            entry,
        };
        way.filters(&mut seen, &mut sent);
        Ok(sent)
    }

    /// The manager that takes a request: that of the listener that is named, else of its port, else of its scheme.
    fn manager(&self, request: &HttpRequest) -> Result<&Manager, Unknown> {
        let asks = |manager: &&Manager| {
            manager
                .filters
                .iter()
                .any(|filter| matches!(filter.kind, Kind::RateLimit(_)))
        };
        let best = |is: &dyn Fn(&&Manager) -> bool| {
            let all = || self.managers.iter().filter(is);
            all().find(asks).or_else(|| all().next())
        };
        if let Some(name) = &request.listener {
            let named = best(&|manager| manager.name == *name);
            return named.ok_or_else(|| {
                let known = self.listeners().join("`, `");
                Unknown(format!("there is no listener `{name}`, but `{known}`"))
            });
        }
        let port = request.port();
        let of_port = port.and_then(|port| best(&|manager| manager.port == Some(port)));
        let has_tls = request.scheme == "https";
        let of_scheme = || best(&|manager| manager.has_tls == has_tls && asks(manager));
        let found = of_port.or_else(of_scheme).or_else(|| best(&|_| true));
        found.ok_or_else(|| Unknown::new("there is no listener"))
    }
}

impl Manager {
    /// What the connection manager does before it looks for a route. The error is what it answers itself.
    fn receive(
        &self,
        request: &HttpRequest,
        seen: &mut Seen<'_>,
        sent: &mut Sent,
    ) -> Result<(), String> {
        match self.underscores {
            Underscores::Stay => {}
            Underscores::Drop => seen.headers.remove(|name| name.contains('_')),
            Underscores::Reject => {
                if seen.headers.names().any(|name| name.contains('_')) {
                    return Err("a header's name has an underscore: Envoy answers 400".to_owned());
                }
            }
        }
        for mutations in &self.early {
            match mutations {
                Some(mutations) => mutations.apply(seen),
                None => sent.notes.push("an extension may change headers before all filters, and what it does is not computed here".to_owned()),
            }
        }
        self.strip_port(seen);
        self.find_address(request, seen);
        // A request has one of Envoy's own making, unless it brings one from within.
        seen.headers.set(
            "x-request-id",
            Err(Unknown::new("Envoy makes up `x-request-id`")),
        );
        if !seen.headers.has("x-forwarded-proto") || self.addresses.use_remote_address {
            seen.headers
                .set("x-forwarded-proto", Ok(request.scheme.clone()));
        }
        let path = self.paths.of(&seen.path())?;
        seen.headers.set(":path", Ok(path));
        Ok(())
    }

    fn strip_port(&self, seen: &mut Seen<'_>) {
        let Ok(Some(authority)) = seen.headers.first(":authority") else {
            return;
        };
        let host = paths::without_port(authority);
        let port = authority
            .get(host.len() + 1..)
            .and_then(|port| port.parse::<u16>().ok());
        let strips = match self.strips_port {
            Strip::Never => false,
            Strip::IfMatching => port == self.port,
            Strip::Always => true,
        };
        if strips {
            let host = host.to_owned();
            seen.headers.set(":authority", Ok(host));
        }
    }

    /// Of the connection, or of `x-forwarded-for`, which grows by the connection's.
    fn find_address(&self, request: &HttpRequest, seen: &mut Seen<'_>) {
        let Client::Connection(direct) = request.client else {
            if request.client != Client::Unknown {
                seen.direct = Err(Unknown::new(
                    "only the client's address is known, not the connection's",
                ));
            }
            return;
        };
        if self.addresses.has_detection {
            seen.remote = Err(Unknown::new(
                "an extension finds the client's address (original_ip_detection_extensions)",
            ));
            return;
        }
        let forwarded = seen.headers.all("x-forwarded-for").unwrap_or_default();
        let forwarded = forwarded.join(",");
        let forwarded = forwarded.split(',').map(str::trim);
        let forwarded: Vec<&str> = forwarded.filter(|one| !one.is_empty()).collect();
        let from_end = |place: usize| -> Option<IpAddr> {
            let place = forwarded.len().checked_sub(place)?;
            forwarded.get(place)?.parse().ok()
        };
        let Addresses {
            use_remote_address,
            trusted_hops,
            ..
        } = self.addresses;
        let trusted = match (use_remote_address, trusted_hops) {
            (true, 0) => None,
            (true, hops) => from_end(hops),
            (false, hops) => from_end(hops.saturating_add(1)),
        };
        seen.remote = Ok(trusted.unwrap_or(direct));
        if use_remote_address && !self.addresses.skips_append {
            let mut all: Vec<String> = forwarded.iter().map(|&one| one.to_owned()).collect();
            all.push(direct.to_string());
            seen.headers.set("x-forwarded-for", Ok(all.join(",")));
        }
    }
}

/// The way of a request that has a route.
#[derive(Clone, Copy)]
pub(super) struct Way<'c> {
    pub(super) configuration: &'c Configuration,
    pub(super) manager: &'c Manager,
    pub(super) table: &'c Table,
    pub(super) virtual_host: &'c VirtualHost,
    pub(super) entry: &'c Entry,
}

/// What a filter asks for on a route.
pub(super) struct Asked<'c> {
    pub(super) domain: &'c str,
    pub(super) rate_limits: Vec<&'c RateLimit>,
}

impl<'c> Way<'c> {
    /// What may say something of filters, the widest first.
    pub(super) fn levels(&self) -> [&'c PerFilter; 3] {
        [
            &self.table.per_filter,
            &self.virtual_host.per_filter,
            &self.entry.per_filter,
        ]
    }

    /// The request through all filters, and what is asked after its response.
    fn filters(&self, seen: &mut Seen<'c>, sent: &mut Sent) {
        let mut asked_later = Vec::new();
        for filter in &self.manager.filters {
            let said = filter.said(&self.levels());
            if !filter.is_on(&said) {
                continue;
            }
            if self.entry.per_cluster.names(&filter.name) {
                let note = format!(
                    "{} may be told otherwise by the one of the weighted clusters that Envoy takes",
                    filter.place()
                );
                sent.notes.push(note);
            }
            match &filter.kind {
                Kind::RateLimit(ratelimit) => {
                    if self.asks(ratelimit, filter, seen, sent) {
                        sent.calls.extend(self.call(filter, ratelimit, &said, seen));
                        asked_later.push((filter, ratelimit, said));
                    }
                }
                Kind::Jwt(jwt) => match jwt.apply(seen) {
                    Token::Missing => {}
                    Token::Read => sent.notes.push(format!(
                        "the token is taken for good: whether {} lets it pass is not looked at",
                        filter.place()
                    )),
                    Token::Broken if jwt.passes_failed => {}
                    Token::Broken => {
                        let why =
                            format!("the token cannot be read: {} refuses it", filter.place());
                        sent.ends = Some(why);
                        return;
                    }
                },
                Kind::Mutations(own) => {
                    own.apply(seen);
                    let routes = said.iter().filter_map(|said| match said {
                        Said::Mutations(mutations) => Some(mutations),
                        Said::Disabled | Said::RateLimit(_) | Said::Hits(_) | Said::Other => None,
                    });
                    let routes: Vec<_> = routes.collect();
                    let skipped = match own.most_specific_wins {
                        true => routes.len().saturating_sub(1),
                        false => 0,
                    };
                    routes
                        .iter()
                        .skip(skipped)
                        .for_each(|mutations| mutations.apply(seen));
                }
                Kind::SetMetadata(all) => all.iter().for_each(|one| one.write(seen)),
                Kind::Hits(own) => {
                    let route = said.iter().rev().find_map(|said| match said {
                        Said::Hits(format) => format.as_ref(),
                        Said::Disabled | Said::RateLimit(_) | Said::Mutations(_) | Said::Other => {
                            None
                        }
                    });
                    for format in own.iter().chain(route) {
                        let hits = format.of(seen);
                        if let Err(why) = &hits {
                            sent.notes.push(format!(
                                "the hits that {} sets are not known: {why}",
                                filter.place()
                            ));
                        }
                        seen.hits = Some(hits);
                    }
                }
                Kind::Cors => {
                    if is_preflight(seen) && !said.is_empty() {
                        let why = format!("a preflight of CORS: {} answers it", filter.place());
                        sent.ends = Some(why);
                        return;
                    }
                }
                Kind::Nothing => {}
                Kind::Opaque => {
                    seen.opaque.push(filter.place());
                    sent.notes.push(format!(
                        "what {} does to a request is not computed here",
                        filter.place()
                    ));
                }
                Kind::Router => break,
            }
        }
        seen.is_done = true;
        for (filter, ratelimit, said) in asked_later {
            sent.calls.extend(self.call(filter, ratelimit, &said, seen));
        }
    }

    /// Whether a filter is for this request at all.
    fn asks(
        &self,
        ratelimit: &RateLimitFilter,
        filter: &Filter,
        seen: &Seen<'_>,
        sent: &mut Sent,
    ) -> bool {
        let is_internal = self.is_internal(seen);
        let is_for = match ratelimit.requests {
            Requests::Both => true,
            Requests::Internal => is_internal,
            Requests::External => !is_internal,
        };
        if !is_for {
            let what = if is_internal { "internal" } else { "external" };
            sent.notes
                .push(format!("{} is not for {what} requests", filter.place()));
        }
        match ratelimit.enabled {
            0 => sent.notes.push(format!(
                "{} asks for no request (filter_enabled)",
                filter.place()
            )),
            enabled if enabled < MILLION => {
                let percent = enabled as f64 / (MILLION / 100) as f64;
                sent.notes.push(format!(
                    "{} asks for {percent} % of the requests (filter_enabled)",
                    filter.place()
                ));
            }
            _ => {}
        }
        is_for && ratelimit.enabled > 0
    }

    /// Whether the request comes straight from one of the addresses that are called internal; none is by itself.
    fn is_internal(&self, seen: &Seen<'_>) -> bool {
        let nets = &self.manager.addresses.internal;
        let forwarded = seen.headers.all("x-forwarded-for").unwrap_or_default();
        let is_direct = !forwarded.join(",").contains(',');
        let inside = |address: &IpAddr| nets.iter().any(|net| net.contains(address));
        is_direct && seen.remote.as_ref().is_ok_and(inside)
    }

    /// What a filter asks for: the most specific of its own lists, else those of the route and the virtual host.
    pub(super) fn asked(&self, ratelimit: &'c RateLimitFilter, said: &[&'c Said]) -> Asked<'c> {
        let route = said.iter().rev().find_map(|said| match said {
            Said::RateLimit(route) => Some(route),
            Said::Disabled | Said::Mutations(_) | Said::Hits(_) | Said::Other => None,
        });
        let domain = route.and_then(|route| route.domain.as_deref());
        let domain = domain.unwrap_or(&ratelimit.domain);
        let own = route
            .map(|route| &route.rate_limits)
            .filter(|own| !own.is_empty());
        let own = own.or_else(|| Some(&ratelimit.rate_limits).filter(|own| !own.is_empty()));
        if let Some(own) = own {
            let rate_limits = own.iter().collect();
            return Asked {
                domain,
                rate_limits,
            };
        }
        let of_route = &self.entry.rate_limits;
        let includes = match route.and_then(|route| route.virtual_host) {
            _ if self.entry.includes_virtual_host => true,
            Some(VirtualHostLimits::Include) => true,
            Some(VirtualHostLimits::Ignore) => false,
            Some(VirtualHostLimits::Override) | None => of_route.is_empty(),
        };
        let of_host = self.virtual_host.rate_limits.iter().filter(|_| includes);
        let all = of_route.iter().chain(of_host);
        let of_stage = all.filter(|limit| limit.stage == ratelimit.stage);
        let is_on = |limit: &&RateLimit| self.configuration.is_on(limit);
        Asked {
            domain,
            rate_limits: of_stage.filter(is_on).collect(),
        }
    }

    /// The call of a filter; none if it has nothing to ask.
    fn call(
        &self,
        filter: &Filter,
        ratelimit: &'c RateLimitFilter,
        said: &[&'c Said],
        seen: &Seen<'_>,
    ) -> Option<Call> {
        let asked = self.asked(ratelimit, said);
        let mut call = Call {
            filter: filter.place(),
            domain: asked.domain.to_owned(),
            on_stream_done: seen.is_done,
            hits_addend: seen.hits_addend(),
            descriptors: Vec::new(),
            dropped: Vec::new(),
            unknown: Vec::new(),
        };
        let now = asked
            .rate_limits
            .into_iter()
            .filter(|limit| limit.on_stream_done == seen.is_done);
        for limit in now {
            match limit.of(seen) {
                Ok(Ok(descriptor)) => call.descriptors.push(descriptor),
                Ok(Err(dropped)) => call.dropped.push(dropped),
                Err(Unknown(why)) => call.unknown.push(Dropped {
                    line: limit.line,
                    why,
                }),
            }
        }
        let says_nothing =
            call.descriptors.is_empty() && call.dropped.is_empty() && call.unknown.is_empty();
        (!says_nothing).then_some(call)
    }
}

impl Configuration {
    /// Whether the runtime leaves a rate limit on.
    fn is_on(&self, limit: &RateLimit) -> bool {
        let percent = limit.disable_key.as_ref().and_then(|key| {
            let key = format!("ratelimit.{key}.http_filter_enabled");
            self.runtime.number(&key)
        });
        percent != Some(0)
    }
}

/// Whether a browser asks whether it may ask.
fn is_preflight(seen: &Seen<'_>) -> bool {
    let method = seen.headers.first(":method");
    let asks = |name| seen.headers.has(name);
    method == Ok(Some("OPTIONS")) && asks("origin") && asks("access-control-request-method")
}
