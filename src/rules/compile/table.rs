//! Which fields may stand where.

/// What may stand in a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Domain,
    Response,
    Descriptor,
    Limit,
    Replaces,
    Messages,
    Cost,
    PlanChoice,
    Ban,
}

/// Fields that will mean something, and do not yet.
pub(super) const RESERVED: [&str; 1] = ["candidate"];

impl Table {
    pub(super) const ALL: [Table; 9] = [
        Table::Domain,
        Table::Response,
        Table::Descriptor,
        Table::Limit,
        Table::Replaces,
        Table::Messages,
        Table::Cost,
        Table::PlanChoice,
        Table::Ban,
    ];

    pub(super) fn fields(self) -> &'static [&'static str] {
        match self {
            Table::Domain => &[
                "domain",
                "time_zone",
                "partition_by",
                "sensitive",
                "failure_mode",
                "response",
                "costs",
                "plans",
                "descriptors",
            ],
            Table::Response => &["headers", "body", "messages"],
            Table::Descriptor => &[
                "key",
                "value",
                "cidr",
                "rate_limit",
                "rate_limits",
                "plan",
                "ban",
                "usage",
                "descriptors",
                "shadow_mode",
                "quota_mode",
                "detailed_metric",
                "value_to_metric",
                "share_threshold",
                "metadata",
            ],
            Table::Limit => &[
                "requests_per_unit",
                "unit",
                "unit_multiplier",
                "unlimited",
                "name",
                "replaces",
                "algorithm",
                "burst",
                "burst_multiplier",
                "charge",
                "failure_mode",
                "lease",
                "durability",
            ],
            Table::Replaces => &["name"],
            Table::Messages => &["rate_limit_exceeded", "monthly_quota_exceeded", "banned"],
            Table::Cost => &["key", "value", "cost"],
            Table::PlanChoice => &["from", "default"],
            Table::Ban => &["after", "within", "for", "max"],
        }
    }

    /// How a field of this table is placed, said to someone who has it elsewhere.
    pub(super) fn place(self) -> &'static str {
        match self {
            Table::Domain => "to the top of the file, beside `domain`",
            Table::Response => "into `response`",
            Table::Descriptor => "to the descriptor, beside `key`",
            Table::Limit => "into `rate_limit`",
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
            Table::Replaces => "an entry of `replaces`",
            Table::Messages => "`messages`",
            Table::Cost => "an entry of `costs`",
            Table::PlanChoice => "`plan`",
            Table::Ban => "`ban`",
        }
    }
}
