//! The kinds of diagnostics, under names that stay: what machines tell them apart by, and people look up in docs/lints.md.

use super::Severity;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The text is no YAML.
    NotYaml,
    /// The text is not UTF-8.
    NotUtf8,
    /// It is a file of another kind.
    NotRules,
    /// A field that there is not.
    UnknownField,
    /// A field of another place.
    MisplacedField,
    /// A field that has to be there.
    MissingField,
    /// A field that stands twice.
    SaidTwice,
    /// A list, a mapping or a scalar in place of one of the others.
    WrongKind,
    /// A value that its field does not take.
    InvalidValue,
    /// A name that nothing has.
    UnknownName,
    /// Fields that exclude each other.
    Conflict,
    /// A descriptor, domain or plan that stands twice.
    Duplicate,
    /// A rule that no descriptor can find.
    NeverMatches,
    /// A descriptor that keeps others from being found.
    HidesRule,
    /// A descriptor without any effect.
    LimitsNothing,
    /// A domain without rules.
    EmptyDomain,
    /// A limit that another makes needless.
    NeverRefuses,
    /// A limit that admits nothing.
    AlwaysRefuses,
    /// A cost that a limit cannot hold.
    NeverFits,
    /// A cost that no request has.
    UnusedCost,
    /// A name under `replaces` that no limit has.
    UnknownReplaced,
    /// Limits that replace each other.
    ReplacesEachOther,
    /// Two rules with one counter.
    SharedCounter,
    /// A plan that nobody can have.
    UnusedPlan,
    /// A value that names a plan, and there is none.
    UnknownPlan,
    /// A paid plan that allows less than one that is free.
    InvertedPlans,
    /// A plan that clients choose.
    ClientPlan,
    /// A lease that has no effect.
    IdleLease,
    /// A ban that bans nobody.
    IdleBan,
    /// A key under `partition_by` or `sensitive` that no descriptor has.
    UnknownKey,
    /// A key that is nearly one that Envoy sends.
    MisspelledKey,
    /// A value that is written as a regular expression.
    RegexValue,
    /// A path with places to be filled in.
    PathTemplate,
    /// A network that is compared as text.
    NetworkAsText,
    /// A template that has not been filled in.
    UnfilledTemplate,
    /// Spaces, quotes or invisible characters where they cannot be meant.
    StrayCharacter,
    /// A field that is there and says nothing.
    EmptyValue,
    /// A number that is written in an unusual way.
    OddNumber,
    /// A candidate that is its limit again.
    SameCandidate,
    /// A domain that no ratelimit filter of Envoy asks for.
    UnaskedDomain,
    /// A rule that no action of Envoy feeds.
    UnfedRule,
    /// A ratelimit filter whose domain has no rules.
    UnknownDomain,
    /// A descriptor that Envoy sends, and no rule answers.
    UnansweredDescriptor,
    /// Rate limits of Envoy that no ratelimit filter looks at.
    UnusedAction,
    /// What Envoy takes, and does not do.
    IgnoredByEnvoy,
    /// Rules of one subject in several slots.
    SplitRequest,
}

impl Code {
    /// All of them, errors first.
    pub const ALL: [Code; 46] = [
        Code::NotYaml,
        Code::NotUtf8,
        Code::NotRules,
        Code::UnknownField,
        Code::MisplacedField,
        Code::MissingField,
        Code::SaidTwice,
        Code::WrongKind,
        Code::InvalidValue,
        Code::UnknownName,
        Code::Conflict,
        Code::Duplicate,
        Code::NeverMatches,
        Code::HidesRule,
        Code::LimitsNothing,
        Code::EmptyDomain,
        Code::NeverRefuses,
        Code::AlwaysRefuses,
        Code::NeverFits,
        Code::UnusedCost,
        Code::UnknownReplaced,
        Code::ReplacesEachOther,
        Code::SharedCounter,
        Code::UnusedPlan,
        Code::UnknownPlan,
        Code::InvertedPlans,
        Code::ClientPlan,
        Code::IdleLease,
        Code::IdleBan,
        Code::UnknownKey,
        Code::MisspelledKey,
        Code::RegexValue,
        Code::PathTemplate,
        Code::NetworkAsText,
        Code::UnfilledTemplate,
        Code::StrayCharacter,
        Code::EmptyValue,
        Code::OddNumber,
        Code::SameCandidate,
        Code::UnaskedDomain,
        Code::UnfedRule,
        Code::UnknownDomain,
        Code::UnansweredDescriptor,
        Code::UnusedAction,
        Code::IgnoredByEnvoy,
        Code::SplitRequest,
    ];

    /// Those that only `--envoy` finds.
    pub const OF_ENVOY: [Code; 6] = [
        Code::UnaskedDomain,
        Code::UnfedRule,
        Code::UnknownDomain,
        Code::UnansweredDescriptor,
        Code::UnusedAction,
        Code::IgnoredByEnvoy,
    ];

