//! Tokens for the sample gateway, signed with its published sample key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tollgate::time::Clock;

/// A good token for an hour, as an `authorization` header; `claims` are an object, and stand in place of its own.
pub(crate) fn bearer(claims: &Value) -> String {
    let now = Clock::System.now().as_micros() / 1_000_000;
    let mut all = json!({
        "iss": "https://id.example.com",
        "aud": "product",
        "exp": now + 3600,
    });
    for (name, value) in claims.as_object().expect("claims") {
        all[name] = value.clone();
    }
    let head = json!({"alg": "RS256", "typ": "JWT", "kid": "sample"});
    let parts = [head, all].map(|part| BASE64.encode(part.to_string()));
    let signed = parts.join(".");
    format!("Bearer {signed}.{}", BASE64.encode(signature(&signed)))
}

fn signature(text: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/sample-key.pem");
    let key = PrivatePkcs8KeyDer::from_pem_file(path).expect("a key");
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("an RSA key");
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        text.as_bytes(),
        &mut signature,
    )
    .expect("a signature");
    signature
}
