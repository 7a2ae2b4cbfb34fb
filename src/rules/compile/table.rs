//! Which fields may stand where, and what each may hold. A field is added here: the compiler refuses what is not in these
//! tables, the [schema](super::schema) for editors is made of them, and a test holds the reference against them.

use super::{domain, limit};
use crate::limit::{MAX_MULTIPLIER, Unit};

/// What may stand in a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Domain,
    Response,
    Descriptor,
    Limit,
    Candidate,
    Replaces,
    Messages,
    Cost,
    PlanChoice,
    Ban,
}

/// A field of a mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) holds: Holds,
    /// Without it the mapping is wrong.
    pub(super) required: bool,
    /// What it does, for who writes it in an editor.
    pub(super) about: &'static str,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    Text,
    Texts,
    Flag,
    /// A whole number within these.
    Number(u32, u32),
    /// With at most three decimals, and not below so many thousandths, which is 0 or 1.
    Decimal(u64),
    /// A length of time such as `90s`.
    Duration,
    /// A share such as `1%`.
    Share,
    /// An address, or a network of them.
    Network,
    Word(&'static [&'static str]),
    Words(&'static [&'static str]),
    One(Table),
    Several(Table),
    /// Names, each with limits.
    Plans,
    /// Any mapping.
    Anything,
}

/// The words alone of those that stand for something.
const fn names<T: Copy, const N: usize>(words: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut at = 0;
    while at < N {
        names[at] = words[at].0;
        at += 1;
    }
    names
}

/// As they stand in a rule file.
const UNITS: [&str; Unit::ALL.len()] = {
    let mut names = [""; Unit::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = Unit::ALL[at].name();
        at += 1;
    }
    names
};

const fn field(name: &'static str, holds: Holds, about: &'static str) -> Field {
    Field {
        name,
        holds,
        required: false,
        about,
    }
}

const fn required(name: &'static str, holds: Holds, about: &'static str) -> Field {
    Field {
        required: true,
        ..field(name, holds, about)
    }
}

const FAILURE_MODE: Holds = Holds::Word(&names(&limit::FAILURE_MODES));

#[rustfmt::skip]
const DOMAIN: &[Field] = &[
    required("domain", Holds::Text, "Which domain of Envoy's ratelimit filter the rules are for."),
    field("time_zone", Holds::Text, "Where days, weeks, months and years begin: a name of the IANA database, such as Europe/Berlin. UTC by default."),
    field("partition_by", Holds::Texts, "Entry keys: the first that a descriptor has places its counters, and all with the same value lie in one slot of a Redis Cluster."),
    field("sensitive", Holds::Texts, "Entry keys whose values are hashed wherever they would be seen."),
    field("failure_mode", FAILURE_MODE, "What decides while the store does not: let pass, refuse, or this instance's memory with its share of the limit (the default)."),
    field("response", Holds::One(Table::Response), "What clients are told."),
    field("costs", Holds::Several(Table::Cost), "What a request costs: the first that matches any entry of the request multiplies its hits."),
    field("plans", Holds::Plans, "Tiers that descriptors refer to by `plan`: names, each with a list of limits or `unlimited`."),
    field("descriptors", Holds::Several(Table::Descriptor), "What the first entry of a descriptor is looked for in."),
];

#[rustfmt::skip]
const RESPONSE: &[Field] = &[
    field("headers", Holds::Words(&names(&domain::HEADERS)), "Which headers are answered; `ratelimit` and `retry-after` by default."),
    field("body", Holds::Word(&names(&domain::BODIES)), "The body of a refusal: a JSON object (the default), RFC 9457 problem details, or Envoy's own."),
    field("messages", Holds::One(Table::Messages), "The texts in the body of a refusal."),
];