    /// Its name, which stays.
    pub const fn name(self) -> &'static str {
        self.named().1
    }

    /// What it tells, in a sentence.
    pub const fn about(self) -> &'static str {
        self.named().2
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        self.named().0
    }

    const fn named(self) -> (Severity, &'static str, &'static str) {
        match self {
            Code::NotYaml => (Severity::Error, "not-yaml", "The file is not YAML."),
            Code::NotUtf8 => (
                Severity::Error,
                "not-utf8",
                "The file is not text in UTF-8.",
            ),
            Code::NotRules => (Severity::Error, "not-rules", "The file is of another kind."),
            Code::UnknownField => (Severity::Error, "unknown-field", "There is no such field."),
            Code::MisplacedField => (
                Severity::Error,
                "misplaced-field",
                "The field belongs elsewhere.",
            ),
            Code::MissingField => (Severity::Error, "missing-field", "A field has to be there."),
            Code::SaidTwice => (Severity::Error, "said-twice", "A field stands twice."),
            Code::WrongKind => (
                Severity::Error,
                "wrong-kind",
                "A list, a mapping or a scalar is wanted.",
            ),
            Code::InvalidValue => (
                Severity::Error,
                "invalid-value",
                "The field does not take this value.",
            ),
            Code::UnknownName => (Severity::Error, "unknown-name", "Nothing has this name."),
            Code::Conflict => (Severity::Error, "conflict", "These do not go together."),
            Code::Duplicate => (Severity::Error, "duplicate", "The same thing stands twice."),
            Code::NeverMatches => (
                Severity::Warning,
                "never-matches",
                "No request can find the rule.",
            ),
            Code::HidesRule => (
                Severity::Warning,
                "hides-rule",
                "It keeps another rule from being found.",
            ),
            Code::LimitsNothing => (
                Severity::Warning,
                "limits-nothing",
                "The descriptor has no effect.",
            ),
            Code::EmptyDomain => (
                Severity::Warning,
                "empty-domain",
                "The domain has no rules.",
            ),
            Code::NeverRefuses => (
                Severity::Warning,
                "never-refuses",
                "Another limit always refuses first.",
            ),
            Code::AlwaysRefuses => (
                Severity::Warning,
                "always-refuses",
                "The limit admits no request.",
            ),
            Code::NeverFits => (
                Severity::Warning,
                "never-fits",
                "A request costs more than the limit holds.",
            ),
            Code::UnusedCost => (
                Severity::Warning,
                "unused-cost",
                "No request has this cost.",
            ),
            Code::UnknownReplaced => (
                Severity::Warning,
                "unknown-replaced",
                "What is replaced is not there.",
            ),
            Code::ReplacesEachOther => (
                Severity::Warning,
                "replaces-each-other",
                "Neither limit counts.",
            ),
            Code::SharedCounter => (
                Severity::Warning,
                "shared-counter",
                "Two rules have one counter.",
            ),
            Code::UnusedPlan => (
                Severity::Warning,
                "unused-plan",
                "Nobody can have the plan.",
            ),
            Code::UnknownPlan => (
                Severity::Warning,
                "unknown-plan",
                "The value names no plan.",
            ),
            Code::InvertedPlans => (
                Severity::Warning,
                "inverted-plans",
                "A paid plan allows less than a free one.",
            ),
            Code::ClientPlan => (
                Severity::Warning,
                "client-plan",
                "Clients choose their own plan.",
            ),
            Code::IdleLease => (Severity::Warning, "idle-lease", "The lease has no effect."),
            Code::IdleBan => (Severity::Warning, "idle-ban", "The ban bans nobody."),
            Code::UnknownKey => (
                Severity::Warning,
                "unknown-key",
                "No descriptor has this key.",
            ),
            Code::MisspelledKey => (
                Severity::Warning,
                "misspelled-key",
                "Envoy spells this key otherwise.",
            ),
            Code::RegexValue => (
                Severity::Warning,
                "regex-value",
                "A value is no regular expression.",
            ),
            Code::PathTemplate => (
                Severity::Warning,
                "path-template",
                "A value has no places to fill in.",
            ),
            Code::NetworkAsText => (
                Severity::Warning,
                "network-as-text",
                "A network is compared as text.",
            ),
            Code::UnfilledTemplate => (
                Severity::Warning,
                "unfilled-template",
                "A template is not filled in.",
            ),
            Code::StrayCharacter => (
                Severity::Warning,
                "stray-character",
                "A character that cannot be meant.",
            ),
            Code::EmptyValue => (Severity::Warning, "empty-value", "The field says nothing."),
            Code::OddNumber => (
                Severity::Warning,
                "odd-number",
                "The number is easily misread.",
            ),
            Code::SameCandidate => (
                Severity::Warning,
                "same-candidate",
                "The candidate is the limit itself.",
            ),
            Code::UnaskedDomain => (
                Severity::Warning,
                "unasked-domain",
                "No ratelimit filter asks for the domain.",
            ),
            Code::UnfedRule => (
                Severity::Warning,
                "unfed-rule",
                "No action of Envoy feeds the rule.",
            ),
            Code::UnknownDomain => (
                Severity::Warning,
                "unknown-domain",
                "No rules are for the domain of a filter.",
            ),
            Code::UnansweredDescriptor => (
                Severity::Warning,
                "unanswered-descriptor",
                "No rule answers what Envoy sends.",
            ),
            Code::UnusedAction => (
                Severity::Warning,
                "unused-action",
                "No ratelimit filter looks at these rate limits.",
            ),
            Code::IgnoredByEnvoy => (
                Severity::Warning,
                "ignored-by-envoy",
                "Envoy takes it, and does not do what it says.",
            ),
            Code::SplitRequest => (
                Severity::Note,
                "split-request",
                "One subject's rules lie in several slots.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert_eq!(Code::Duplicate.severity(), Severity::Error);
        assert_eq!(Code::NeverMatches.severity(), Severity::Warning);
    }
}
