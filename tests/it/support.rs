//! What the tests share.

pub(crate) mod ads;
pub(crate) mod authority;
pub(crate) mod browser;
pub(crate) mod caller;
pub(crate) mod compose;
pub(crate) mod gateway;
pub(crate) mod golden;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod method;
pub(crate) mod model;
pub(crate) mod otlp;
pub(crate) mod poll;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod rules;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod token;
pub(crate) mod upstream;
pub(crate) mod workload;
