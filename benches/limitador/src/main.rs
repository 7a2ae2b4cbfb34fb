//! Limitador as a service, for `benches/rivals`: `limitador-beside ADDRESS LIMITS [REDIS_URL]`.
//!
//! Limitador publishes its library, not its server, so this is the library behind tonic, used as the server's source uses it: one thread, the
//! entries of each descriptor as a map in the list `descriptors`, one check and update for each request. What the server does beyond
//! that is left out, which is in its favour: metrics, spans and the HTTP API. Headers are left out too, as is its default.
//! LIMITS is the server's own file of limits, as JSON.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use limitador::limit::{Context, Limit};
use limitador::storage::AsyncStorage;
use limitador::storage::redis::AsyncRedisStorage;
use limitador::{AsyncRateLimiter, AsyncRateLimiterBuilder, RateLimiter};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Counters that the store in memory holds; the server's default is what fits into the machine's memory.
const COUNTERS: u64 = 20_000_000;

/// By store: as in the server, the one in memory is asked, and Redis is awaited.
enum Limitador {
    InMemory(Box<RateLimiter>),
    InRedis(Box<AsyncRateLimiter>),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (address, limits, redis) = match args.as_slice() {
        [address, limits] => (address, limits, None),
        [address, limits, redis] => (address, limits, Some(redis)),
        _ => return Err("usage: limitador-beside ADDRESS LIMITS [REDIS_URL]".into()),
    };
    let limits: Vec<Limit> = serde_json::from_reader(File::open(limits)?)?;
    let limitador = match redis {
        None => {
            let limiter = RateLimiter::new(COUNTERS);
            limiter.configure_with(limits)?;
            Limitador::InMemory(Box::new(limiter))
        }
        Some(url) => {
            let storage =
                AsyncStorage::with_counter_storage(Box::new(AsyncRedisStorage::new(url).await?));
            let limiter = AsyncRateLimiterBuilder::new(storage).build();
            limiter.configure_with(limits).await?;
            Limitador::InRedis(Box::new(limiter))
        }
    };
    Server::builder()
        .add_service(RateLimitServiceServer::new(limitador))
        .serve(address.parse()?)
        .await?;
    Ok(())
}

#[tonic::async_trait]
impl RateLimitService for Limitador {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let descriptors: Vec<HashMap<String, String>> = request
            .descriptors
            .into_iter()
            .map(|descriptor| {
                descriptor
                    .entries
                    .into_iter()
                    .map(|entry| (entry.key, entry.value))
                    .collect()
            })
            .collect();
        let mut context = Context::default();
        context.list_binding("descriptors".to_string(), descriptors);
        let namespace = request.domain.into();
        let hits = u64::from(request.hits_addend.max(1));
        let result = match self {
            Limitador::InMemory(limiter) => {
                limiter.check_rate_limited_and_update(&namespace, &context, hits)
            }
            Limitador::InRedis(limiter) => {
                limiter
                    .check_rate_limited_and_update(&namespace, &context, hits)
                    .await
            }
        };
        let result = result.map_err(|error| Status::unavailable(error.to_string()))?;
        let code = if result.limited {
            Code::OverLimit
        } else {
            Code::Ok
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            ..RateLimitResponse::default()
        }))
    }
}
