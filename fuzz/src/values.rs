//! Values of settings: durations, shares, switches, and where Redis is.

use std::time::Instant;

use tollgate::settings::values::{boolean, duration, period, ratio};
use tollgate::store::redis::settings::{Address, Credentials, Kind, Settings, Socket};

/// The text of one value.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = boolean(text);
    if let Ok(ratio) = ratio(text) {
        assert!((0.0..=1.0).contains(&ratio));
    }
    if let Ok(span) = duration(text) {
        // What each request does with it.
        let _ = Instant::now() + span.0;
        let _ = span.0.mul_f64(1.1);
    }
    if let Ok(period) = period(text) {
        assert!(!period.0.is_zero());
        assert_eq!(duration(text), Ok(period));
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    let credentials = Credentials::parse(text);
    assert!(["none", "hidden"].contains(&format!("{credentials:?}").as_str()));
    for kind in [Kind::Single, Kind::Sentinel, Kind::Cluster] {
        for socket in [Socket::Tcp, Socket::Unix] {
            let _ = Settings::parse(kind, socket, text);
        }
    }
}
