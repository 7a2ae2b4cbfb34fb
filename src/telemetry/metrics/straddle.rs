//! Which hits of a request are near a limit and which are over it, as the reference counts them.

use super::RuleHits;
use crate::limit::Hits;

/// Splits `hits`, before which `before` were used, at a limit of `limit` whole hits and at `near_ratio` of it.
///
/// A request that goes over counts what is over, and of the rest what is near; a request within counts whole, and what of
/// it is near. What lies below the near part of a request that goes over is counted nowhere but in the total.
pub fn straddle(limit: u64, near_ratio: f32, before: Hits, hits: Hits) -> RuleHits {
    // The reference computes in 32 bits; so the border lies where its users know it. The last cast rounds down.
    let near = thousandths((limit as f32 * near_ratio) as u64);
    let limit = thousandths(limit);
    let after = before.plus(hits);
    let mut counted = RuleHits {
        total: hits,
        ..RuleHits::default()
    };
    if after > limit {
        if before >= limit {
            counted.over = hits;
        } else {
            counted.over = after.saturating_sub(limit);
            counted.near = limit.saturating_sub(near.max(before));
        }
    } else {
        counted.within = hits;
        if after > near {
            counted.near = if before >= near {
                hits
            } else {
                after.saturating_sub(near)
            };
        }
    }
    counted
}

fn thousandths(whole: u64) -> Hits {
    Hits::from_thousandths(whole.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TestNearLimit` of the reference: limit, before, hits; within, near, over.
    #[test]
    fn the_references_table() {
        for (limit, before, hits, within, near, over) in [
            (15, 10, 1, 1, 0, 0),
            (15, 12, 1, 1, 1, 0),
            (15, 15, 1, 0, 0, 1),
            (20, 2, 3, 3, 0, 0),
            (20, 14, 3, 3, 1, 0),
            (20, 16, 3, 3, 3, 0),
            (20, 19, 3, 0, 1, 2),
            (20, 15, 7, 0, 4, 2),
            (10, 0, 30, 0, 2, 20),
        ] {
            let counted = straddle(limit, 0.8, Hits::whole(before), Hits::whole(hits));
            let wanted = RuleHits {
                total: Hits::whole(hits),
                within: Hits::whole(within),
                near: Hits::whole(near),
                over: Hits::whole(over),
                shadow: Hits::ZERO,
            };
            assert_eq!(counted, wanted, "{limit} {before} {hits}");
        }
    }
}
