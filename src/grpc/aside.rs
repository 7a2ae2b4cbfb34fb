//! Calls of health and reflection: tonic's services, on a stream of HTTP/2.

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tonic::service::Routes;
use tower::Service;

use super::stream::{Caller, Incoming};

/// Answers a call as `services` do.
pub(super) async fn answer(mut services: Routes, request: Request<RecvStream>, mut caller: Caller) {
    let request = request.map(|body| tonic::body::Body::new(Incoming::new(body)));
    if let Some(Ok(response)) = caller.waits_for(services.call(request)).await {
        let (head, body) = response.into_parts();
        say(caller, Response::from_parts(head, ()), body).await;
    }
}

/// Sends a response as it comes; none if the caller goes before it ends.
async fn say(
    caller: Caller,
    head: Response<()>,
    mut body: impl Body<Data = Bytes> + Unpin,
) -> Option<()> {
    if body.is_end_stream() {
        caller.end(head);
        return Some(());
    }
    let mut answer = caller.begin(head)?;
    loop {
        let frame = match answer.next(&mut body).await? {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                answer.fail();
                return Some(());
            }
            None => {
                answer.end(HeaderMap::new());
                return Some(());
            }
        };
        match frame.into_data() {
            Ok(data) => answer.send(data).await?,
            Err(frame) => {
                answer.end(frame.into_trailers().unwrap_or_default());
                return Some(());
            }
        }
    }
}
