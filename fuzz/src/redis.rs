//! What Redis says: the bytes of a connection on which a few calls wait, and the same as the answer of a script.

use bytes::Bytes;
use tollgate::store::redis::untrusted;

use super::world;

/// What Redis says.
pub fn run(data: &[u8]) {
    untrusted::read(&Bytes::copy_from_slice(data));
    let answers = world::wait(untrusted::answers(data)).expect("a socket");
    for answer in answers {
        untrusted::read(&answer);
    }
}