#[rustfmt::skip]
const DESCRIPTOR: &[Field] = &[
    required("key", Holds::Text, "The key of an entry that Envoy sends, such as `remote_address`."),
    field("value", Holds::Text, "The value of the entry; with `*` a pattern. Without it any value that nothing beside it matches, each with a counter of its own."),
    field("cidr", Holds::Network, "Matches values that are addresses in this network; in place of `value`."),
    field("rate_limit", Holds::One(Table::Limit), "The limit of each value."),
    field("rate_limits", Holds::Several(Table::Limit), "Several limits, charged together or not at all; each with another window or algorithm."),
    field("plan", Holds::One(Table::PlanChoice), "The limits are those of a plan."),
    field("ban", Holds::One(Table::Ban), "Who is refused often is refused for a while."),
    field("usage", Holds::Word(&names(&super::descriptor::PERIODS)), "Counts for billing what each value uses in such a calendar period, also without a limit."),
    field("descriptors", Holds::Several(Table::Descriptor), "What the next entry of the descriptor is looked for in."),
    field("shadow_mode", Holds::Flag, "Computed and counted, never refuses."),
    field("quota_mode", Holds::Flag, "A request is refused only when all such descriptors of it are over."),
    field("detailed_metric", Holds::Flag, "The rule's name in metrics has the values of the request, of all levels."),
    field("value_to_metric", Holds::Flag, "The rule's name in metrics has the value of this level."),
    field("share_threshold", Holds::Flag, "All values that match the pattern share one counter."),
    field("metadata", Holds::Anything, "Answered as dynamic metadata of requests that pass, with RESPONSE_DYNAMIC_METADATA=true."),
];

#[rustfmt::skip]
const LIMIT: &[Field] = &[
    field("requests_per_unit", Holds::Number(0, u32::MAX), "How many hits in a window; 0, the default, refuses always."),
    field("unit", Holds::Word(&UNITS), "The unit of the window. Days and longer are those of the calendar in `time_zone`; weeks begin on Monday."),
    field("unit_multiplier", Holds::Number(1, MAX_MULTIPLIER), "How many units the window has; 1 by default."),
    field("unlimited", Holds::Flag, "No limit, and nothing is charged; in place of all others but `name` and `replaces`."),
    field("name", Holds::Text, "What headers, metadata and the API call it; what `replaces`, grants and a subject's own numbers refer to."),
    field("replaces", Holds::Several(Table::Replaces), "Limits that do not count in requests in which this one does."),
    field("algorithm", Holds::Word(&names(&limit::KINDS)), "How hits are counted; `fixed_window` by default."),
    field("burst", Holds::Decimal(1), "How many hits a token bucket holds; `requests_per_unit` by default."),
    field("burst_multiplier", Holds::Decimal(1), "The burst as a multiple of `requests_per_unit`; 1 by default."),
    field("charge", Holds::Word(&names(&limit::CHARGES)), "`always`: charged even when the request is refused, and may go over."),
    field("failure_mode", FAILURE_MODE, "What decides while the store does not, if other than for the rest of the file."),
    field("lease", Holds::Share, "So much of the limit each instance takes in advance at most, and admits from memory; above 0% to 10%."),
    field("durability", Holds::Word(&names(&limit::DURABILITIES)), "`replicated`: a charge counts when a replica of Redis has it."),
    field("candidate", Holds::One(Table::Candidate), "A limit that is tried in place of this one: charged and reported beside it, and refuses nobody."),
];

#[rustfmt::skip]
const CANDIDATE: &[Field] = &[
    field("requests_per_unit", Holds::Number(0, u32::MAX), "How many hits in a window; as the limit by default."),
    field("unit", Holds::Word(&UNITS), "The unit of the window; as the limit by default."),
    field("unit_multiplier", Holds::Number(1, MAX_MULTIPLIER), "How many units the window has; as the limit by default."),
    field("unlimited", Holds::Flag, "Tries to have no limit; in place of all others."),
    field("algorithm", Holds::Word(&names(&limit::KINDS)), "How hits are counted; as the limit by default."),
    field("burst", Holds::Decimal(1), "How many hits a token bucket holds; as the limit by default."),
    field("burst_multiplier", Holds::Decimal(1), "The burst as a multiple of `requests_per_unit`; as the limit by default."),
    field("charge", Holds::Word(&names(&limit::CHARGES)), "`always`: charged even when the request is refused; as the limit by default."),
];

#[rustfmt::skip]
const MESSAGES: &[Field] = &[
    field("rate_limit_exceeded", Holds::Text, "Of a limit that is none of a month. {limit}, {window}, {plan}, {retry_after} and {reset_at} are filled in."),
    field("monthly_quota_exceeded", Holds::Text, "Of a limit with `unit: month`. {limit}, {window}, {plan}, {retry_after} and {reset_at} are filled in."),
    field("banned", Holds::Text, "Of a ban, or an entry of the list of the denied. {retry_after} and {reset_at} are filled in."),
];

