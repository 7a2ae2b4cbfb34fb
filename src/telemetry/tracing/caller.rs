//! What a caller says of its trace: the `traceparent` and the `tracestate` of the W3C.

use std::str::FromStr;

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The span that a decision is a child of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    trace: u128,
    span: u64,
    pub(super) is_sampled: bool,
}

/// How long a `traceparent` is; those of later versions may go on after a hyphen.
const LENGTH: usize = 55;

impl Caller {
    /// What the headers say; none if they name no span.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get("traceparent")?.as_bytes())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let (version, trace) = (number(known, 0, 2)?, number(known, 3, 32)?);
        let (span, flags) = (number(known, 36, 16)?, number(known, 53, 2)?);
        let hyphens = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|next| *next == b'-'),
        };
        (hyphens && ends && trace != 0 && span != 0).then_some(Self {
            trace,
            span: u64::try_from(span).ok()?,
            is_sampled: flags & 1 == 1,
        })
    }

    /// The same for OpenTelemetry, with what vendors add in `headers`.
    pub(super) fn context(self, headers: Option<&HeaderMap>) -> SpanContext {
        let state = headers.and_then(|headers| headers.get("tracestate"));
        let state = state.and_then(|state| TraceState::from_str(state.to_str().ok()?).ok());
        SpanContext::new(
            self.trace(),
            SpanId::from(self.span),
            TraceFlags::default().with_sampled(self.is_sampled),
            true,
            state.unwrap_or_default(),
        )
    }

    /// The trace.
    pub(super) fn trace(self) -> TraceId {
        TraceId::from(self.trace)
    }
}

/// The number that these many lower-case hexadecimal digits say.
fn number(text: &[u8], at: usize, digits: usize) -> Option<u128> {
    let digits = text.get(at..at + digits)?;
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &str = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

    #[test]
    fn a_caller_is_read_and_nonsense_is_none() {
        let parse = |text: String| Caller::parse(text.as_bytes());
        let read = parse(format!("00-{IDS}-01")).expect("a caller");
        let context = read.context(None);
        let said = format!("{}-{}", context.trace_id(), context.span_id());
        assert_eq!(said, IDS);
        assert!(context.is_sampled() && context.is_remote());
        for (version, flags, sampled) in [("00", "00", false), ("00", "03", true)] {
            let read = parse(format!("{version}-{IDS}-{flags}")).expect("a caller");
            assert_eq!(read.is_sampled, sampled);
        }
        // A later version may say more.
        assert!(parse(format!("cc-{IDS}-01-what")).is_some());
        for wrong in [
            String::new(),
            format!("00-{IDS}-01-what"),
            format!("cc-{IDS}-01what"),
            format!("ff-{IDS}-01"),
            format!("00-{}-01", IDS.to_uppercase()),
            format!("00_{IDS}-01"),
            format!("00-{}-01", IDS.replace('b', "g")),
            format!("00-{:032}-b7ad6b7169203331-01", 0),
            format!("00-0af7651916cd43dd8448eb211c80319c-{:016}-01", 0),
        ] {
            assert_eq!(Caller::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
