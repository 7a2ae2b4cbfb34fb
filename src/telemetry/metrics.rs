//! stub
#![allow(missing_docs, clippy::all)]
use crate::limit::Hits;
#[derive(Debug, Default)]
pub struct Metrics;
#[derive(Debug, Default, Clone)]
pub struct RuleCounters;
#[derive(Debug, Default, Clone, Copy)]
pub struct RuleHits {
    pub total: Hits,
    pub within: Hits,
    pub near: Hits,
    pub over: Hits,
    pub shadow: Hits,
}
impl RuleCounters {
    pub fn add(&self, _h: RuleHits) {}
}
impl Metrics {
    pub fn rule(&self, _d: &str, _r: &str) -> RuleCounters {
        RuleCounters
    }
    pub fn decision(&self, _d: &str, _r: &'static str) {}
    pub fn global_shadow_mode(&self) {}
    pub fn domain_not_found(&self, _d: &str) {}
    pub fn store_error(&self, _k: &'static str) {}
    pub fn fallback(&self, _k: &'static str) {}
}
pub fn straddle(_l: u64, _n: f32, _b: Hits, _h: Hits) -> RuleHits {
    RuleHits::default()
}