#[rustfmt::skip]
const COST: &[Field] = &[
    required("key", Holds::Text, "The key of any entry of any descriptor."),
    field("value", Holds::Text, "Its value, which may have `*`; any by default."),
    required("cost", Holds::Decimal(0), "Multiplies the hits of every descriptor of the request; 0: nothing is charged, and no limit refuses."),
];

#[rustfmt::skip]
const BAN: &[Field] = &[
    required("after", Holds::Number(1, u32::MAX), "So many refusals."),
    required("within", Holds::Word(&UNITS), "In one such window, counted from the Unix epoch."),
    required("for", Holds::Duration, "How long the first ban lasts: `90s`, `15m`, `1h`, `7d`. Each further one lasts twice as long."),
    field("max", Holds::Duration, "How long a ban lasts at most; 24 times the first by default."),
];

const REPLACES: &[Field] = &[required(
    "name",
    Holds::Text,
    "The `name` of a limit that another descriptor of the same request may find.",
)];

#[rustfmt::skip]
const PLAN_CHOICE: &[Field] = &[
    required("from", Holds::Text, "Who names the plan: `directory` (the API has assigned it), or the key of a level above."),
    required("default", Holds::Text, "The plan of who has none, or one that is not in `plans`."),
];

impl Table {
    pub(super) const ALL: [Table; 10] = [
        Table::Domain,
        Table::Response,
        Table::Descriptor,
        Table::Limit,
        Table::Candidate,
        Table::Replaces,
        Table::Messages,
        Table::Cost,
        Table::PlanChoice,
        Table::Ban,
    ];

    pub(super) fn fields(self) -> &'static [Field] {
        match self {
            Table::Domain => DOMAIN,
            Table::Response => RESPONSE,
            Table::Descriptor => DESCRIPTOR,
            Table::Limit => LIMIT,
            Table::Candidate => CANDIDATE,
            Table::Replaces => REPLACES,
            Table::Messages => MESSAGES,
            Table::Cost => COST,
            Table::PlanChoice => PLAN_CHOICE,
            Table::Ban => BAN,
        }
    }

    pub(super) fn has(self, name: &str) -> bool {
        self.fields().iter().any(|field| field.name == name)
    }

    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        self.fields().iter().map(|field| field.name)
    }

    /// How a field of this table is placed, said to someone who has it elsewhere.
    pub(super) fn place(self) -> &'static str {
        match self {
            Table::Domain => "to the top of the file, beside `domain`",
            Table::Response => "into `response`",
            Table::Descriptor => "to the descriptor, beside `key`",
            Table::Limit => "into `rate_limit`",
            Table::Candidate => "into `candidate`",
            Table::Replaces => "into `replaces`",
            Table::Messages => "into `response.messages`",
            Table::Cost => "into `costs`",
            Table::PlanChoice => "into `plan`",
            Table::Ban => "into `ban`",
        }
    }

    /// What one may look like, where a line can show it.
    pub(super) fn example(self) -> Option<&'static str> {
        Some(match self {
            Table::Domain | Table::Response | Table::Messages => return None,
            Table::Descriptor => "- key: remote_address",
            Table::Limit => "{requests_per_unit: 10, unit: second}",
            Table::Candidate => "{requests_per_unit: 20}",
            Table::Replaces => "{name: NAME}",
            Table::Cost => "{key: path, value: /compare, cost: 2}",
            Table::PlanChoice => "{from: directory, default: free}",
            Table::Ban => "{after: 10000, within: minute, for: 1h, max: 24h}",
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Domain => "a rule file",
            Table::Response => "`response`",
            Table::Descriptor => "a descriptor",
            Table::Limit => "a rate limit",
            Table::Candidate => "`candidate`",
            Table::Replaces => "an entry of `replaces`",
            Table::Messages => "`messages`",
            Table::Cost => "an entry of `costs`",
            Table::PlanChoice => "`plan`",
            Table::Ban => "`ban`",
        }
    }
}
